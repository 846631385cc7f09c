"""A million updates, one run for each layout, and a count that has reached the largest int32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import settings
from common import assert_same_bits
from compiler import AS_USERS

from adashift_optax import scale_by_adashift, scale_by_adashift_factored

STEPS, EVERY = 1_000_000, 1000
# Means beside a standard deviation of 1: from terms of m that cancel to ones that all add up, for
# which the rounding of the weights does not average out.
MEANS = np.array([[0, 0, 0.1, 0.5], [1, 3, 10, 100]], np.float32)
LARGEST = 2**31 - 1


@functools.cache
def gradients():
    rng = np.random.default_rng(0)
    return rng.standard_normal((STEPS, *MEANS.shape), np.float32) + MEANS


def soak(tx):
    """The state after every EVERY updates, from one compiled loop."""

    def chunk(state, g):
        state, _ = jax.lax.scan(lambda s, g: (tx.update(g, s)[1], None), state, g)
        return state, state

    loop = jax.jit(lambda s, g: jax.lax.scan(chunk, s, g)[1], compiler_options=AS_USERS)
    return loop(tx.init(jnp.zeros_like(MEANS)), gradients().reshape(-1, EVERY, *MEANS.shape))


def worst(found, want, size):
    return np.max(np.abs(np.asarray(found, np.float64) - want) / size)


PAPER = {
    "max": {},
    "axes": {"block_axes": (0,), "phi": "mean"},
    "none bfloat16": {"phi": "none", "queue_dtype": "bfloat16"},
    "b1=0": {"b1": 0},
    "n=40": {"n": 40, "b1": 0.999},  # an error fades by 1 - b1 per step only
}
B2 = 0.999
OF_V = 2**-24 / (1 - B2)  # half a unit in the last place per step, where v is constant
WEIGHTS = (1 - B2) * B2 ** np.arange(40_000)  # what is older weighs 4e-18


@pytest.mark.all_only
@pytest.mark.parametrize("name", PAPER)
def test_a_million_updates_do_not_drift(name):
    """m stays within 1e-5 of its exact window, v as near to its exact mean as it can.

    Relative to the window of |g|, which, unlike m, is never near 0.
    """
    kwargs = {"n": 10, "b1": 0.9, "phi": "max", **PAPER[name]}
    n, b1, exact = kwargs["n"], kwargs["b1"], gradients()
    states = soak(scale_by_adashift(**kwargs))
    if "queue_dtype" in kwargs:
        exact = exact.astype(jnp.bfloat16)
    weights = b1 ** np.arange(n) / np.sum(b1 ** np.arange(n))
    for i, m in enumerate(states.mu if states.mu is not None else []):
        latest = exact[EVERY * (i + 1) - n : EVERY * (i + 1)][::-1].astype(np.float64)
        want, size = (np.tensordot(weights, x, 1) for x in (latest, np.abs(latest)))
        assert worst(m, want, size) < 1e-5
    squares = exact[: STEPS - n].astype(np.float64)[: -len(WEIGHTS) - 1 : -1] ** 2
    of_blocks = {"mean": lambda x: x.mean(1, keepdims=True), "max": lambda x: x.max((1, 2))}
    v = np.tensordot(WEIGHTS, of_blocks.get(kwargs["phi"], lambda x: x)(squares), 1)
    assert worst(jax.tree.leaves(states.nu)[0][-1].reshape(v.shape), v, v) < OF_V
    assert states.count[-1] == STEPS
    assert states.slot[-1] == STEPS % (n + 1)


@pytest.mark.all_only
@pytest.mark.parametrize("kwargs", [{}, {"mu_dtype": "bfloat16"}, {"b1": 0}], ids=str)
def test_a_million_factored_updates_do_not_drift(kwargs):
    """R, C and their mean are as near as v above; the momentum is below what bounds s."""
    states = soak(scale_by_adashift_factored(**kwargs))
    squares = gradients().astype(np.float64)[: -len(WEIGHTS) - 1 : -1] ** 2
    rows, columns = (np.tensordot(WEIGHTS, squares.mean(k, keepdims=True), 1) for k in (2, 1))
    wanted = zip(
        (states.rows, states.columns, states.means), (rows, columns, rows.mean()), strict=True
    )
    assert all(worst(found[-1], want, want) < OF_V for found, want in wanted)
    assert states.mu is None or np.max(np.abs(states.mu)) < (1 - B2) ** -0.5
    assert states.count[-1] == STEPS


NAMES = (*settings.LAYOUTS, "n=1", "none n=1")


@pytest.mark.slow
def test_count_saturates_and_the_ring_still_turns():
    """A thousand steps past int32's maximum, as if the count had not stopped; every layout."""
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((1020, 3, 2)).astype(np.float32)
    txs = {name: settings.scale_by(name) for name in NAMES}

    def step(states, g):
        pairs = {name: tx.update(g, states[name]) for name, tx in txs.items()}
        return {n: s for n, (_, s) in pairs.items()}, {n: u for n, (u, _) in pairs.items()}

    @jax.jit
    def run(count, states, grads):
        states = {name: state._replace(count=count) for name, state in states.items()}
        return jax.lax.scan(step, states, grads)

    start = {name: tx.init(grads[0]) for name, tx in txs.items()}
    early, _ = run(jnp.int32(0), start, grads[:20])  # to somewhere in a turn of each ring
    # b2^k is 0 for a count this large
    (late, updates), (other, wanted) = (
        run(jnp.int32(count), early, grads[20:]) for count in (LARGEST - 2, 2**30)
    )
    jax.tree.map(assert_same_bits, updates, wanted)
    _, corrupted = run(jnp.int32(-1), early, grads[20:])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(corrupted))
    for name in NAMES:
        assert np.all(np.any(updates[name], (1, 2))), name
        assert late[name].count == LARGEST
        assert other[name].count == 2**30 + 1000
        jax.tree.map(assert_same_bits, late[name]._replace(count=0), other[name]._replace(count=0))
        if hasattr(late[name], "slot"):
            n = settings.SETTINGS[name].get("n", 10)
            assert late[name].slot == 1020 % (n + 1)
