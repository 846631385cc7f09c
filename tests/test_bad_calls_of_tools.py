"""Bad calls of `analysis`, `problems`, `sharding` and `state_bytes`: one clear error each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from adashift_optax import analysis, problems, state_bytes
from adashift_optax.sharding import opt_state_shardings

ONES, INTS = np.ones(3, np.float32), np.ones(3, np.int32)
MATRIX = np.ones((3, 4), np.float32)
TREE = {"a": MATRIX, "b": MATRIX}
KEY = jax.random.key(0)
V, T = ValueError, TypeError
ADAM = optax.adam(0.1)
TX = "tx must be an optax.GradientTransformation; got 3"
lags, cycle = analysis.lagged_correlation, analysis.sequential_second_moment
factors, correlation = analysis.net_update_factors, analysis.correlation
FLOATS = r"grads must be a float array with time first.*int32\[3\]"


def path(steps=4, key=KEY, every=1, problem=None, tx=None):
    problem, tx = problem or problems.sequential(), tx or optax.sgd(0.1)
    return lambda: problems.trajectory(problem, tx, steps, key, every)


def placed(rest):
    sharding = NamedSharding(jax.make_mesh((1,), ("x",)), PartitionSpec("x"))
    return {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding), "rest": rest}


TOOLS = {
    "factors of no tx": (lambda: factors(3, ONES), T, TX),
    "factors of ints": (lambda: factors(ADAM, INTS), V, FLOATS),
    "cycle of 0": (lambda: cycle(10.0, 0, 0.9), V, "d must be an int in .1, .*got 0"),
    "correlation of shapes": (lambda: correlation(MATRIX, MATRIX[:, :2]), V, r"\[3, 2\] for"),
    "correlation of ranks": (lambda: correlation(MATRIX[:, :3], ONES), V, r"\[3\] for \[3, 3\]"),
    "correlation of complex": (lambda: correlation(ONES * 1j, ONES), T, "real; got complex64 and"),
    "lag 0": (lambda: lags(jnp.arange(5.0), (0,)), V, "lags must be a tuple of ints"),
    "no nu": (lambda: analysis.second_moments(optax.sgd(0.1).init(TREE), TREE), V, "one v"),
    "d below 0": (lambda: problems.stochastic(d=-0.5), V, r"d must be finite and in \[0, inf\)"),
    "C zero": (lambda: problems.stochastic(C=0), V, "C must be > 0 and .*got C=0"),
    "d one": (lambda: problems.sequential(d=1), V, "d must be an int in .2, .*got 1. Pass"),
    "steps negative": (path(-2), V, "steps must be an int in .*got -2"),
    "steps 7": (path(7, every=3), V, "a multiple .*steps=7, every=3.*steps=6"),
    "key int": (path(key=7), T, "key must be one of jax.random; got 7"),
    "no problem": (path(problem=3), T, "problem must be a Problem; got 3"),
    "shardings of no tx": (lambda: opt_state_shardings(3, placed(ONES)), T, TX),
    "sharding of text": (lambda: opt_state_shardings(ADAM, placed("x")), T, "arrays .*'x' at "),
    "sharding of None": (lambda: opt_state_shardings(ADAM, None), V, "on one mesh; got 0 meshes"),
    "bytes of text": (lambda: state_bytes(ADAM, {"a": "x"}), T, "must be arrays .*'x' at .'a'"),
}


@pytest.mark.parametrize("case", TOOLS)
def test_bad_call(case):
    call, error, message = TOOLS[case]
    with pytest.raises(error, match=f"(?s){message}") as e:
        call()
    assert e.type is error  # not one of JAX's or NumPy's that derives from it
