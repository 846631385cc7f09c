"""Numbers at the ends of their range, by three rules and no more.

A statistic that is not finite does not join v; where a_t g^2 overflows, the step of the factored
rule is 0; what enters the window is at most 2^120. Gradients that are not finite make updates that
are not finite, as in `optax.adam`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import settings
from common import in_64_bits, scan

from adashift_optax import scale_by_adashift, scale_by_adashift_factored

HALF = float(np.finfo(np.float32).max) / 2
DTYPES = ["float16", "bfloat16", "float32", "complex64", "float64"]


def many(txs, grads):
    """The updates of all steps of each optimizer and its last state, from one program."""
    program = jax.jit(
        lambda g: {name: scan(tx, g, jax.tree.map(lambda x: x[0], g)) for name, tx in txs.items()}
    )
    return jax.tree.map(np.asarray, program(grads))


def extremes(dtype):
    info = jnp.finfo(dtype)
    largest, tiny, least = (float(x) for x in (info.max, info.tiny, info.smallest_subnormal))
    return [0, tiny, 1, largest, -largest, largest / 2, 1e-20, least, 1] * 3


@pytest.mark.parametrize("name", [*settings.LAYOUTS, "mean", "none", "none n=1"])
def test_finite_gradients_make_no_nan(name):
    """From the smallest to the largest number of each dtype, with zeros between. v stays finite."""
    rng = np.random.default_rng(0)
    narrow = {"queue_dtype", "mu_dtype"} & settings.SETTINGS[name].keys()
    grads = {}
    for dtype in DTYPES:
        if dtype == "complex64" and narrow:
            continue
        steps = [rng.permutation([[v, 0], [v / 3, 1e-3]]) for v in extremes(dtype)]
        grads[dtype] = np.array(steps).astype(jnp.dtype(dtype))
    with in_64_bits(), jax.numpy_dtype_promotion("standard"):
        updates, state = many({"": settings.scale_by(name)}, grads)[""]
    for dtype, u in updates.items():
        assert not np.any(np.isnan(u)), dtype
    state = state._replace(**({"nu_queue": None} if name in settings.PAPER else {}))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state) if x.dtype != np.uint16)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_derivatives_are_free_of_units(unit):
    """As the rule is without eps. With the square of mean(R) they would under- or overflow."""
    tx, weight = scale_by_adashift_factored(eps=0), jnp.arange(12.0).reshape(3, 2, 2)
    grads = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2)), jnp.float32)
    total = jax.jit(lambda g: jnp.vdot(scan(tx, g, g[0])[0], weight))
    want = jax.grad(total)(grads)
    np.testing.assert_allclose(jax.grad(total)(unit * grads) * unit, want, rtol=1e-3, atol=1e-5)


def test_statistics_that_overflow_do_not_join_v():
    """A square above half of the largest number counts as overflow. Limits of the reference."""
    g = np.ones((12, 2, 3), np.float32)
    g[4, 0, 0], g[6, 1, 2], g[7, 1, 1] = 3e38, 1.35e19, 1e19
    paper = {phi: scale_by_adashift(0, n=2, phi=phi) for phi in ("max", "mean", "none")}
    for phi, (u, state) in many(paper, g).items():
        want, scales = map(np.array, reference.adashift(list(g), 2, 0, phi=phi, limit=HALF))
        np.testing.assert_allclose(u, want, rtol=2e-5, err_msg=phi)
        assert np.all(scales[2:] > 0)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.nu))
    g[6, 1, 2] = 1  # its square would be between the limits of a mean and of an element
    always = g.copy()
    always[:, 0, 0] = 3e38  # from the first step on: the mean of R goes on without this row
    for x in (always, g):
        u, state = many({"": scale_by_adashift_factored(0)}, x)[""]
        want = np.array(reference.factored(list(x), 0, limit=HALF)[0])
        np.testing.assert_allclose(u, want, rtol=2e-5)
    assert u[4, 0, 0] == 0  # its square overflows, so that it makes no step
    assert u[7, 1, 1] > 1


def test_squares_just_below_the_limit():
    """Neither v nor vhat overflows where every square is near half of the largest number."""
    g = np.full((14, 2, 4), np.sqrt(HALF) * 0.9999, np.float32)
    paper = {
        phi: scale_by_adashift(b2=b2, n=2, phi=phi) for phi in ("max", "none") for b2 in (0, 0.999)
    }
    for u, _ in many(paper, g).values():
        np.testing.assert_allclose(u[2:], 1, rtol=1e-5)


@pytest.mark.parametrize("queue", [None, "bfloat16"])
def test_what_enters_the_window_is_bounded(queue):
    """By 2^120, for all that is larger, and it leaves as it entered. In 64 bits by 2^1016."""
    g = np.ones((20, 2), np.float32)
    g[8:13] = [3.4e38, -3.4e38]
    bounded = np.clip(g, -(2.0**120), 2.0**120)
    tx = scale_by_adashift(0.5, n=4, queue_dtype=queue)
    u = many({"": tx}, g)[""][0]
    want = np.array(reference.adashift(list(bounded), 4, 0.5, of=list(g), limit=HALF)[0])
    np.testing.assert_allclose(u[:16], want[:16], rtol=1e-5)
    left = 2.0**120 * 2.0**-24 * 10 * 0.5 ** np.arange(8)[4:]  # by the recurrence, as it fades
    assert np.all(np.abs(u[16:] - want[16:]) <= left[:, None])
    with in_64_bits():
        wide = np.ones((12, 2))
        wide[6:] = [1.7e308, -1.7e308]
        u = many({"": scale_by_adashift(0.5, n=4)}, wide)[""][0]
        limit = np.finfo(float).max / 2
        bounded = np.clip(wide, -(2.0**1016), 2.0**1016)
        with np.errstate(over="ignore"):
            want = reference.adashift(list(bounded), 4, 0.5, of=list(wide), limit=limit)[0]
        np.testing.assert_allclose(u, want, rtol=1e-12)


NOT_FINITE = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("name", settings.LAYOUTS)
def test_gradients_that_are_not_finite(name):
    """They show at once in the update, as in `optax.adam`, and v goes on without their squares."""
    n = settings.SETTINGS[name].get("n", 10)
    steps, at = 3 * n + 3, n + 2
    clean = np.ones((steps, 3, 2, 2), np.float32)
    dirty = clean.copy()
    dirty[at, :, 0, 0] = NOT_FINITE
    tx, adam = settings.scale_by(name), optax.scale_by_adam()

    def run(g):
        return scan(tx, {"w": g}, {"w": g[0]}), scan(adam, g, g[0])[0]

    run = jax.jit(jax.vmap(run, in_axes=1))
    with jax.numpy_dtype_promotion("standard"):  # for Adam
        (u, state), of_adam = run(dirty)
        (_, without), _ = run(clean)
    u = np.asarray(u["w"])
    assert not np.any(np.isfinite(u[:, at, 0, 0]))
    assert not np.any(np.isfinite(of_adam[:, at, 0, 0]))
    assert np.all(np.isfinite(u.reshape(3, steps, 4)[..., 1:]))
    for field in ("nu", "rows", "columns", "means"):
        for x, y in zip(
            *(jax.tree.leaves(getattr(s, field, None)) for s in (state, without)), strict=True
        ):
            np.testing.assert_allclose(x, y, rtol=0.5)
    if "b1=0" in name:  # nothing remembers it
        assert np.all(np.isfinite(u[:, at + 1 :]))


def test_no_scale_no_step():
    """A block of zeros does not move at its first gradient, but n steps later; nor by m / eps."""
    g = np.zeros((14, 2, 3), np.float32)
    g[5:] = 1
    g[:, 1, 1] = 1  # an element, a row and a column that are not 0
    for phi in ("max", "none"):
        for b1 in (0, 0.9):
            tx = scale_by_adashift(b1, n=2, phi=phi, block_axes=(-1,))
            u = many({"": tx}, g)[""][0]
            assert np.all(u[:7, 0] == 0)
            assert np.all(u[7:, 0] > 0)
            assert np.all(np.abs(u) < 10)
    u = many({"": scale_by_adashift_factored(0)}, g)[""][0]
    assert np.all(u[:5, 0] == 0)
    assert np.all(u[5:] > 0)  # a row has a scale at its first gradient
    steps = np.arange(1, 15)
    bound = (0.001 / (1 - 0.999**steps)) ** -0.5
    assert np.all(np.abs(u) <= bound[:, None, None] * 1.0001)


def test_a_first_gradient_after_many_is_bounded():
    """|s_t| is at most a_t^-0.5: of a single huge gradient after 300 steps of small ones."""
    g = np.full((300, 2, 2), 1e-6, np.float32)
    g[-1, 0, 0] = 1e6
    u = many({"": scale_by_adashift_factored(0, b2=0.99)}, g)[""][0]
    np.testing.assert_allclose(u[-1, 0, 0], (0.01 / (1 - 0.99**300)) ** -0.5, rtol=1e-4)


def test_float32_inside_whatever_the_gradients_are():
    """v of float16 gradients of 1e-4 would be 1e-8: below float16's smallest number."""
    g = np.full((8, 3), 1e-4, np.float16)
    paper, factored = scale_by_adashift(n=2), scale_by_adashift_factored(0)
    for u, _ in many({"paper": paper, "factored": factored}, g).values():
        np.testing.assert_allclose(np.asarray(u[-1], float), 1, rtol=1e-3)


def test_products_of_means_that_underflow():
    """Of gradients of 1e-12 R C is 0 in float32, but not R C / mean(R)."""
    g = np.full((8, 3, 2), 1e-12, np.float32)
    u = many({"": scale_by_adashift_factored(0, eps=0)}, g)[""][0]
    np.testing.assert_allclose(u, 1, rtol=1e-5)
