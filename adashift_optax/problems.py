"""The two problems on which Adam walks the wrong way, with their published constants.

Pure functions of a step number and a key, for ``jax.lax.scan`` over steps, ``jax.vmap`` over seeds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from adashift_optax import _checks


class Problem(NamedTuple):
    """Costs f_t of one variable x, one per step, whose mean is to be minimized.

    Attributes:
      loss: ``(x, t, key) -> f_t(x)``, scalars; t = 1, 2, ... is the step, `key` for random draws.
      init: x at the start.
      low: the smallest x allowed.
      high: the largest x allowed.
      optimum: the best x in [low, high].
    """

    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    init: float
    low: float
    high: float
    optimum: jax.Array | float


def stochastic(C: float = 101.0, d: float = 0.02) -> Problem:
    """The stochastic counterexample: f_t(x) = C x with probability (1 + d) / (C + 1), else -x.

    The mean of f_t is d x, so x should fall without end. Adam climbs, because it divides the rare
    large gradients by a v that they have just enlarged.

    Args:
      C: slope of the rare cost, > 0. The paper's code has 101.
      d: slope of the mean, >= 0. The paper's code has 0.02, the paper 0.002.

    Returns:
      A :class:`Problem` without bounds, from x = 0.

    Examples:
      >>> import jax, optax
      >>> from adashift_optax import adashift
      >>> from adashift_optax.problems import stochastic, trajectory
      >>> key = jax.random.key(0)
      >>> for tx in (optax.adam(1e-3, b1=0.0), adashift(1e-3, n=1, b1=0.0)):
      ...     print(f"{trajectory(stochastic(), tx, 100_000, key, every=100_000)[-1]:.1f}")
      0.1
      -0.4

    References:
      Reddi et al., On the Convergence of Adam and Beyond, ICLR 2018, section 3; Zhou et al.,
      AdaShift, ICLR 2019, section 3 and appendix.
    """
    C = _checks.check_number("C", C, 0, jnp.inf, "Pass e.g. C=101.0.")
    d = _checks.check_number("d", d, 0, jnp.inf, "Pass e.g. d=0.02.")
    if isinstance(C, float) and isinstance(d, float) and (C == 0 or d > C):
        raise ValueError(
            "C must be > 0 and d at most C, or (1 + d) / (C + 1) is no probability; got "
            f"C={C}, d={d}. Pass e.g. C=101.0, d=0.02."
        )
    rare = (1 + d) / (C + 1)

    def loss(x: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        del t
        return jnp.where(jax.random.bernoulli(key, rare), C * x, -x)

    return Problem(loss, 0.0, -jnp.inf, jnp.inf, -jnp.inf)


def sequential(C1: float = 1010.0, C2: float = 10.0, d: int = 101) -> Problem:
    """The sequential counterexample: f_t(x) = C1 x if t mod d = 1, else -C2 x, with x in [-1, 1].

    A cycle of d steps adds up to (C1 - (d - 1) C2) x, with the published constants 10 x: the best x
    is -1. Adam goes to 1.

    Args:
      C1: slope of the first cost of each cycle.
      C2: minus the slope of the others.
      d: length of a cycle in steps.

    Returns:
      A :class:`Problem` from x = 0. Its losses ignore the key.

    Examples:
      >>> import jax, optax
      >>> from adashift_optax import adashift
      >>> from adashift_optax.problems import sequential, trajectory
      >>> def learning_rate(count): return 1 / (1 + count) ** 0.5
      >>> for make in (optax.adam, adashift):
      ...     tx = make(learning_rate, b1=0.9, b2=0.99)
      ...     x = trajectory(sequential(), tx, 20_000, jax.random.key(0), every=20_000)
      ...     print(f"{x[-1]:.1f}")
      1.0
      -1.0

    References:
      Reddi et al., 2018, section 3; Zhou et al., 2019, section 3.
    """
    for name, slope in (("C1", C1), ("C2", C2)):
        _checks.check_number(name, slope, -jnp.inf, jnp.inf, f"Pass e.g. {name}=10.0.")
    # In a cycle of one step no t mod d is 1.
    if not isinstance(d, Tracer):
        _check_steps("d", d, 2, "Pass e.g. d=101.")

    def loss(x: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return jnp.where(t % d == 1, C1, -C2) * x

    best = jnp.where((d - 1) * C2 < C1, -1.0, 1.0)  # the slopes may be traced
    return Problem(loss, 0.0, -1.0, 1.0, best)


def trajectory(
    problem: Problem,
    tx: optax.GradientTransformation,
    steps: int,
    key: jax.Array,
    every: int = 1,
) -> jax.Array:
    """The value of x, recorded once in `every` steps of `tx` on `problem`.

    After each step x is projected onto [low, high].

    Args:
      problem: of this module, or of the same form.
      tx: an optimizer with its learning rate.
      steps: how many, a multiple of `every`, less than 2**31.
      key: of the random draws; ``jax.vmap`` over an array of keys runs many seeds at once.
      every: how many steps between two recorded values.

    Returns:
      x, float32 [steps // every].

    Raises:
      ValueError: `steps` is not a multiple of `every`.
    """
    _checks.check_transformation(tx)
    if not all(hasattr(problem, name) for name in Problem._fields):
        raise TypeError(f"problem must be a Problem; got {problem!r}. Pass e.g. sequential().")
    _check_steps("every", every, 1, "Pass e.g. every=1.")
    _check_steps("steps", steps, 0, "Pass e.g. steps=1000.")
    kind = getattr(key, "dtype", np.dtype(object))
    if not jnp.issubdtype(kind, jax.dtypes.prng_key) and not (kind == jnp.uint32 and key.shape):
        raise TypeError(f"key must be one of jax.random; got {key!r}. Pass jax.random.key(0).")
    if steps % every:
        raise ValueError(
            f"steps must be a multiple of every; got steps={steps}, every={every}. "
            f"Pass e.g. steps={steps // every * every or every}."
        )
    tx = optax.with_extra_args_support(tx)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        x, state, t = carry
        t = t + 1
        grad = jax.grad(problem.loss)(x, t, jax.random.fold_in(key, t))
        update, state = tx.update(grad, state, x)
        x = jnp.clip(x + update, problem.low, problem.high)
        return (x, state, t), None

    def record(carry: Any, _: None) -> tuple[Any, jax.Array]:
        carry, _ = jax.lax.scan(step, carry, None, length=every)
        return carry, carry[0]

    x = jnp.asarray(problem.init, jnp.float32)
    carry = x, tx.init(x), jnp.zeros([], jnp.int32)
    return jax.lax.scan(record, carry, None, length=steps // every)[1]


def _check_steps(name: str, value: Any, least: int, remedy: str) -> None:
    """`value` is a number of steps that an int32 can count."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value < 2**31:
        raise ValueError(f"{name} must be an int in [{least}, 2**31); got {value!r}. {remedy}")
