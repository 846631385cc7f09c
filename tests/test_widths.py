"""Leaves, gradients and rates of different widths: values, dtypes, buffers of the compiled step.

The rule, as for Optax's Adam: the state is float32 or wider. Updates have the wider of the dtypes
of gradient and parameter (the gradient's, if no parameters are given), and are rounded to it last.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_cases as cases
import reference
from common import compile_donated, train_step
from random_cases import Leaf

from adashift_optax import STATIC_ARGS, adashift, adashiftw, scale_by_adashift

REAL, COMPLEX = ("float16", "bfloat16", "float32", "float64"), ("complex64", "complex128")
PAIRS = [(p, g) for kind in (REAL, COMPLEX) for p in kind for g in kind]
QUEUES = ("float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")


@pytest.fixture(autouse=True)
def _in_64_bits():
    """Optax's own transformations mix dtypes."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def tree_of(pairs):
    return {f"{p} <- {g}": Leaf((2, 3), g, None, p) for p, g in pairs}


def grads_like(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def make_grads(tree, steps, seed=0):
    """Multiples of 1/4 up to 3/4, which every queue holds, times 2^-20 to 2^20; first only zeros.

    For float16 and without 2^k, whose squares would be 0.
    """
    rng = np.random.default_rng(seed)

    def one(leaf):
        g = rng.integers(-3, 4, (steps, *leaf.shape)) / 4
        g[:2] = 0
        exponent = 0 if "float16" in (leaf.dtype, leaf.params) else rng.integers(-20, 21)
        return (g * 2.0**exponent).astype(jnp.dtype(leaf.dtype))

    return jax.tree.map(one, tree)


def assert_equals_reference(tree, grads, updates, **args):
    """To the rounding of both dtypes; which of the two updates have, is tested below."""
    wrong = []
    for name, leaf in tree.items():
        want, allowed = cases.expected(leaf, grads[name], **args)
        error = np.abs(np.asarray(updates[name], want.dtype) - want)
        info = jnp.finfo(leaf.dtype)
        rounded = float(info.eps) / 2 * np.abs(want) + float(info.tiny) * (want != 0)
        if not np.all(error <= allowed + rounded):
            wrong.append(f"{name}: off by {np.max(error):g} of {np.max(np.abs(want)):g}")
    assert not wrong


WINDOWS = ("sliding", "hopping", "ema")
PLAIN = [{"phi": phi, "window": w} for phi in ("max", "none", "factored") for w in WINDOWS]
QUEUED = [{"phi": phi, "queue_dtype": q} for phi in ("max", "none") for q in QUEUES]
QUEUED += [{"phi": "mean"}, {"phi": "factored", "queue_dtype": "bfloat16"}]
ALONE = [{"phi": "none", "b1": 0, "queue_dtype": q} for q in ("float32", "bfloat16", "float16")]
SINGLE = [{"phi": phi, "n": 1, "queue_dtype": "bfloat16"} for phi in ("max", "none")]


@pytest.mark.parametrize("kwargs", PLAIN + QUEUED + ALONE + SINGLE, ids=str)
def test_every_width_beside_every_other(kwargs):
    """Leaves of each parameter dtype with gradients of each dtype, in one tree."""
    args = {"n": 2, "b1": 0.9, "b2": 0.9, "eps": 1e-12, "window": "sliding", **kwargs}
    real = args.pop("queue_dtype", None)
    tree = tree_of(PAIRS[:16] if real else PAIRS)
    grads = make_grads(tree, 9)
    tx = scale_by_adashift(**cases.library(args), queue_dtype=real)
    updates = cases.run(tx, grads, cases.zeros(tree))
    assert_equals_reference(tree, grads, updates, **args)


def test_float64_parameters_alone_with_float32_gradients():
    """The scale of the queue is made in the width in which it is used: the update is 1, not 0."""
    for kwargs in ({"b1": 0}, {"n": 1}):
        tx = scale_by_adashift(**{"n": 2, "phi": "none", "queue_dtype": "bfloat16", **kwargs})
        params, g = np.ones(3), np.ones(3, np.float32)
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(g, state, params)
        np.testing.assert_allclose(updates, 1, rtol=1e-5)


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


@pytest.mark.parametrize("rate", RATES)
def test_no_rate_widens_updates(rate):
    """Whatever the rate, wrapper and step, updates and the state keep their dtypes."""
    rate = RATES[rate]
    for make in (adashift, adashiftw):
        if isinstance(rate, str):
            tx = optax.inject_hyperparams(make, STATIC_ARGS, hyperparam_dtype=rate)(0.1, n=2)
        else:
            tx = make(rate() if callable(rate) else rate, 2)
        for name, wrap in WRAPPERS.items():
            # What Optax refuses around its own Adam too: other dtypes there, complex ones here.
            pairs = [(p, g) for p, g in PAIRS if name != "apply_if_finite" or p == g]
            tree = tree_of(PAIRS[:16] if name == "MultiSteps" else pairs)
            params = cases.zeros(tree)
            grads = grads_like(tree)
            wrapped = wrap(tx)
            state = jax.eval_shape(wrapped.init, params)
            updates, new = jax.eval_shape(wrapped.update, grads, state, params)
            wrong = [key for key, leaf in tree.items() if updates[key].dtype != leaf.updates]
            assert not wrong, (name, make.__name__)
            assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    tree = tree_of(PAIRS)
    if not isinstance(rate, str):  # without parameters: as the gradients
        tx = adashift(rate() if callable(rate) else rate, 2)
        updates, _ = jax.eval_shape(tx.update, grads_like(tree), tx.init(cases.zeros(tree)))
        assert {k: u.dtype for k, u in updates.items()} == {k: t.dtype for k, t in tree.items()}


def test_apply_if_finite_around_a_numpy_rate():
    """It compares the dtypes of updates with those of the gradients."""
    params = jnp.ones(3, jnp.bfloat16)
    for rate in (np.float32(0.1), jnp.float32(0.1), optax.constant_schedule(np.float32(0.1))):
        tx = optax.apply_if_finite(adashift(rate, 1), 3)
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params, state, params)
        assert updates.dtype == jnp.bfloat16
        np.testing.assert_allclose(updates.astype(float), -0.1, rtol=2**-8)


@pytest.mark.parametrize("rate", [1e-7, 10.0])
@pytest.mark.parametrize("make", [adashift, adashiftw])
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_the_rate_comes_before_the_cast(narrow, make, rate):
    """float32 parameters lose nothing of narrow gradients; narrow ones are rounded only once."""
    n, steps, decay = 2, 12, 0.5 if make is adashiftw else 0.0
    tree = {p: Leaf((64,), narrow, None, p) for p in (narrow, "float32")}
    grads = jax.tree.map(lambda leaf: cases.gradients(leaf, steps, "plain", 0), tree)
    params = jax.tree.map(lambda leaf: jnp.arange(-32, 32) / jnp.ones([], leaf.params), tree)
    tx = make(rate, n, phi="none", **({"weight_decay": decay} if decay else {}))
    updates = cases.run(tx, grads, params)
    for name, leaf in tree.items():
        u, _ = reference.adashift(list(grads[name]), n, 0.9, 0.999, 1e-10, "none")
        want = -rate * (np.array(u) + decay * np.asarray(params[name], float))
        assert updates[name].dtype == leaf.params
        info = jnp.finfo(leaf.params)
        error = np.abs(np.asarray(updates[name], float) - want)
        cancelled = 2e-5 * rate * np.max(np.abs(u))  # the sum of m may be much less than its terms
        assert np.all(
            error <= 0.501 * float(info.eps) * np.abs(want) + float(info.tiny) + cancelled
        )
        if name == "float32":
            assert np.count_nonzero(updates[name][n:]) == np.count_nonzero(want[n:])


def test_a_direction_outside_float16():
    """For float32 parameters it is not cut off at float16's largest or smallest number."""
    grads = np.array([[6e-8, 6e4], [1, 6e-8], [0, 0], [0, 0]], np.float16)
    params = jnp.ones(2)
    want, _ = reference.adashift(list(grads), 1, 0.9, 0.9, 1e-10, "none")
    tx = scale_by_adashift(1, 0.9, 0.9, phi="none")
    state = tx.init(params)
    for g, u in zip(grads, want, strict=True):
        updates, state = tx.update(jnp.asarray(g), state, params.astype(jnp.float32))
        assert updates.dtype == jnp.float32
        np.testing.assert_allclose(updates, u, rtol=1e-2)


SHAPE = (256, 512)
VARIANTS = {
    "max": {},
    "mean": {"phi": "mean"},
    "none": {"phi": "none", "clip_value": 1.0},
    "factored": {"phi": "factored"},
    "axes": {"block_axes": (-1,)},
    "b1=0": {"b1": 0},
    "hopping": {"window": "hopping"},
    "hopping, none": {"window": "hopping", "phi": "none"},
    "bfloat16": {"queue_dtype": "bfloat16"},
    "float16, none": {"queue_dtype": "float16", "phi": "none"},
    "float8": {"queue_dtype": "float8_e4m3fn"},
    "mu": {"mu_dtype": "bfloat16"},
    "ema": {"window": "ema"},
    "ema, none": {"window": "ema", "phi": "none"},
    "warm": {"warm_start": True},
}
TEMPORARY = [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("bfloat16", "float32")]


def temporary_bytes(tx, params, grads):
    """Per parameter, of a donated step."""
    p, g = jnp.ones(SHAPE, params), jnp.ones(SHAPE, grads)
    compiled = compile_donated(train_step(tx), p, tx.init(p), g)
    return compiled.memory_analysis().temp_size_in_bytes / p.size


@pytest.mark.parametrize(("params", "grads"), TEMPORARY)
def test_a_donated_step_upcasts_no_whole_gradient(params, grads):
    """Less than a tenth of a leaf is temporary, in any dtype, as with float32 in test_state.py."""
    found = {}
    for name, kwargs in VARIANTS.items():
        if name != "float8":  # it stores the gradient in float32: for the scale, and for the queue
            found[name] = temporary_bytes(scale_by_adashift(10, **kwargs), params, grads)
    limit = jnp.dtype(grads).itemsize / 10
    assert {name: x for name, x in found.items() if x >= limit} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "grads", "limit"), [("float32", "float16", 4.6), ("complex64", "complex64", 12.6)]
)
def test_what_xla_on_cpu_stores_all_the_same(params, grads, limit):
    """Its reductions read no float16, and it keeps real and imaginary parts, for Adam 17 bytes."""
    for kwargs in VARIANTS.values():
        if params != "complex64" or not {"queue_dtype", "mu_dtype"} & kwargs.keys():
            assert temporary_bytes(scale_by_adashift(10, **kwargs), params, grads) < limit
    if params == "complex64":
        with jax.numpy_dtype_promotion("standard"):
            assert temporary_bytes(optax.scale_by_adam(), params, grads) > limit
