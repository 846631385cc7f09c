"""What n updates of zero do to the programs around them; other surprises; what helps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import settings
from common import assert_same_bits

from adashift_optax import adashift, adashift_factored

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def path_of(tx, steps=30, **extra):
    """x after each step on x^2 from 3, with the start in front, and the last state."""
    tx = optax.with_extra_args_support(tx)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(2 * x, state, x, value=x**2, **extra)
        return (x + updates, state), x

    def run(x):
        (x, state), xs = jax.lax.scan(step, (x, tx.init(x)), length=steps)
        return jnp.append(xs, x), state

    xs, state = jax.jit(run)(jnp.float32(3))
    return np.asarray(xs), state


def first_stop(xs, patience):
    """The step before which early stopping gives up."""
    best, since = np.inf, 0
    for t, x in enumerate(xs[:-1], 1):
        best, since = (x**2, 0) if x**2 < best else (best, since + 1)
        if since == patience:
            return t
    return None


def solved(xs):
    """The step after which a solver takes a small step with a small change of f for the end.

    Optimistix's rule; before the first step its f is infinite.
    """
    for t in range(2, len(xs)):
        if abs(xs[t] - xs[t - 1]) < 1e-6 and abs(xs[t - 1] ** 2 - xs[t - 2] ** 2) < 1e-6:
            return t
    return None


def test_early_stopping_and_solvers():
    """With n = 10 both end before the first step; with n = 1 or factored neither does."""
    found = path_of(adashift(0.01))[0]
    assert first_stop(found, 5) == 6
    assert first_stop(found, 5 + 10) is None
    assert solved(found) == 2
    for tx in (adashift(0.01, n=1), adashift_factored(0.01), optax.adam(0.01)):
        found = path_of(tx)[0]
        assert first_stop(found, 5) is None
        assert solved(found) is None


def test_reduce_on_plateau():
    """With its default patience of 10 it cuts the rate; not with patience + n, or n = 1."""

    def scale(tx, patience=10):
        plateau = optax.contrib.reduce_on_plateau(patience=patience)
        return path_of(optax.chain(tx, plateau))[1][-1].scale

    assert scale(adashift(0.01)) < 1
    assert scale(adashift(0.01), 10 + 10) == 1
    for tx in (adashift(0.01, n=1), adashift_factored(0.01), optax.adam(0.01)):
        assert scale(tx) == 1


@pytest.mark.parametrize(("n", "k"), [(3, 2), (1, 4), (0, 4)])
def test_multi_steps(n, k):
    """n k calls without an update, and k - 1 more that only accumulate, as every k do."""
    inner = adashift(0.1, n=n) if n else adashift_factored(0.1)
    tx, x = optax.MultiSteps(inner, k), jnp.ones(2)
    _, updates = jax.lax.scan(
        lambda state, _: tx.update(x, state, x)[::-1], tx.init(x), length=n * k + 2 * k
    )
    moved = [bool(np.any(u)) for u in updates]
    assert moved == [(t > n * k and t % k == 0) for t in range(1, n * k + 2 * k + 1)]


RATED = [lambda r: adashift(r, n=1), lambda r: adashift_factored(r, b1=0), optax.adam]


@pytest.mark.parametrize("make", RATED, ids=["n=1", "factored", "adam"])
def test_bfloat16_parameters_near_1_and_small_rates(make):
    """Between 1 and 2 they are 2^-7 apart: a step of less than half of that is rounded away."""
    for rate, moves in ((3.8e-3, False), (4.2e-3, True)):
        tx, params = make(rate), jnp.full(4, 1.5, jnp.bfloat16)
        state, p = tx.init(params), params
        for _ in range(20):
            updates, state = tx.update(params, state, p)
            p = optax.apply_updates(p, updates)
        assert p.dtype == jnp.bfloat16
        assert np.any(p != params) == moves


def test_the_whole_state_in_host_memory_between_updates():
    """There and back around each update: bit for bit the same."""
    params = {"matrix": jnp.ones((4, 4)), "other": jnp.ones((4, 2))}
    txs = {name: settings.optimizer(name) for name in ("max", "none bfloat16", "factored bfloat16")}

    def move(state, kind):
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
        return jax.device_put(state, place)

    def all_of(g, states):
        pairs = {name: tx.update(g, states[name], params) for name, tx in txs.items()}
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

    update, state = jax.jit(all_of), {name: tx.init(params) for name, tx in txs.items()}
    parked = move(state, "pinned_host")
    for seed in range(12):
        g = jax.tree.map(lambda p, s=seed: jax.random.normal(jax.random.key(s), p.shape), params)
        u, state = update(g, state)
        v, back = update(g, move(parked, "device"))
        parked = move(back, "pinned_host")
        assert {x.sharding.memory_kind for x in jax.tree.leaves(parked)} == {"pinned_host"}
        jax.tree.map(assert_same_bits, u, v)


@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**16), (3, 2**31)], ids=str)
def test_leaves_of_2_to_the_31_and_more_elements(shape):
    """They can be traced, in every setting."""
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name in settings.SETTINGS:
        if name == "callable axes" or (name == "axes" and len(shape) < 2) or name == "callable":
            continue  # this function of a user counts elements in an int32, and asks for names
        tx = settings.scale_by(name)
        state = jax.eval_shape(tx.init, params)
        updates, new = jax.eval_shape(tx.update, params, state)
        assert updates.shape == shape
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
