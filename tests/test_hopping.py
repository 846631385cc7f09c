"""The hopping window, our variant: constant memory, and still no gradient in both m and v."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from common import SHAPES, make_grads, run, worst_error
from random_cases import run as run_scan
from test_exact import N_AND_DTYPE, PHI_AND_B1, TOLERANCE

from adashift_optax import scale_by_adashift


@pytest.mark.parametrize(("phi", "b1"), [*PHI_AND_B1, (np.median, 0.9)])
@pytest.mark.parametrize(("n", "dtype"), [*N_AND_DTYPE, (5, "float64")])
def test_equals_reference(n, dtype, phi, b1, x64):
    grads = make_grads(4 * n + 5, dtype=dtype)
    library_phi = jnp.median if callable(phi) else phi
    updates = run(scale_by_adashift(n, b1, 0.99, phi=library_phi, window="hopping"), grads)
    for name in SHAPES:
        error = worst_error(updates, grads, name, n, b1, 0.99, 1e-10, phi, window="hopping")
        assert error < TOLERANCE[dtype]


def test_block_axes_equal_reference(x64):
    grads = make_grads(15, {"stack": (2, 3, 2)})
    updates = run(scale_by_adashift(3, block_axes=(1, 2), window="hopping"), grads)
    args = (3, 0.9, 0.999, 1e-10, "max")
    assert worst_error(updates, grads, "stack", *args, axes=(1, 2), window="hopping") < 1e-12


def observed_supports(n, b1, window, elementwise, steps):
    """At every step the sets of gradients in m and in v, seen by gradients one-hot in time.

    Coordinate j is 1 at step j and 0 elsewhere. Under a block-wise v every coordinate of m shows in
    the update; v of one block per element is nonzero where its own gradient has come.
    """
    block = scale_by_adashift(n, b1, 0.5, phi="mean", window=window)
    own = {"phi": "none"} if elementwise else {"block_axes": ()}
    element = scale_by_adashift(n, b1, 0.5, window=window, **own)
    grads = jnp.eye(steps, dtype=jnp.float64)
    block_state, element_state = block.init(grads[0]), element.init(grads[0])
    block_update, element_update = jax.jit(block.update), jax.jit(element.update)
    for t in range(1, steps + 1):
        u, block_state = block_update(grads[t - 1], block_state)
        before = element_state
        _, element_state = element_update(grads[t - 1], element_state)
        in_m = np.flatnonzero(np.abs(u) > 1e-9)  # the recurrence leaves 1e-17 of what has left
        in_v = np.flatnonzero((before if n == 1 else element_state).nu)  # n = 1: of the next step
        yield t, set((in_m + 1).tolist()), set((in_v + 1).tolist())


@pytest.mark.parametrize("elementwise", [True, False])
@pytest.mark.parametrize("window", ["sliding", "hopping"])
@pytest.mark.parametrize("n", range(1, 12))
def test_m_and_v_share_no_gradient_and_m_spans_at_most_n(n, window, elementwise, x64):
    for t, in_m, in_v in observed_supports(n, 0.9, window, elementwise, 3 * n + 4):
        assert in_v == reference.support_v(n, elementwise, window, t)
        if t > n:  # before, updates are 0 and show nothing
            assert in_m == reference.support_m(n, 0.9, t, window)
            assert t in in_m
            assert len(in_m) >= (n if window == "sliding" else n // 2 + 1)
            assert max(in_m) - min(in_m) + 1 <= n
            assert not in_m & in_v


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("phi", ["max", "mean", "none", "factored"])
@pytest.mark.parametrize("n", [2, 5, 10])
def test_a_bad_gradient_is_gone_after_n_steps(n, phi, bad):
    """Nothing of it stays in m, and v misses one square of 200."""
    grads = [g["w"] for g in make_grads(200 + 4 * n, {"w": (3, 2)}, np.float32)]
    args = n, 0.9, 0.999, 1e-10, phi
    want, _ = reference.adashift(grads, *args, window="hopping")  # without the bad gradient
    grads[200] = np.where([[0, 0], [0, 1], [0, 0]], np.float32(bad), grads[200])
    updates = run_scan(scale_by_adashift(n, phi=phi, window="hopping"), np.stack(grads), grads[0])
    assert not np.allclose(updates[200], want[200], rtol=1e-2)
    np.testing.assert_allclose(updates[200 + n :], want[200 + n :], rtol=0.05)


@pytest.mark.parametrize("bad", [np.nan, 1e30])
def test_what_the_sliding_window_does_with_a_bad_gradient(bad):
    """It forgets a NaN never, and a huge gradient's rounding error as b1^k: both documented."""
    grads = np.ones((1200, 2), np.float32)
    grads[20, 0] = bad
    updates = run_scan(scale_by_adashift(10), grads, grads[0])
    assert np.all(np.isfinite(updates[:, 1]))
    if np.isnan(bad):
        assert np.all(np.isnan(updates[20:, 0]))
    else:
        assert np.all(np.isfinite(updates))
        assert abs(updates[40, 0]) > 1e15  # 20 steps later still the rounding error of 1e30
        np.testing.assert_allclose(updates[-1], 1, rtol=1e-5)


def final_x(tx, loss, steps):
    """x after `steps` on a counterexample with x in [-1, 1]."""

    @jax.jit
    def train():
        def step(carry, t):
            x, state = carry
            u, state = tx.update(jax.grad(loss)(x, t), state)
            return (jnp.clip(x + u, -1, 1), state), None

        return jax.lax.scan(step, (jnp.zeros([]), tx.init(jnp.zeros([]))), jnp.arange(steps))[0][0]

    with jax.numpy_dtype_promotion("standard"):
        return float(train())


@pytest.mark.parametrize("window", ["sliding", "hopping"])
def test_sequential_counterexample(window):
    """Reddi's sequence with the paper's constants: the optimum is -1, and Adam goes to +1."""

    def loss(x, t):
        return jnp.where(t % 101 == 0, 1010.0, -10.0) * x

    def schedule(count):
        return 0.1 * jax.lax.rsqrt(count + 1.0)

    rate = optax.scale_by_learning_rate(schedule)
    ours = optax.chain(scale_by_adashift(10, 0.9, 0.99, window=window), rate)
    adam = optax.chain(optax.scale_by_adam(0.9, 0.99), rate)
    assert final_x(ours, loss, 100_000) < -0.9
    assert final_x(adam, loss, 100_000) > 0.9


@pytest.mark.parametrize("window", ["sliding", "hopping"])
def test_stochastic_counterexample(window):
    """101 x with probability 1.02 / 102, else -x: the mean gradient is positive, Adam goes up."""
    draws = jax.random.uniform(jax.random.key(0), [200_000]) < 1.02 / 102

    def loss(x, t):
        return jnp.where(draws[t], 101.0, -1.0) * x

    rate = optax.scale_by_learning_rate(1e-3)
    ours = optax.chain(scale_by_adashift(10, 0.9, 0.999, window=window), rate)
    adam = optax.chain(optax.scale_by_adam(0.0, 0.999), rate)
    assert final_x(ours, loss, 200_000) < -0.3
    assert final_x(adam, loss, 200_000) > 0.3
