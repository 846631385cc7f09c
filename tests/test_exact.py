"""The updates against the NumPy float64 reference, which shares no code with the library."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import settings
from common import make_grads, run, worst_error

from adashift_optax import (
    adashift,
    adashift_factored,
    adashiftw,
    scale_by_adashift,
    scale_by_adashift_factored,
)

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


# Those that differ most come first.
CASES = [(name, "float64") for name in dict.fromkeys((*settings.LAYOUTS, *settings.SETTINGS))]
CASES += [
    pytest.param(name, "float32", marks=pytest.mark.slow if k < 3 else pytest.mark.all_only)
    for k, name in enumerate(dict.fromkeys(("max", "none bfloat16", "factored", *settings.LAYOUTS)))
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_equals_reference(name, dtype):
    """Every leaf at every step; the state keeps its shapes and dtypes."""
    found = settings.run(name, dtype)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.updates, found.grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.first, found.state)
    assert found.state.count == 45
    if name == "factored bfloat16":  # a rounded m: test_precision.py
        return
    for leaf, g in found.grads.items():
        error = worst_error(found.updates[leaf], *settings.expected(name, list(g), leaf))
        assert error < TOLERANCE[dtype], leaf


@pytest.mark.parametrize("b1", [0.9, 0.0])
def test_complex_gradients_use_their_magnitude(b1, x64):
    """Both parts of an element share its v."""
    shapes = {"matrix": (3, 4), "vector": (4,)}
    real, imag = make_grads(9, shapes, seed=1), make_grads(9, shapes, seed=2)
    grads = [jax.tree.map(lambda a, b: a + 1j * b, *pair) for pair in zip(real, imag, strict=True)]
    txs = {phi: scale_by_adashift(b1, n=2, phi=phi) for phi in ("max", "none")}
    for tx, wanted in (
        *(
            (tx, lambda g, phi=phi: reference.adashift(g, 2, b1, phi=phi))
            for phi, tx in txs.items()
        ),
        (scale_by_adashift_factored(b1), lambda g: reference.factored(g, b1)),
    ):
        updates = run(tx, grads)
        for leaf in shapes:
            found = [u[leaf] for u in updates]
            assert found[-1].dtype == np.complex128
            assert worst_error(found, *wanted([g[leaf] for g in grads])) < 1e-12


@pytest.mark.parametrize("phi", ["max", "none"])
def test_scale_first_then_average(phi, x64):
    """The chain with `optax.ema`, whose bias correction counts the idle first step, too."""
    grads = make_grads(12)
    tx = optax.chain(scale_by_adashift(0, n=1, phi=phi), optax.ema(0.8))
    with jax.numpy_dtype_promotion("standard"):
        updates = run(tx, grads)
    for leaf in grads[0]:
        wanted = reference.ema_of_scaled([g[leaf] for g in grads], 0.8, phi=phi)
        assert worst_error([u[leaf] for u in updates], *wanted) < 1e-12


def test_rate_and_decay():
    """Of gradients that stay as they are m is g, and v the largest g^2, or g^2 itself."""
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    by_leaf = {"a": np.array([0.5, -1.0]), "b": np.array([1.0])}
    by_element = {"a": np.array([1.0, -1.0]), "b": np.array([1.0])}
    none, of_a, everywhere = {"a": 0, "b": 0}, {"a": 0.1, "b": 0}, {"a": 0.1, "b": 0.1}
    decay = {"weight_decay": 0.1}
    mask = {**decay, "mask": {"a": True, "b": False}}
    for tx, wanted, decays, idle in (
        (adashift(0.5, n=2), by_leaf, none, 2),
        (adashiftw(0.5, n=2, **mask), by_leaf, of_a, 2),
        (adashiftw(lambda count: 0.5, n=2, weight_decay=lambda count: 0.1), by_leaf, everywhere, 2),
        (adashift_factored(0.5, b1=0), by_element, none, 0),
        (adashift_factored(0.5, b1=0, **mask), by_element, of_a, 0),
        (adashift_factored(jnp.float32(0.5), b1=0, **decay), by_element, everywhere, 0),
    ):
        state = tx.init(params)
        for t in range(1, 5):
            updates, state = tx.update(params, state, params)
            for leaf, u in wanted.items():
                want = -0.5 * ((t > idle) * u + decays[leaf] * params[leaf])
                np.testing.assert_allclose(updates[leaf], want, rtol=1e-5)


def test_default_decay_of_adashiftw():
    """1e-4, that of `optax.adamw`, and it acts from the first step on."""
    params = jnp.array([2.0])
    tx = adashiftw(0.5)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates, [-0.5 * 1e-4 * 2], rtol=1e-6)


def test_first_step_of_the_factored_rule_is_the_sign():
    """a_1 = 1; with Nesterov's momentum u_1 is 1.47 sign(g) at b1 = 0.9."""
    g = {"w": jnp.array([[1e-3, -2.0], [50.0, 0.0]]), "b": jnp.array([-4.0])}
    for b1, size in ((0, 1.0), (0.9, 0.9 * 0.1 / (1 - 0.9**2) + 1)):
        tx = scale_by_adashift_factored(b1)
        updates, _ = tx.update(g, tx.init(g))
        chex.assert_trees_all_close(updates, jax.tree.map(lambda g, s=size: s * jnp.sign(g), g))


@pytest.mark.parametrize("make", [scale_by_adashift, scale_by_adashift_factored])
def test_bias_correction_is_accurate_in_float32(make):
    """1 - b^t by subtraction would miss this by 2e-5: of a constant gradient the update is 1."""
    kwargs = {"n": 1, "phi": "none"} if make is scale_by_adashift else {}
    for b1 in (0, 0.9999):
        u = run(make(b1, 0.9999, **kwargs), [{"w": np.ones(2, np.float32)}] * 6)[-1]["w"]
        want = 1 if b1 == 0 or kwargs else b1 * (1 - b1**6) / (1 - b1**7) + (1 - b1) / (1 - b1**6)
        np.testing.assert_allclose(u, want, rtol=2e-6)


@pytest.mark.slow
def test_v_is_not_biased_in_float32():
    """b2 v + (1 - b2) x in float32 would move all updates by 6e-6: b2 = 0.999 is off by 1e-8."""
    grads = np.random.default_rng(0).standard_normal((2000, 400)).astype(np.float32)
    grads = [{"w": g} for g in grads]
    u = run(scale_by_adashift(0, n=1, phi="none"), grads)[-1]["w"]
    v = 0.0
    for g in grads[:-1]:
        v = 0.999 * v + 0.001 * g["w"].astype(float) ** 2
    want = grads[-1]["w"] / np.sqrt(v / (1 - 0.999**1999))
    # Of single updates rounding moves v by more, but not of all of them in one direction.
    assert abs(np.mean(u / want - 1)) < 1e-6


def test_at_b1_0_and_n_1_it_is_unclipped_adopt_up_to_bias_correction(x64):
    """optax.contrib.adopt with its v started at g_1^2 keeps b2^k g_1^2 more than our v."""
    grads = [{"w": g["vector"]} for g in make_grads(8)]
    b2 = 0.9
    ours = run(scale_by_adashift(0, b2, 0, n=1, phi="none"), grads)
    adopt = run(optax.contrib.adopt(-1.0, b1=0.0, b2=b2, eps=1e-300, use_clipping=False), grads)
    v = 0.0
    for t in range(1, 8):
        v = b2 * v + (1 - b2) * grads[t - 1]["w"] ** 2
        vhat, theirs = v / (1 - b2**t), v + b2**t * grads[0]["w"] ** 2
        np.testing.assert_allclose(ours[t]["w"] * np.sqrt(vhat), adopt[t]["w"] * np.sqrt(theirs))
