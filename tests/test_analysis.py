"""Net update factors and correlations against closed forms and NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import adashift, adashift_factored, analysis, scale_by_adashift

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def adam_factors(g, b1, b2, lr):
    """The definition, summed in float64 over the recorded steps, with Adam's bias corrections."""
    t = np.arange(1, len(g) + 1)
    v = np.array([(1 - b2) * np.sum(b2 ** np.arange(s)[::-1] * g[:s] ** 2) for s in t])
    scale = lr / (np.sqrt(v / (1 - b2**t)) + 1e-8) / (1 - b1**t)
    return np.array([np.sum(scale[s:] * (1 - b1) * b1 ** np.arange(len(g) - s)) for s in t - 1])


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_of_adam(b1):
    """By its formula, and by its limit on the sequential problem."""
    g = np.random.default_rng(0).standard_normal(60).astype(np.float32)
    k = jax.jit(lambda g: analysis.net_update_factors(optax.adam(0.1, b1=b1, b2=0.99), g))(g)
    np.testing.assert_allclose(k, adam_factors(g.astype(float), b1, 0.99, 0.1), rtol=2e-3)

    large, d, b2 = 5.02, 6, 0.9
    cycle = np.array([large] + [-1.0] * (d - 1), np.float32)
    k = analysis.net_update_factors(optax.adam(0.1, b1=b1, b2=b2, eps=0.0), np.tile(cycle, 60))
    limit = analysis.sequential_net_update_factors(large, d, b1, b2, 0.1)
    np.testing.assert_allclose(k[-20 * d : -19 * d], limit, rtol=2e-3)
    near_1 = analysis.sequential_second_moment(10.0, 3, 0.9999999)
    np.testing.assert_allclose(near_1, 34, rtol=1e-5)
    assert np.argmin(limit) == 0  # the large gradient moves x the least per unit
    assert limit @ cycle < 0 < cycle.sum()  # and so x goes the wrong way


def ratio(tx, columns, b1=0.0):
    """The mean factor of large gradients over that of small ones, where all that comes is there.

    With `columns` each sequence is an array of its own.
    """
    rng = np.random.default_rng(1)
    g = jnp.asarray(rng.choice([10.0, -1.0], p=[0.2, 0.8], size=(300, 200)), jnp.float32)
    factors = partial(analysis.net_update_factors, tx)
    late = slice(100, 300 if b1 < 0.99 else 120)
    k, large = jax.jit(jax.vmap(factors, 1, 1) if columns else factors)(g)[late], g[late] > 0
    return np.mean(k, where=large) / np.mean(k, where=~large)


def test_theorem_5():
    """Where v is independent of g_t the expected factor is that of any gradient; Adam's is not.

    Nor is that of `adashift_factored`, which on a vector has Adam's v.
    """
    options = dict(b1=0.0, b2=0.9)
    assert ratio(optax.adam(0.1, **options), False) < 0.8
    assert ratio(adashift_factored(0.1, **options), False) < 0.8
    assert ratio(adashift(0.1, n=1, phi="none", **options), False) == pytest.approx(1, abs=0.02)


@pytest.mark.all_only
@pytest.mark.parametrize("b1", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("phi", ["none", "max"])
def test_theorem_5_with_momentum(phi, b1):
    """Scale first: the factors are the same for every gradient at any b1, already with n = 1."""
    rate = optax.scale_by_learning_rate(0.1)
    tx = optax.chain(scale_by_adashift(b1=0, b2=0.9, n=1, phi=phi), optax.ema(b1), rate)
    assert ratio(tx, phi == "max", b1) == pytest.approx(1, abs=0.015)
    assert ratio(optax.adam(0.1, b1=b1, b2=0.9), False, b1) < (0.95 if b1 < 0.99 else 1)


def test_correlation_on_independent_gradients():
    """sqrt(1 - b2^2) of Adam; AdaShift's is 0, and both are measured at equal b2."""
    g = jax.random.normal(jax.random.key(0), (100_000,))
    for b2 in (0.9, 0.99):
        adam, ours = optax.scale_by_adam(b2=b2), scale_by_adashift(0.0, b2, n=1)

        def step(states, g, txs=(adam, ours)):
            states = [tx.update(g, state)[1] for tx, state in zip(txs, states, strict=True)]
            return states, [analysis.second_moments(state, g) for state in states]

        _, (v_adam, v_ours) = jax.lax.scan(step, [adam.init(g[0]), ours.init(g[0])], g)
        formula = pytest.approx(np.sqrt(1 - b2**2), abs=0.02)
        assert analysis.correlation(g**2, v_adam) == formula
        assert analysis.correlation(g**2, v_ours) == pytest.approx(0, abs=0.02)
        assert analysis.correlation(g[:-1] ** 2, v_ours[1:]) == formula


def test_correlation_is_numpys():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 3)).astype(np.float32)
    want = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(analysis.correlation(x, y), want, rtol=1e-4)
    scaled = analysis.correlation(1e-12 * x**2, 1e36 * (y + 3))
    np.testing.assert_allclose(scaled, analysis.correlation(x**2, y), rtol=1e-3)
    assert not analysis.correlation(x, np.full_like(x, 0.1)).any()
    want = [[np.corrcoef(x[k:, i], x[:-k, i])[0, 1] for i in range(3)] for k in (1, 4)]
    np.testing.assert_allclose(analysis.lagged_correlation(x, (1, 4)), want, rtol=1e-3, atol=1e-5)


SHAPES = {"w": (2, 3), "b": (3,)}
V_SHAPES = {
    "adam": (optax.adam(0.1, b2=0.5), 0.875, SHAPES),
    "max": (adashift(0.1, n=2, b2=0.5), 0.5, {"w": (1, 1), "b": (1,)}),
    "none": (adashift(0.1, n=2, b2=0.5, phi="none"), 0.5, SHAPES),
    "axes": (adashift(0.1, n=2, b2=0.5, block_axes=(-1,)), 0.5, {"w": (2, 1), "b": (1,)}),
}


@pytest.mark.parametrize("name", V_SHAPES)
def test_second_moments(name):
    """After three equal squares: of all three, or of the one that is old enough.

    The parameters are a dict, a tuple, or a tuple of one, behind another transformation.
    """
    tx, weight, shapes = V_SHAPES[name]
    rng = np.random.default_rng(0)
    g = {key: jnp.asarray(rng.standard_normal(shape), jnp.float32) for key, shape in SHAPES.items()}
    for grads in (g, (g["w"], g["b"]), (g["b"],)):
        chained = optax.chain(optax.clip(1.0), tx)
        state = chained.init(grads)
        for _ in range(3):
            _, state = chained.update(grads, state, grads)
        v = analysis.second_moments(state, grads)
        assert jax.tree.structure(v) == jax.tree.structure(grads)
        for x, grad in zip(jax.tree.leaves(v), jax.tree.leaves(grads), strict=True):
            assert x.shape == shapes["w" if grad.ndim == 2 else "b"]
            square = np.clip(np.asarray(grad, float), -1, 1) ** 2
            axes = {"max": None, "axes": -1}
            square = square.max(axes[name], keepdims=True) if name in axes else square
            np.testing.assert_allclose(x, weight * square, rtol=1e-5)


def test_second_moments_that_are_not_there():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"state must hold one v .* for 2 leaves.*factored has no"):
        analysis.second_moments(adashift_factored(0.1).init(params), params)
    assert analysis.second_moments(adashift(0.1).init({}), {}) == {}
    with pytest.raises(ValueError, match=r"for 3 leaves.*Pass the tree given to init"):
        analysis.second_moments(adashift(0.1).init(params), {**params, "c": jnp.ones(1)})
