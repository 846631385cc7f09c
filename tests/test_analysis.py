"""Net update factors and correlations against closed forms and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import adashift, scale_by_adashift
from adashift_optax.analysis import (
    correlation,
    lagged_correlation,
    net_update_factors,
    second_moments,
    sequential_net_update_factors,
    sequential_second_moment,
)


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own Adam mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def adam_factors(g, b1, b2, lr):
    """The definition, summed in float64 over the recorded steps, with Adam's bias corrections."""
    t = np.arange(1, len(g) + 1)
    v = np.array([(1 - b2) * np.sum(b2 ** np.arange(s)[::-1] * g[:s] ** 2) for s in t])
    scale = lr / (np.sqrt(v / (1 - b2**t)) + 1e-8) / (1 - b1**t)
    return np.array([np.sum(scale[s:] * (1 - b1) * b1 ** np.arange(len(g) - s)) for s in t - 1])


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_of_adam_by_its_formula(b1):
    g = np.random.default_rng(0).standard_normal(60).astype(np.float32)
    k = jax.jit(lambda g: net_update_factors(optax.adam(0.1, b1=b1, b2=0.99), g))(g)
    np.testing.assert_allclose(k, adam_factors(g.astype(float), b1, 0.99, 0.1), rtol=2e-3)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_of_adam_in_the_limit_of_the_sequential_problem(b1):
    large, d, b2 = 5.02, 6, 0.9
    g = np.tile(np.array([large] + [-1.0] * (d - 1), np.float32), 60)
    k = net_update_factors(optax.adam(0.1, b1=b1, b2=b2, eps=0.0), g)
    limit = sequential_net_update_factors(large, d, b1, b2, 0.1)
    np.testing.assert_allclose(k[-20 * d : -19 * d], limit, rtol=2e-3)
    assert np.argmin(limit) == 0  # the large gradient moves x the least per unit
    assert (
        limit @ np.array([large] + [-1.0] * (d - 1)) < 0 < large - (d - 1)
    )  # and so x goes the wrong way


def test_second_moment_of_the_sequential_problem():
    """The recursion in NumPy, run to its limit."""
    large, d, b2 = 101.0, 101, 0.99
    v, cycle = 0.0, []
    for t in range(60 * d):
        v = b2 * v + (1 - b2) * (large**2 if t % d == 0 else 1.0)
        cycle.append(v)
    np.testing.assert_allclose(sequential_second_moment(large, d, b2), cycle[-d:], rtol=1e-4)


def test_theorem_5():
    """Where v is independent of g_t the expected factor is that of any gradient; Adam's is not."""
    rng = np.random.default_rng(0)
    g = jnp.asarray(rng.choice([10.0, -1.0], p=[0.2, 0.8], size=(300, 200)), jnp.float32)
    means = {}
    for name, tx in {
        "adam": optax.adam(0.1, b1=0.0, b2=0.9),
        "adashift": adashift(0.1, n=1, b1=0.0, b2=0.9, phi="none"),
    }.items():
        k = jax.jit(lambda g, tx=tx: net_update_factors(tx, g))(g)[100:]
        large = g[100:] > 0
        means[name] = [float(np.mean(k, where=part)) for part in (large, ~large)]
    assert means["adam"][0] < 0.8 * means["adam"][1]
    np.testing.assert_allclose(means["adashift"][0], means["adashift"][1], rtol=0.02)


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("phi", ["none", "max"])
def test_theorem_5_with_momentum(phi, b1):
    """Scale first: the factors are the same for every gradient at any b1, already with n = 1.

    In Adam, and in the sliding window with n = 1 and an outer mean, they are not.
    """
    rng = np.random.default_rng(1)
    g = jnp.asarray(rng.choice([10.0, -1.0], p=[0.2, 0.8], size=(300, 200)), jnp.float32)

    def ratio(tx):
        """The factor of large gradients over that of small ones, where all that comes is there."""
        if phi == "max":  # each sequence is one block
            factors = jax.vmap(lambda g: net_update_factors(tx, g), 1, 1)
        else:
            factors = lambda g: net_update_factors(tx, g)  # noqa: E731
        late = slice(100, 300 if b1 < 0.99 else 120)
        k, large = jax.jit(factors)(g)[late], g[late] > 0
        return np.mean(k, where=large) / np.mean(k, where=~large)

    ema = adashift(0.1, n=1, b1=b1, b2=0.9, phi=phi, window="ema")
    assert ratio(ema) == pytest.approx(1, abs=0.015)
    assert ratio(optax.adam(0.1, b1=b1, b2=0.9)) < (0.95 if b1 < 0.99 else 1)


def test_of_blocks():
    """One v for two elements: a large gradient in one shrinks the steps of both, but later."""
    g = jnp.ones((8, 2)).at[3, 0].set(10.0)
    k = net_update_factors(adashift(0.1, n=1, b1=0.0), g)
    np.testing.assert_allclose(k[:, 0], k[:, 1], rtol=1e-5)
    assert float(k[3, 0]) == pytest.approx(float(k[2, 0]), rel=1e-5)
    assert k[4, 0] < 0.5 * k[3, 0]


@pytest.mark.parametrize("b2", [0.9, 0.99])
def test_correlation_of_adam_on_independent_gradients(b2):
    """sqrt(1 - b2^2); AdaShift's is 0, and both are measured at equal b2."""
    g = jax.random.normal(jax.random.key(0), (100_000,))
    for make, want in ((optax.scale_by_adam, np.sqrt(1 - b2**2)), (shifted, 0.0)):
        tx = make(b2=b2)

        def step(before, g, tx=tx, n=int(make is shifted)):
            after = tx.update(g, before)[1]
            return after, second_moments(before if n == 1 else after, g)

        v = jax.lax.scan(step, tx.init(g[0]), g)[1]
        assert abs(correlation(g**2, v) - want) < 0.02


def shifted(b2):
    return scale_by_adashift(1, 0.0, b2)


def test_correlation_is_numpys():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 3)).astype(np.float32)
    want = [np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(correlation(x, y), want, rtol=1e-4)
    np.testing.assert_allclose(correlation(1e-12 * x**2, 1e12 * y), correlation(x**2, y), rtol=1e-3)
    assert not correlation(x, np.ones_like(x)).any()
    want = [[np.corrcoef(x[k:, i], x[:-k, i])[0, 1] for i in range(3)] for k in (1, 4)]
    np.testing.assert_allclose(lagged_correlation(x, (1, 4)), want, rtol=1e-3, atol=1e-5)


def test_second_moments_of_tuples():
    """A tuple of parameters is not taken for the vectors of one v per leaf, nor these for it."""
    params = (jnp.ones((2, 3)), jnp.ones(2))
    grads = jax.tree.map(lambda p: 3 * p, params)
    for phi, shapes in (("none", ((2, 3), (2,))), ("max", ((1, 1), (1,)))):
        tx = adashift(0.1, n=1, b2=0.5, phi=phi)
        for count in (1, 2):
            some, g = params[:count], grads[:count]
            state = tx.init(some)
            for _ in range(2):
                _, state = tx.update(g, state, some)
            v = second_moments(state, some)
            assert tuple(x.shape for x in v) == shapes[:count]
            assert all((x == 6.75).all() for x in v)  # of two squares: n = 1 holds the next v


def test_second_moments_that_are_not_there():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"state must hold one v .* for 2 leaves.*factored"):
        second_moments(adashift(0.1, phi="factored").init(params), params)
    with pytest.raises(ValueError, match=r"for 3 leaves.*parameters that state was made for"):
        second_moments(adashift(0.1).init(params), {**params, "c": jnp.ones(1)})


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.chain(optax.clip(1.0), tx)])
def test_second_moments(wrap):
    rng = np.random.default_rng(0)
    g = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), PARAMS)
    shapes = {
        "adam": {"w": (2, 3), "b": (3,)},
        "max": {"w": (1, 1), "b": (1,)},
        "none": {"w": (2, 3), "b": (3,)},
        "axes": {"w": (2, 1), "b": (1,)},
    }
    optimizers = {
        "adam": optax.adam(0.1, b2=0.5),
        "max": adashift(0.1, n=2, b2=0.5),
        "none": adashift(0.1, n=2, b2=0.5, phi="none"),
        "axes": adashift(0.1, n=2, b2=0.5, block_axes=(-1,)),
    }
    for name, tx in optimizers.items():
        tx = wrap(tx)
        state = tx.init(PARAMS)
        for _ in range(3):
            _, state = tx.update(g, state, PARAMS)
        v = second_moments(state, PARAMS)
        assert jax.tree.map(jnp.shape, v, is_leaf=lambda x: hasattr(x, "shape")) == shapes[name]
        for key in PARAMS:
            clipped = np.clip(g[key], -1, 1) if wrap(optax.identity()).init(PARAMS) else g[key]
            square = np.asarray(clipped, float) ** 2
            if name == "max":
                square = square.max(keepdims=True)
            if name == "axes":
                square = square.max(-1, keepdims=True)
            weight = (
                0.875 if name == "adam" else 0.5
            )  # of three steps, or of one that is old enough
            np.testing.assert_allclose(v[key], weight * square, rtol=1e-5)
