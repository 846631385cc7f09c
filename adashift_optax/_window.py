"""The first moment m_t: the exponentially weighted mean of the latest `n` gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Sliding:
    """The paper's window: m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i, kept by its recurrence.

    The mean is stored rather than the sum, so that it never exceeds the largest gradient: finite
    gradients cannot overflow it. Rounding errors of the recurrence shrink by b1 at every step.
    """

    n: int
    b1: ArrayLike

    def __call__(self, m: jax.Array, g: jax.Array, g_old: jax.Array) -> jax.Array:
        """m_t from m_{t-1}, g_t and g_{t-n}."""
        xp = np if isinstance(self.b1, float) else jnp
        powers = self.b1 ** xp.arange(self.n + 1, dtype=xp.result_type(self.b1))
        powers = powers / xp.sum(powers[:-1])
        enters, leaves, b1 = (jnp.asarray(w, m.dtype) for w in (powers[0], powers[-1], self.b1))
        return b1 * m + (enters * g - leaves * g_old)
