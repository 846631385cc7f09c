"""Leaves, gradients and rates of different widths: values and dtypes.

The rule, as for Optax's Adam: the state is float32 or wider. Updates have the wider of the dtypes
of gradient and parameter (the gradient's, if no parameters are given), and are rounded to it last.
That every width stands beside every other is in `test_random.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from common import in_64_bits, scan

from adashift_optax import STATIC_ARGS, adashift, adashift_factored, adashiftw

# Of parameters and gradients; the last two are complex.
PAIRS = [("float16", "float16"), ("bfloat16", "float32"), ("float32", "bfloat16")]
PAIRS += [("float32", "float32"), ("float64", "float16"), ("float32", "float64")]
PAIRS += [("complex64", "complex128"), ("complex128", "complex64")]


@pytest.fixture(autouse=True)
def _in_64_bits():
    """Optax's own transformations mix dtypes."""
    with in_64_bits(), jax.numpy_dtype_promotion("standard"):
        yield


RATES = {
    "float": 0.1,
    "NumPy float64": np.float64(0.1),
    "NumPy float32": np.float32(0.1),
    "array": lambda: jnp.float32(0.1),
    "float64 array": lambda: jnp.float64(0.1),
    "schedule": lambda: optax.constant_schedule(0.1),
    "schedule of arrays": lambda: lambda count: jnp.float64(0.1),
    "injected": "float32",
    "injected float64": "float64",
}
WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.identity(), tx, optax.identity()),
    "masked": lambda tx: optax.masked(tx, True),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}
ALONE = {"alone": WRAPPERS["alone"]}
MAKES = {
    "adashift": (adashift, {"n": 2}),
    "adashiftw": (adashiftw, {"n": 2}),
    "adashift_factored": (adashift_factored, {"weight_decay": 0.1}),
}


WRAPPED = ("float64 array", "NumPy float32", "array", "schedule of arrays")


@pytest.mark.parametrize(
    "rate", [pytest.param(k, marks=() if k == WRAPPED[0] else pytest.mark.slow) for k in RATES]
)
@pytest.mark.parametrize("name", MAKES)
def test_no_rate_widens_updates(name, rate):
    """Whatever the rate, wrapper and step, updates and the state keep their dtypes."""
    rate_name, rate, (make, kwargs) = rate, RATES[rate], MAKES[name]
    if isinstance(rate, str):
        static = STATIC_ARGS if "n" in kwargs else ()
        tx = optax.inject_hyperparams(make, static, hyperparam_dtype=rate)(0.1, **kwargs)
    else:
        tx = make(rate() if callable(rate) else rate, **kwargs)
    for wrapper, wrap in (WRAPPERS if rate_name in WRAPPED else ALONE).items():
        # What Optax refuses around its own Adam too: other dtypes there, complex ones here.
        pairs = [(p, g) for p, g in PAIRS if wrapper != "apply_if_finite" or p == g]
        pairs = PAIRS[:6] if wrapper == "MultiSteps" else pairs
        params, grads = (
            {str(pair): jax.ShapeDtypeStruct((2, 3), pair[k]) for pair in pairs} for k in (0, 1)
        )
        wrapped = wrap(tx)
        state = jax.eval_shape(wrapped.init, params)
        updates, new = jax.eval_shape(wrapped.update, grads, state, params)
        for pair in pairs:
            assert updates[str(pair)].dtype == jnp.promote_types(*pair), (wrapper, pair)
        assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.parametrize("rate", [1e-7, pytest.param(10.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_the_rate_comes_before_the_cast(narrow, name, rate):
    """float32 parameters lose nothing of narrow gradients; narrow ones are rounded only once."""
    grads = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(jnp.dtype(narrow))
    tree = {narrow: grads, "float32": grads}
    params = {dtype: jnp.arange(-32, 32).reshape(8, 8).astype(dtype) for dtype in tree}
    make, kwargs = MAKES[name]
    kwargs = kwargs | ({} if make is adashift_factored else {"phi": "none"})
    updates = jax.jit(lambda g: scan(make(rate, **kwargs), g, params)[0])(tree)
    if make is adashift_factored:
        u, scales = map(np.array, reference.factored(list(grads)))
    else:
        u, scales = map(np.array, reference.adashift(list(grads), 2, phi="none"))
    decay = {"adashift": 0, "adashiftw": 1e-4, "adashift_factored": 0.1}[name]
    for dtype, found in updates.items():
        want = -rate * (u + decay * np.asarray(params[dtype], float))
        info = jnp.finfo(dtype)
        assert found.dtype == dtype
        error = np.abs(np.asarray(found, float) - want)
        allowed = 0.501 * float(info.eps) * np.abs(want) + float(info.tiny)
        allowed += 2e-5 * rate * (scales + np.abs(decay * np.asarray(params[dtype], float)))
        assert np.all(error <= allowed)
        if dtype == "float32":
            assert np.count_nonzero(found) == np.count_nonzero(want)
