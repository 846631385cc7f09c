"""window="ema": each gradient is scaled first, by a v that does not hold it, and then averaged."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from common import SHAPES, make_grads, run, worst_error

from adashift_optax import adashift, scale_by_adashift

PHIS = ("max", "mean", "none", "factored")


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(
    ("b1", "clip"),
    [(0.9, None), (0.5, 0.7), (0, None), (0.99, lambda count: 0.1 * jnp.asarray(count + 1, float))],
)
def test_equals_reference(phi, n, b1, clip, x64):
    grads = make_grads(4 * n + 5)
    updates = run(scale_by_adashift(n, b1, phi=phi, window="ema", clip_value=clip), grads)
    for name in SHAPES:
        error = worst_error(updates, grads, name, n, b1, 0.999, 1e-10, phi, clip=clip, window="ema")
        assert error < 1e-12


@pytest.mark.parametrize("phi", PHIS)
def test_equals_reference_in_float32(phi):
    grads = make_grads(40, dtype=np.float32)
    updates = run(scale_by_adashift(3, 0.99, phi=phi, window="ema"), grads)
    for name in SHAPES:
        assert updates[-1][name].dtype == np.float32
        args = grads, name, 3, 0.99, 0.999, 1e-10, phi
        assert worst_error(updates, *args, window="ema") < 2e-5


@pytest.mark.parametrize("phi", ["max", "none"])
def test_complex_gradients(phi, x64):
    real, imag = make_grads(9, seed=1), make_grads(9, seed=2)
    grads = [jax.tree.map(lambda a, b: a + 1j * b, *pair) for pair in zip(real, imag, strict=True)]
    updates = run(scale_by_adashift(1, phi=phi, window="ema", clip_value=0.5), grads)
    for name in SHAPES:
        args = grads, name, 1, 0.9, 0.999, 1e-10, phi
        assert worst_error(updates, *args, clip=0.5, window="ema") < 1e-12


def test_by_hand(x64):
    """n = 1, b1 = b2 = 1/2, eps = 0, whole squares under the roots: every number is a fraction.

    g = 3, 6, 5 sqrt(12), ...: v holds 9; then (9/4 + 36/2) / (3/4) = 27, whose root is 3 sqrt(3).
    """
    grads = [{"w": np.array([g])} for g in (3.0, 6.0, 18 * np.sqrt(3.0))]
    updates = run(scale_by_adashift(1, 0.5, 0.5, 0.0, phi="none", window="ema"), grads)
    s_2 = Fraction(6, 3)  # over the root of 9
    s_3 = Fraction(18, 3)  # sqrt(3) cancels
    m_2 = s_2 / 2
    m_3 = m_2 / 2 + s_3 / 2
    wanted = [0, m_2 / Fraction(1, 2), m_3 / Fraction(3, 4)]
    assert wanted == [0, 2, Fraction(14, 3)]
    np.testing.assert_allclose([u["w"][0] for u in updates], [float(w) for w in wanted], 1e-14)


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("n", [1, 3])
def test_equals_a_chain_with_the_ema_of_optax(n, phi, x64):
    """Whose bias correction counts the n zero updates too: ours is a known factor away."""
    grads, b1 = make_grads(3 * n + 5), 0.75
    ours = run(scale_by_adashift(n, b1, phi=phi, window="ema"), grads)
    theirs = run(optax.chain(scale_by_adashift(n, 0, phi=phi), optax.ema(b1, debias=False)), grads)
    for t in range(n + 1, len(grads) + 1):
        for name in SHAPES:
            want = theirs[t - 1][name] / (1 - b1 ** (t - n))
            np.testing.assert_allclose(ours[t - 1][name], want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_of_one_step_and_elements_it_is_adopt(b1, x64):
    """Without its clip, up to the bias corrections: with a constant |g|, v is 1 for both."""
    grads = [{"w": np.sign(g["vector"])} for g in make_grads(9)]
    ours = run(scale_by_adashift(1, b1, phi="none", eps=0.0, window="ema"), grads)
    adopt = optax.contrib.adopt(-1.0, b1=b1, eps=1e-300, use_clipping=False)
    theirs = run(adopt, grads)
    for t in range(2, len(grads) + 1):
        want = theirs[t - 1]["w"] / (1 - b1 ** (t - 1))
        np.testing.assert_allclose(ours[t - 1]["w"], want, rtol=1e-12)


def test_of_one_step_and_elements_it_is_adopt_for_any_gradients(x64):
    """ADOPT starts v at g_1^2: with b2(1) = 0 ours does the same, and b2 = 0.9 from then on."""
    grads = [{"w": g["vector"]} for g in make_grads(12)]
    tx = scale_by_adashift(
        1, 0.9, lambda k: jnp.where(k == 1, 0.0, 0.9), 0.0, phi="none", window="ema"
    )
    theirs = run(optax.contrib.adopt(-1.0, b1=0.9, b2=0.9, eps=1e-300, use_clipping=False), grads)
    for t, u in enumerate(run(tx, grads)[1:], 2):
        want = theirs[t - 1]["w"] / (1 - 0.9 ** (t - 1))
        np.testing.assert_allclose(u["w"], want, rtol=1e-12)


def test_clip_acts_before_the_mean(x64):
    """One gradient of 100 among ones counts as the clip in the mean: u is never at the clip."""
    grads = [{"w": np.array([g])} for g in (1.0, 1.0, 100.0, 1.0)]
    tx = scale_by_adashift(1, 0.5, phi="none", window="ema", clip_value=4.0)
    s = [1.0, 4.0, 1 / np.sqrt(np.average([1, 1, 1e4], weights=0.999 ** np.arange(3)[::-1]))]
    wanted = [0.0]
    for t in range(1, 4):
        weights = 0.5 ** np.arange(t)[::-1]
        wanted.append(np.average(s[:t], weights=weights))
    np.testing.assert_allclose([u["w"][0] for u in run(tx, grads)], wanted, rtol=1e-9)


@pytest.mark.parametrize("phi", PHIS)
def test_largest_gradients_give_finite_updates(phi):
    largest = float(np.finfo(np.float32).max)
    grads = [{"w": np.full((2, 3), g, np.float32)} for g in (1e-20, *[largest] * 9, -largest, 1.0)]
    for u in run(adashift(1.0, 1, phi=phi, window="ema"), grads):
        assert np.isfinite(u["w"]).all()
