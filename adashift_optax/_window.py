"""The first moment m_t: the weighted mean of the latest gradients, none older than n - 1 steps.

Both windows keep means rather than sums, so that finite gradients cannot overflow them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Parts = Sequence[jax.Array]


def one_minus_powers(b: Any, k: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """1 - b^k and 1 - b^(k-1), with exponents of at least 1.

    By expm1, because 1 - b^k loses 5 digits in float32 for b = 0.999 and small k.
    """
    log_b = np.log(b) if isinstance(b, float) and b else jnp.log1p(b - 1)

    def one_minus_power(k: jax.Array) -> jax.Array:
        return -jnp.expm1(jnp.maximum(k, 1).astype(dtype) * jnp.asarray(log_b, dtype))

    return one_minus_power(k), one_minus_power(k - 1)


@dataclasses.dataclass(frozen=True)
class Sliding:
    """The paper's window: m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i, kept by its recurrence.

    Rounding errors of the recurrence shrink by b1 at every step.
    """

    n: int
    b1: Any

    reads_queue = True
    num_parts = 1

    def weights(self, phase: jax.Array, dtype: jnp.dtype) -> list[jax.Array]:
        """The weights of m_{t-1}, g_t and g_{t-n} in m_t."""
        del phase
        xp, b1 = jnp, self.b1
        if isinstance(b1, float):
            # Rounded first, or a gradient would fade by another b1 than the one it leaves with.
            xp, b1 = np, float(np.asarray(b1, jnp.finfo(dtype).dtype))
        powers = b1 ** xp.arange(self.n + 1, dtype=xp.result_type(b1))
        total = xp.sum(powers[:-1])
        return [jnp.asarray(w, dtype) for w in (b1, 1 / total, powers[-1] / total)]

    def step(
        self, parts: Parts, g: jax.Array, g_old: jax.Array, weights: Sequence[jax.Array]
    ) -> tuple[Parts, jax.Array]:
        """The parts after g_t came and g_{t-n} went, and m_t."""
        keep, enter, leave = weights
        m = keep * parts[0] + (enter * g - leave * g_old)
        return [m], m


@dataclasses.dataclass(frozen=True)
class Hopping:
    """Constant memory: two means of the latest gradients, each emptied every n steps in turn.

    With p = (t - 1) mod n the first is emptied before step p = 0, the second before p = n // 2, and
    m_t is the older one. It holds between n // 2 + 1 and n of the latest gradients. Neither reads
    the other, so both are updated in place.
    """

    n: int
    b1: Any

    reads_queue = False
    num_parts = 2

    @property
    def half(self) -> int:
        """Where the second part is emptied: the length of the first segment of a period."""
        return self.n // 2

    def weights(self, phase: jax.Array, dtype: jnp.dtype) -> list[Any]:
        """For each part whether it starts afresh and the weights of itself and g_t; then which."""
        weights = []
        for start in (0, self.half):
            age = jax.lax.rem(phase + (self.n - start), jnp.int32(self.n)) + 1
            now, before = one_minus_powers(self.b1, age, dtype)
            # Not 1 - b1 in `dtype`, which would lose the digits of a b1 near 1.
            keep, enter = (jnp.asarray(w, dtype) for w in (self.b1, 1 - self.b1))
            weights.append((age == 1, keep * before / now, enter / now))
        return [*weights, phase >= self.half]

    def step(
        self, parts: Parts, g: jax.Array, g_old: jax.Array | None, weights: Sequence[Any]
    ) -> tuple[Parts, jax.Array]:
        """The parts after g_t came, and m_t."""
        del g_old
        *each, first_is_older = weights
        # Emptied by select: a weight of 0 would keep a NaN.
        first, second = (
            jax.lax.select(fresh, g, keep * part + enter * g)
            for part, (fresh, keep, enter) in zip(parts, each, strict=True)
        )
        return [first, second], jax.lax.select(first_is_older, first, second)
