"""Hostile input ends in one clear error or in documented finite behaviour, never in a silent wrong
update. The bad calls of optimizers are the table in `hostile.py`."""

import hostile
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hostile import KEY, MATRIX, ONES, TREE, T, V
from jax.sharding import NamedSharding, PartitionSpec

from adashift_optax import adashift, adashiftw, analysis, problems, scale_by_adashift, state_bytes
from adashift_optax.sharding import opt_state_shardings

MAX = 2**31 - 1


def placed(rest):
    sharding = NamedSharding(jax.make_mesh((1,), ("x",)), PartitionSpec("x"))
    return {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding), "rest": rest}


def path(steps=4, key=KEY, every=1, problem=None, tx=None):
    return problems.trajectory(
        problem or problems.sequential(), tx or optax.sgd(0.1), steps, key, every
    )


def moments(tx, params, state=None):
    return analysis.second_moments(state or tx.init(params), params)


TX = "tx must be an optax.GradientTransformation; got 3"
T0 = "must be a float array with time first.*got "
LAGS = "lags must be a tuple of ints in .1, T - 2.; got "
ADAM = optax.adam(0.1)
lags = analysis.lagged_correlation
cycle, factors = analysis.sequential_second_moment, analysis.sequential_net_update_factors

TOOLS = {
    "factors of no tx": (lambda: analysis.net_update_factors(3, ONES), T, TX),
    "factors of a scalar": (lambda: analysis.net_update_factors(ADAM, 1.0), V, "grads " + T0),
    "factors of nothing": (lambda: analysis.net_update_factors(ADAM, ONES[:0]), V, "grads " + T0),
    "factors of ints": (
        lambda: analysis.net_update_factors(ADAM, np.arange(3)),
        V,
        rf"grads {T0}int32\[3\]",
    ),
    "cycle of 0": (lambda: cycle(10.0, 0, 0.9), V, "d must be an int in .1, .*got 0"),
    "cycle of 2.5": (lambda: factors(10.0, 2.5, 0.9, 0.9), V, "d must be an int .*got 2.5"),
    "cycle of text": (lambda: cycle("x", 3, 0.9), T, "C must be a real scalar; got 'x'"),
    "b2 one": (lambda: cycle(10.0, 3, 1.0), V, r"b2 must be in \[0, 1\); got 1.0"),
    "b1 one": (lambda: factors(10.0, 3, 1.0, 0.9), V, r"b1 must be in \[0, 1\); got 1.0"),
    "correlation of one step": (lambda: analysis.correlation(ONES[:1], ONES[:1]), V, "x " + T0),
    "correlation of ints": (lambda: analysis.correlation(np.arange(3), ONES), V, "x " + T0),
    "correlation of text": (lambda: analysis.correlation(ONES, "abc"), V, "y " + T0),
    "correlation of shapes": (
        lambda: analysis.correlation(MATRIX, MATRIX[:, :2]),
        V,
        r"y must have .* as x .*got \[3, 2\] for \[3, 4\]",
    ),
    "correlation of steps": (lambda: analysis.correlation(ONES, MATRIX[0]), V, "y must have .* as"),
    "larger y": (lambda: analysis.correlation(MATRIX[:, :1], MATRIX), V, "y must have .* as x"),
    "lag 0": (lambda: lags(jnp.arange(5.0), (0,)), V, LAGS),
    "lag -1": (lambda: lags(jnp.arange(5.0), (-1,)), V, LAGS + ".*-1.*T = 5"),
    "lag too long": (lambda: lags(jnp.arange(5.0), (4,)), V, LAGS),
    "lags none": (lambda: lags(jnp.arange(5.0), ()), V, LAGS),
    "lags int": (lambda: lags(jnp.arange(5.0), 1), V, LAGS + "1 for"),
    "no nu": (lambda: moments(optax.sgd(0.1), TREE), V, r"state must hold one v .*got \[\] for 2"),
    "two nu": (lambda: moments(optax.chain(ADAM, ADAM), TREE), V, "one nu in it; got several"),
    "nu of others": (
        lambda: moments(ADAM, MATRIX, ADAM.init(ONES)),
        V,
        r"params must be those .*got one of shape \[3, 4\] for a v of \[3\]",
    ),
    "C negative": (lambda: problems.stochastic(C=-1.0), V, "C must be finite and >= 0; got -1.0"),
    "C zero": (lambda: problems.stochastic(C=0), V, "C must be > 0 and d at most C.*got C=0"),
    "C text": (lambda: problems.stochastic(C="x"), T, "C must be a real scalar; got 'x'"),
    "d above C": (lambda: problems.stochastic(d=1e3), V, "no probability; got .*d=1000"),
    "d below -1": (lambda: problems.stochastic(d=-2), V, "d must be finite and >= -1; got -2"),
    "d one": (lambda: problems.sequential(d=1), V, "d must be an int in .2, .*got 1. Pass"),
    "d float": (lambda: problems.sequential(d=2.5), V, "d must be an int in .*got 2.5"),
    "C1 text": (lambda: problems.sequential(C1="x"), T, "C1 must be a real scalar; got 'x'"),
    "steps negative": (lambda: path(-2), V, "steps must be an int in .*got -2"),
    "steps float": (lambda: path(2.0), V, "steps must be an int in .*got 2.0"),
    "steps huge": (lambda: path(2**31), V, "steps must be an int in .*got 2147483648"),
    "every zero": (lambda: path(every=0), V, "every must be an int in .1, .*got 0"),
    "every negative": (lambda: path(every=-2), V, "every must be an int in .1, .*got -2"),
    "key int": (lambda: path(key=7), T, "key must be one of jax.random; got 7"),
    "no problem": (lambda: path(problem=3), T, "problem must be a Problem; got 3"),
    "path of no tx": (lambda: path(tx=3), T, TX),
    "shardings of no tx": (lambda: opt_state_shardings(3, placed(ONES)), T, TX),
    "sharding of text": (lambda: opt_state_shardings(ADAM, placed("x")), T, "arrays .*'x' at .*re"),
    "sharding of float": (
        lambda: opt_state_shardings(ADAM, placed(1.0)),
        T,
        "arrays .*1.0 at .*re",
    ),
    "sharding of None": (lambda: opt_state_shardings(ADAM, None), V, "on one mesh; got 0 meshes"),
    "bytes of no tx": (lambda: state_bytes(3, ONES), T, TX),
    "bytes of text": (lambda: state_bytes(ADAM, {"a": "x"}), T, "must be arrays .*'x' at .'a'"),
}


@pytest.mark.parametrize("case", [*hostile.BAD, *TOOLS])
def test_bad_call(case):
    call, error, message = {**hostile.BAD, **TOOLS}[case]
    with jax.numpy_dtype_promotion("standard"), pytest.raises(error, match=f"(?s){message}") as e:
        call()
    assert e.type is error  # not one of JAX's or NumPy's that derives from it


OTHERS = [{}, {"window": "hopping"}, {"b1": 0}]
OTHERS += [{"queue_dtype": "bfloat16"}, {"queue_dtype": "float8_e4m3fn"}]
OTHERS += [{"window": "ema"}, {"window": "ema", "mu_dtype": "bfloat16"}, {"warm_start": True}]
VARIANTS = [{"phi": phi, **o} for phi in ("max", "mean", "none", "factored") for o in OTHERS]
FINITE = ["denormal", "tiny", "1e38", "largest", "minus largest"]
NOT_FINITE = {"NaN": np.nan, "inf": np.inf, "minus inf": -np.inf}
DTYPES = {"narrow": ["float16", "bfloat16", "float32", "complex64"], "float64": ["float64"]}


def extreme(name, dtype):
    info = jnp.finfo(dtype)
    largest = float(info.max)
    return {
        "denormal": float(info.smallest_subnormal),
        "tiny": float(info.tiny),
        "1e38": min(1e38, largest),
        "largest": largest,
        "minus largest": -largest,
        **NOT_FINITE,
    }[name]


@pytest.mark.parametrize(
    ("kwargs", "dtypes"),
    [(kwargs, "narrow") for kwargs in VARIANTS] + [(kwargs, "float64") for kwargs in VARIANTS[::3]],
    ids=str,
)
def test_extreme_gradients(kwargs, dtypes, x64):
    """Finite gradients give finite updates. One that is not shows at once; v stays finite; with
    the hopping window it is gone after n steps, and other elements never see it."""
    n, names, tree = 3, [*FINITE, *NOT_FINITE], {}
    at = 1 if "warm_start" in kwargs else 2 * n
    for dtype in DTYPES[dtypes]:
        if dtype != "complex64" or not {"queue_dtype", "mu_dtype"} & kwargs.keys():
            grads = np.ones((len(names), 4 * n, 2, 2))  # of ones but for one element of one step
            grads[:, at, 0, 0] = [extreme(name, dtype) for name in names]
            tree[dtype] = jnp.asarray(grads, dtype)
    tx = scale_by_adashift(n, **kwargs)

    def run(grads):
        state = tx.init(jax.tree.map(lambda g: g[0], grads))
        return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], state, grads)

    state, updates = jax.jit(jax.vmap(run))(tree)
    assert all(np.isfinite(c).all() for c in jax.tree.leaves(state.nu))
    bad = len(FINITE)
    for dtype, u in updates.items():
        finite = np.isfinite(np.asarray(u).astype(complex))
        assert finite[:bad].all(), dtype
        assert not finite[bad:, at, 0, 0].any(), dtype
        assert finite[:, :, 1:].all(), dtype
        assert finite[:, :, 0, 1:].all(), dtype
        if kwargs.get("window") == "hopping" or kwargs.get("b1") == 0:
            assert finite[:, 3 * n :].all(), dtype
        else:
            assert not finite[bad:, at:, 0, 0].any(), dtype


@pytest.mark.parametrize("kwargs", VARIANTS[::5], ids=str)
def test_count_at_its_ends(kwargs):
    """It stops at the largest int32; a negative one of a corrupted state gives finite updates."""
    tx = scale_by_adashift(2, **kwargs)

    def run(count):
        def step(state, _):
            return tx.update(jnp.asarray(MATRIX), state)[::-1]

        state, _ = jax.lax.scan(step, tx.init(jnp.asarray(MATRIX)), length=4)
        return jax.lax.scan(step, state._replace(count=count), length=3)

    counts = np.array([MAX, MAX - 1, MAX - 9, -1, -MAX - 1])
    state, updates = jax.jit(jax.vmap(run))(jnp.asarray(counts, jnp.int32))
    assert np.isfinite(updates).all()
    np.testing.assert_array_equal(state.count, [MAX, MAX, MAX - 6, 2, 2 - MAX])
    # The bias correction is over, and v is far below 1: but it is not reset, nor negative.
    assert np.all(updates[:3] > 1)


def test_trees_without_numbers():
    """None is a tree of no parameters; a leaf of size 0 is updated by one of size 0."""
    for params in (None, {}, {"a": None}, np.ones((0, 3), np.float32), [ONES[:0], None]):
        for kwargs in VARIANTS[::6]:
            tx = scale_by_adashift(2, **kwargs)
            state = tx.init(params)
            updates, new = jax.eval_shape(tx.update, params, state)
            assert jax.tree.structure(updates) == jax.tree.structure(params)
            assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


def test_what_cannot_be_known():
    """With one v per leaf and no queue, leaves are known by their number and order alone."""
    tx = scale_by_adashift(2, b1=0)
    state = tx.init(TREE)
    updates, _ = jax.eval_shape(tx.update, {"x": ONES, "y": MATRIX.T}, state)
    assert jax.tree.map(jnp.shape, updates) == {"x": (3,), "y": (4, 3)}


def test_containers_may_differ_where_names_do_not():
    tx = scale_by_adashift(2)
    updates, _ = jax.eval_shape(tx.update, (ONES, [ONES]), tx.init([ONES, (ONES,)]))
    assert isinstance(updates, tuple)


def test_gradients_wider_than_the_state(x64):
    """m of one gradient is as wide as that; v leaves out what its dtype cannot hold."""
    tx = scale_by_adashift(1, phi="none")
    state, step = tx.init(ONES), jax.jit(tx.update)
    for g in (1.0, 2.0, 1e200):
        updates, state = step(np.full(3, g), state)
        assert updates.dtype == np.float64
    np.testing.assert_allclose(updates, 1e200 / np.sqrt(2.5), rtol=1e-3)
    assert np.isfinite(state.nu).all()


WIDER = [{}, {"window": "hopping"}, {"queue_dtype": "bfloat16"}, {"queue_dtype": "float8_e5m2"}]


@pytest.mark.parametrize("kwargs", WIDER, ids=str)
def test_a_mean_of_gradients_wider_than_the_state(kwargs, x64):
    """What its dtype cannot hold counts as the largest that it can, and fades or is dropped."""
    tx = scale_by_adashift(2, clip_value=1.0, **kwargs)
    state, step = tx.init(ONES), jax.jit(tx.update)
    for g in [1.0, 1.0, 1.0, 1e200, *[1.0] * 1200]:
        updates, state = step(np.full(3, g), state)
        assert np.isfinite(updates).all()
        assert g == 1 or np.all(updates == 1)
    np.testing.assert_allclose(updates, 1, rtol=1e-5)


def test_negative_rates_ascend_as_in_optax():
    tx = adashift(-0.1, 1)
    state = tx.init(ONES)
    for _ in range(2):
        updates, state = tx.update(ONES, state)
    np.testing.assert_allclose(updates, 0.1, rtol=1e-5)


def test_decay_ignores_what_the_mask_leaves_out():
    tx = adashiftw(0.1, 1, weight_decay=0.5, mask={"a": True, "b": False})
    params = {"a": MATRIX, "b": MATRIX[:1]}  # of another shape, but never read
    updates, _ = tx.update(TREE, tx.init(TREE), params)
    np.testing.assert_allclose(updates["a"], -0.05, rtol=1e-5)
    assert not updates["b"].any()
