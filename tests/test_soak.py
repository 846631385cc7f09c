"""A million updates, and a count that has reached the largest int32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from common import assert_same_bits
from compiler import AS_USERS
from test_state import VARIANTS

from adashift_optax import scale_by_adashift

STEPS, EVERY = 1_000_000, 1000
# Means beside a standard deviation of 1: from terms of m that cancel to ones that all add up, for
# which the rounding of the weights does not average out.
MEANS = np.array([0, 0, 0.1, 0.5, 1, 3, 10, 100], np.float32)
SIZE = len(MEANS)

# Gradients of every dtype are those of float32, rounded; n and b1 of the second half are the
# hardest: there an error fades by 1 - b1 per step only.
SOAKS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "queue_bfloat16": {"queue_dtype": "bfloat16"},
    "none": {"phi": "none"},
    "none_bfloat16": {"phi": "none", "dtype": "bfloat16"},
    "hopping": {"window": "hopping"},
    "hopping_bfloat16": {"window": "hopping", "dtype": "bfloat16"},
    "n_40": {"n": 40, "b1": 0.99},
    "n_40_b1_0.999": {"n": 40, "b1": 0.999},
    "n_40_b1_0.999_bfloat16": {"n": 40, "b1": 0.999, "dtype": "bfloat16"},
    "n_40_hopping": {"n": 40, "b1": 0.999, "window": "hopping"},
    "ema": {"window": "ema"},
    "ema_n_1_b1_0.95": {"n": 1, "b1": 0.95, "window": "ema"},
}


@pytest.fixture(scope="module")
def grads():
    rng = np.random.default_rng(0)
    return rng.standard_normal((STEPS, SIZE), np.float32) + MEANS


def soak(tx, grads, dtype, window):
    """m after every EVERY updates, and the last state, from one compiled loop."""

    def step(state: Any, g: jax.Array):
        return tx.update(g.astype(dtype), state)[1], None

    def record(state: Any, chunk: jax.Array):
        state, _ = jax.lax.scan(step, state, chunk)
        # The hopping window's m_t is the older part: the first in the second half of a period.
        return state, (jnp.stack(state.mu) if window == "hopping" else state.mu)

    state = tx.init(jnp.zeros(SIZE, dtype))
    chunks = grads.reshape(-1, EVERY, SIZE)
    loop = jax.jit(lambda s, x: jax.lax.scan(record, s, x), compiler_options=AS_USERS)
    return loop(state, chunks)


def scaled(grads, n, b2):
    """Each gradient over the root of its vhat, whose blocks are steps: s_t, 0 for t <= n."""
    v, scales = 0.0, [np.inf] * n
    for k, x in enumerate(np.max(grads[:-n] ** 2, 1).tolist(), 1):
        v = b2 * v + (1 - b2) * x
        scales.append((v / (1 - b2**k)) ** 0.5)
    return grads / np.array(scales)[:, None]


@pytest.mark.parametrize("name", SOAKS)
def test_a_million_updates_do_not_drift(name, grads):
    """m stays within 1e-5 of its exact window, v as near to its exact mean as it can.

    Relative to the window of |g| (for "ema" of |s|, of as many as have a weight), which, unlike m,
    is never near 0: an error of 1e-5 of it moves no update by more than 1e-5 of a typical one.
    """
    args = {"n": 10, "b1": 0.9, "phi": "max", "window": "sliding"} | SOAKS[name]
    dtype = args.pop("dtype", "float32")
    n, b1, window, b2 = args["n"], args["b1"], args["window"], 0.999
    state, mus = soak(scale_by_adashift(**args, b2=b2), grads, dtype, window)
    seen = grads.astype(jnp.dtype(dtype))
    exact = seen.astype(jnp.dtype(args.get("queue_dtype") or dtype)).astype(np.float64)
    worst, plain, length = 0.0, 0.0, n
    if window == "ema":
        exact, length = scaled(exact, n, b2), min(int(40 / (1 - b1)), EVERY - n)
    for i, m in enumerate(np.asarray(mus, np.float64)):
        t = EVERY * (i + 1)
        if window == "hopping":
            m = m[0 if (t - 1) % n >= n // 2 else 1]
        # The weights are 0 beyond n gradients, and periodic in t; those of "ema" beyond `length`
        start = length + n if window == "ema" else 2 * n + t % n
        w = reference.WINDOWS[window](n, b1, start)[:length]
        latest = exact[t - length : t][::-1]
        error = np.abs(m - w @ latest)
        worst = max(worst, np.max(error / (w @ np.abs(latest))))
        plain = max(plain, np.max(error / np.abs(w @ latest)))

    elementwise = args["phi"] == "none"
    latest = seen[: STEPS - n].astype(np.float64)[:-40_001:-1] ** 2  # b2^40000 is 4e-18
    squares = latest if elementwise else latest.max(1, keepdims=True)
    v = (1 - b2) * b2 ** np.arange(len(squares)) @ squares
    nu = np.asarray(state.nu if elementwise else state.nu[0], np.float64)
    of_v = np.max(np.abs(nu / v - 1))
    print(f"{name}: m {worst:.1e} of |g|, {plain:.1e} of m; v {of_v:.1e}")  # see pytest -s
    assert worst < 1e-5
    assert of_v < 2**-24 / (1 - b2)  # half a unit in the last place per step, where it is constant
    assert state.count == STEPS
    (clock,) = state.clock.values()
    slots = n + 1
    assert clock == STEPS % (slots * n if window == "hopping" else slots)


LARGE, LARGEST = 2**30, 2**31 - 1


@pytest.mark.parametrize(
    ("variant", "n"), [*((variant, 3) for variant in VARIANTS), ("max", 1), ("none", 1)]
)
def test_count_saturates_and_the_ring_still_turns(variant, n):
    """Past int32's maximum, through several turns of the ring, as if the count had not stopped."""
    turn = n * (n + 1)  # of the clock: all turns of the ring and of the hops
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((turn + 2 + 3 * turn, 3, 2)).astype(np.float32)
    # b2^k is 0 for a count this large; as a schedule it is one that does not change any more
    b2 = {"b2": (lambda k: 0.9) if "b2" in VARIANTS[variant] else 0.9}
    tx = scale_by_adashift(n, **VARIANTS[variant] | b2)

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, (updates, state)

    @jax.jit
    def run(count, state, grads):
        return jax.lax.scan(step, state._replace(count=count), grads)

    early, _ = run(jnp.int32(0), tx.init(grads[0]), grads[: turn + 2])  # to somewhere in a turn
    (late, (updates, states)), (other, (wanted, _)) = (
        run(jnp.int32(count), early, grads[turn + 2 :]) for count in (LARGEST - 2, LARGE)
    )
    assert_same_bits(updates, wanted)
    assert np.all(np.any(updates, (1, 2)))
    assert late.count == LARGEST
    assert np.all(np.diff(states.count) >= 0)
    assert other.count == LARGE + 3 * turn
    jax.tree.map(assert_same_bits, late._replace(count=0), other._replace(count=0))
    (clocks,) = states.clock.values()
    if n > 1:
        assert len(np.unique(clocks)) >= n + 1
