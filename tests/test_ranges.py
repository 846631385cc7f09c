"""Ranges of arguments that are arrays, and of what only a running program knows.

An array that is there is checked like a number, and every number after it was rounded to the dtype
in which it is used. Tracers and schedules pass: what they may do at worst is tested here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import STATIC_ARGS, adashift, adashiftw, scale_by_adashift

NAN, INF = float("nan"), float("inf")
RANGES = {
    "b1": (-0.5, 1.0, 1.5, NAN, INF),
    "b2": (-0.5, 1.0, 1.5, NAN, -INF),
    "eps": (-1.0, NAN, INF, -INF),
    "clip_value": (-1.0, 0.0, NAN, -INF),
    "learning_rate": (NAN, INF, -INF),
    "weight_decay": (-1.0, NAN, INF),
}
ARRAYS = {
    "jax": jnp.float32,
    "NumPy 0-d": np.array,
    "NumPy scalar": np.float32,
    "jitted": lambda x: jax.jit(lambda: jnp.float32(x))(),
}
OUTSIDE = [(name, x, kind) for name, xs in RANGES.items() for x in xs for kind in ARRAYS]
# 0 or infinite in float32, for which they were meant.
ROUNDED = [("eps", 1e300), ("clip_value", 1e-50), ("learning_rate", 1e300), ("weight_decay", 1e300)]
ROUNDED += [("learning_rate", -1e39), ("eps", 1e39)]
INTEGERS = [("b1", 1), ("b2", 1), ("b2", -1), ("eps", -1), ("clip_value", 0), ("clip_value", -2)]


PARAMS = np.ones(2, np.float32)


def start(name, value, params=PARAMS):
    """Makes the optimizers that take the argument, and their first state."""
    makes = {"learning_rate": [adashift, adashiftw], "weight_decay": [adashiftw]}
    for make in makes.get(name, [scale_by_adashift, adashift, adashiftw]):
        kwargs = {} if make is scale_by_adashift else {"learning_rate": 0.1}
        with pytest.raises(ValueError, match=name):
            make(**{"n": 1, **kwargs, name: value}).init(params)


@pytest.mark.parametrize(("name", "value", "kind"), OUTSIDE)
def test_an_array_out_of_range(name, value, kind):
    start(name, ARRAYS[kind](value))


@pytest.mark.parametrize("kind", [jnp.int32, np.array, np.int32])
@pytest.mark.parametrize(("name", "value"), INTEGERS)
def test_an_integer_array_out_of_range(name, value, kind):
    start(name, kind(value))


@pytest.mark.parametrize("kind", [float, np.float64, np.array])
@pytest.mark.parametrize(("name", "value"), ROUNDED)
def test_out_of_range_once_it_is_rounded(name, value, kind):
    start(name, kind(value))


@pytest.mark.parametrize(("name", "value"), [("eps", 1e300), ("clip_value", 1e-50)])
def test_rounded_to_the_dtype_of_the_leaves(name, value, x64):
    """float64 holds all of them; beside a float32 leaf they are used in float32."""
    start(name, value, {"wide": np.ones(2), "narrow": np.ones(2, np.float32)})
    tx, g = scale_by_adashift(1, **{name: value}), np.ones(2)
    state = tx.init(g)
    for _ in range(3):
        u, state = tx.update(g, state)
    np.testing.assert_allclose(u, 1 / value if name == "eps" else value, rtol=1e-9)


def test_arrays_in_range():
    """They give what the numbers give."""
    numbers = {"b1": 0.5, "b2": 0.75, "eps": 0.25, "clip_value": 0.5}
    params = np.ones(2, np.float32)
    found = []
    for make in (lambda x: x, jnp.float32, np.array, np.float32, np.float64):
        tx = adashift(make(0.5), 2, **{name: make(x) for name, x in numbers.items()})
        state = tx.init(params)
        for _ in range(4):
            u, state = tx.update(params, state)
        found.append(u)
    for u in found:
        np.testing.assert_allclose(u, -0.5 * 0.5, rtol=1e-6)


def test_a_clip_that_the_processor_takes_for_0():
    """A denormal number: refused, or it works."""
    try:
        tx = scale_by_adashift(1, clip_value=1e-40)
        state = tx.init(jnp.ones(2))
    except ValueError:
        return
    for _ in range(3):
        u, state = tx.update(jnp.ones(2), state)
    assert np.all(u > 0)


CLIPS = (-1.0, 0.0, -INF, NAN, -1e-40, INF, 0.25)


def limited(u, clip):
    """Whether updates of [1, -1, 0] are right under what a clip turned out to be."""
    u, sign = np.asarray(u), np.array([1, -1, 0])
    if np.isnan(clip):
        return np.all(np.isfinite(u)) and np.all(u * sign >= 0)
    return np.allclose(u, sign * min(1, max(0, clip)), rtol=1e-5)


@pytest.mark.parametrize("phi", ["max", "none", "factored"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_traced_or_scheduled_clip_below_0(clip, dtype, phi):
    """It lets nothing through, in the warm-up too; it turns no sign, and makes no NaN."""
    g = jnp.asarray([1, -1, 0], dtype)

    def run(clip):
        tx = scale_by_adashift(2, phi=phi, clip_value=clip)
        _, u = jax.lax.scan(lambda s, _: tx.update(g, s)[::-1], tx.init(g), length=4)
        return u

    injected = optax.inject_hyperparams(adashift, STATIC_ARGS, hyperparam_dtype=jnp.float32)
    tx = injected(-1.0, 2, phi=phi, clip_value=lambda count: jnp.float32(clip))
    by_injection = []
    with jax.numpy_dtype_promotion("standard"):
        state, update = jax.jit(tx.init)(g), jax.jit(tx.update)
        for _ in range(4):
            u, state = update(g, state)
            by_injection.append(u)
    for updates in (jax.jit(run)(jnp.float32(clip)), run(lambda count: clip), by_injection):
        for u in updates[:2]:
            assert not np.any(np.asarray(u))
        for u in updates[2:]:
            assert limited(u, clip)


def test_a_schedule_that_falls_below_0():
    """As a linear schedule past its end does."""
    tx = scale_by_adashift(1, clip_value=lambda count: 1.5 - 0.5 * count.astype("float32"))
    g = jnp.ones(2)
    state, found = tx.init(g), []
    for _ in range(6):
        u, state = tx.update(g, state)
        found.append(float(u[0]))
    np.testing.assert_allclose(found, [0, 1, 0.5, 0, 0, 0], atol=1e-6)


def test_tracers_pass():
    """Of a hyperparameter that is traced nothing can be known, nor of one in a vmap."""

    def last(b1, b2, eps, clip):
        tx = scale_by_adashift(2, b1, b2, eps, clip_value=clip)
        g = jnp.ones(2)
        return jax.lax.scan(lambda s, _: tx.update(g, s)[::-1], tx.init(g), length=4)[1][-1]

    rows = np.array([[0.9, 0.999, 1e-10, 1], [0, 0, 1, 0.25], [0.5, 0.5, 3, 9]], np.float32)
    found = jax.jit(jax.vmap(last))(*rows.T)
    np.testing.assert_allclose(found[:, 0], [1, 0.25, 0.25], rtol=1e-5)
