"""b2: how fast v forgets, and the weight that its squares have together."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import Params

from adashift_optax import _checks
from adashift_optax._numbers import accumulator_dtype, one_minus, one_minus_power, widest

Log = TypeVar("Log")


@dataclasses.dataclass(frozen=True)
class Decay(abc.ABC, Generic[Log]):
    """The weights of the squares in v, which are numbered from 1 on in the order they join it.

    `log` is what a state keeps of the squares that have joined so far.
    """

    @abc.abstractmethod
    def init(self, params: Params) -> Log:
        """`log` before the first square."""

    @abc.abstractmethod
    def share(self, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The weight 1 - b2 of the k-th square when it joins."""

    @abc.abstractmethod
    def joined(self, log: Log, k: jax.Array, count: int = 1) -> Log:
        """`log` after `count` squares have joined, of which the first is the k-th."""

    @abc.abstractmethod
    def total(self, log: Log, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The weights of k squares together: vhat = v / total. Never 0."""

    @abc.abstractmethod
    def lost(self, k: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
        """The share of itself that v loses while `count` squares join, the k-th first."""


@dataclasses.dataclass(frozen=True)
class ConstantDecay(Decay[None]):
    """The same b2 for every square: nothing has to be kept."""

    b2: ArrayLike = dataclasses.field(compare=False)

    def init(self, params: Params) -> None:
        return None

    def share(self, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return one_minus(self.b2, dtype)

    def joined(self, log: None, k: jax.Array, count: int = 1) -> None:
        return log

    def total(self, log: None, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return one_minus_power(self.b2, k, dtype)

    def lost(self, k: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
        return one_minus_power(self.b2, count, dtype)


@dataclasses.dataclass(frozen=True)
class ScheduledDecay(Decay[jax.Array]):
    """b2 is a function of the number of the square. `log` is the logarithm of their product.

    Logarithms, because 1 - b2(1) b2(2) ... loses digits where the product is near 1.
    """

    b2: Callable[[jax.Array], ArrayLike] = dataclasses.field(compare=False)

    def init(self, params: Params) -> jax.Array:
        dtypes = (accumulator_dtype(p, real=True) for p in jax.tree.leaves(params))
        return jnp.zeros([], widest(dtypes))

    def share(self, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        b2 = self.b2(jnp.maximum(k, 1))
        share = one_minus(_checks.check_scalar("b2", b2, _checks.B2_REMEDY), dtype)
        return jnp.clip(share, 0, 1)

    def joined(self, log: jax.Array, k: jax.Array, count: int = 1) -> jax.Array:
        return log + self._log(k, count, log.dtype)

    def total(self, log: jax.Array, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
        log = log.astype(dtype)
        return jnp.where(log < 0, -jnp.expm1(log), 1)

    def lost(self, k: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
        return -jnp.expm1(self._log(k, count, dtype))

    def _log(self, k: jax.Array, count: int, dtype: jnp.dtype) -> jax.Array:
        """The logarithm of the product of b2 over `count` squares from the k-th on."""
        ks = k + jnp.arange(count, dtype=k.dtype)
        shares = jax.vmap(functools.partial(self.share, dtype=dtype))(ks)
        return jnp.sum(jnp.where(ks > 0, jnp.log1p(-shares), 0))  # there is no square before


def make_decay(b2: ArrayLike | Callable[[jax.Array], ArrayLike]) -> Decay:
    """The decay that `b2` describes."""
    b2 = _checks.check_b2(b2)
    return ScheduledDecay(b2) if callable(b2) else ConstantDecay(b2)
