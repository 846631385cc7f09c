"""What an optimizer does with each gradient: net update factors and correlations.

Pure functions of recorded sequences, time first, for any Optax transformation; all can be jitted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adashift_optax import _checks
from adashift_optax.problems import _check_steps


def net_update_factors(tx: optax.GradientTransformation, grads: jax.Array) -> jax.Array:
    r"""k(g_t): how far each gradient moves the parameters in the end, per unit of gradient.

    A gradient enters the momentum and with it every later update; all it contributes, divided by
    itself, is

    .. math:: k(g_t) = \sum_{i \ge t} \frac{\alpha_i}{\sqrt{v_i}} (1 - \beta_1) \beta_1^{i-t}

    for Adam. Here it is found by its meaning, not from a formula: with the sign of :math:`g_t`
    turned, all squares, and so every v, stay as they are, and the sum of all updates changes by
    :math:`2 k(g_t) g_t`. So it holds for whatever scales a linear momentum by functions of
    :math:`|g|`: Adam, AMSGrad, ADOPT, AdaShift; not for ``optax.contrib.acprop``, which centers.

    Args:
      tx: an optimizer with its learning rate, or any transformation that descends.
      grads: a recorded sequence, [T, ...] for one array of parameters, none exactly 0.

    Returns:
      k, of the shape of `grads`, in parameters per gradient, > 0 for descent. Updates are summed up
      to T: the last entries lack what comes later. It costs T + 1 runs over the sequence. Each k is
      a difference of sums over T: for thousands of steps use 64 bits (``jax.enable_x64``).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from adashift_optax import adashift
      >>> from adashift_optax.analysis import net_update_factors
      >>> g = jnp.tile(jnp.array([10., -1., -1., -1.]), 50)  # a rare large gradient
      >>> for tx in (optax.adam(0.1, b1=0., b2=0.5), adashift(0.1, n=1, b1=0., b2=0.5)):
      ...     print(net_update_factors(tx, g)[-4:].round(4))
      [0.0136 0.0191 0.0265 0.0363]
      [0.0363 0.0136 0.0191 0.0265]

    References:
      Zhou et al., AdaShift, ICLR 2019, section 3, equation 6.
    """
    _checks.check_transformation(tx)
    grads = _recorded("grads", grads, 1)
    params = jnp.zeros_like(grads[0])
    extended = optax.with_extra_args_support(tx)

    def total(grads: jax.Array) -> jax.Array:
        def step(carry: Any, grad: jax.Array) -> tuple[Any, None]:
            state, moved = carry
            update, state = extended.update(grad, state, params)
            return (state, moved - update), None

        carry = extended.init(params), jnp.zeros_like(params)
        return jax.lax.scan(step, carry, grads)[0][1]

    def turned(t: jax.Array) -> jax.Array:
        return total(grads.at[t].multiply(-1))

    return (total(grads)[None] - jax.vmap(turned)(jnp.arange(len(grads)))) / (2 * grads)


def sequential_second_moment(C: float, d: int, b2: float) -> jax.Array:
    r"""The limit of Adam's v over a cycle of the sequential problem, gradients C, -1, ..., -1.

    :math:`v_{nd+i} \to 1 + (C^2 - 1) (1 - \beta_2) \beta_2^{i-1} / (1 - \beta_2^d)`.

    Args:
      C: the large gradient, in units of the others.
      d: length of a cycle in steps.
      b2: decay of the second moment, in [0, 1).

    Returns:
      The limit after each step of a cycle, i = 1, ..., d, [d]. Largest right after the large one.

    References:
      Zhou et al., AdaShift, ICLR 2019, section 3 (Lemma 2 and its proof).
    """
    _check_cycle(C, d, b2=b2)
    whole = -jnp.expm1(d * jnp.log1p(-jnp.asarray(1 - b2)))  # 1 - b2^d, also for a b2 near 1
    return 1 + (C**2 - 1) * (1 - b2) * jnp.asarray(b2) ** jnp.arange(d) / whole


def sequential_net_update_factors(
    C: float, d: int, b1: float, b2: float, learning_rate: float = 1.0
) -> jax.Array:
    r"""The limit of Adam's k over a cycle of the sequential problem, at a constant learning rate.

    :math:`k = \alpha (1 - \beta_1) \sum_{j<d} \beta_1^j v_{i+j}^{-1/2} / (1 - \beta_1^d)`, v as in
    :func:`sequential_second_moment`: the geometric sum over all later cycles.

    Args:
      C: the large gradient, in units of the others.
      d: length of a cycle in steps.
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      learning_rate: :math:`\alpha`.

    Returns:
      The factors of the gradients C, -1, ..., -1 of a cycle, [d]. The first is the smallest.
    """
    _check_cycle(C, d, b1=b1, b2=b2)
    scale = 1 / jnp.sqrt(sequential_second_moment(C, d, b2))
    later = scale[(jnp.arange(d)[:, None] + jnp.arange(d)[None]) % d]
    weights = (1 - b1) * jnp.asarray(b1) ** jnp.arange(d) / (1 - b1**d)
    return learning_rate * later @ weights


def correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    """Pearson's correlation over time of each element of x with the same of y.

    Args:
      x: [T, ...], T >= 2.
      y: of the shape of x, or of size 1 in some axes, e.g. one v per block: [T, 1, 1].

    Returns:
      In [-1, 1], of the shape of x without T; 0 where either does not vary.

    Examples:
      >>> import jax.numpy as jnp
      >>> from adashift_optax.analysis import correlation
      >>> x = jnp.array([[1., 1.], [2., 2.], [4., 4.]])
      >>> print(correlation(x, jnp.array([[1., -1.], [2., -2.], [4., -4.]])))
      [ 1. -1.]
    """
    x, y = _recorded("x", x, 2), _recorded("y", y, 2)
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        _checks.refuse(TypeError, "x and y", "real", f"{x.dtype} and {y.dtype}", "Pass z.real.")
    sizes = zip(y.shape[1:], x.shape[1:], strict=False)
    if x.ndim != y.ndim or len(x) != len(y) or any(s not in (1, size) for s, size in sizes):
        rule = "y must have as many steps and axes as x, and its sizes or 1"
        got, remedy = f"{[*y.shape]} for {[*x.shape]}", "Pass e.g. one v per block as [T, 1, 1]."
        raise ValueError(f"{rule}; got {got}. {remedy}")

    def centred(z: jax.Array) -> jax.Array:
        low, high = (reduce(z, 0, keepdims=True) for reduce in (jnp.min, jnp.max))
        top = jnp.maximum(jnp.abs(low), jnp.abs(high))
        z = z / jnp.where(top > 0, top, 1)  # or squares might under- or overflow
        # The mean of equal numbers is rounded: what is left of them must not count as a change.
        return jnp.where(high > low, z - jnp.mean(z, 0, keepdims=True), 0)

    x, y = centred(x), centred(y)
    norm = jnp.sqrt(jnp.sum(x * x, 0) * jnp.sum(y * y, 0))
    return jnp.sum(x * y, 0) / jnp.where(norm > 0, norm, 1)


def lagged_correlation(g: jax.Array, lags: tuple[int, ...]) -> jax.Array:
    """Pearson's correlation over time of each element of g_t with the same of g_{t-k}.

    Args:
      g: [T, ...].
      lags: the k, each in [1, T - 2].

    Returns:
      [len(lags), ...], in [-1, 1].

    Examples:
      >>> import jax.numpy as jnp
      >>> from adashift_optax.analysis import lagged_correlation
      >>> print(lagged_correlation(jnp.array([1., -1.] * 8), (1, 2)))
      [-1.  1.]
    """
    g = _recorded("g", g, 3)
    whole = isinstance(lags, (tuple, list)) and all(isinstance(k, (int, np.integer)) for k in lags)
    if not whole or not lags or not 1 <= min(lags) <= max(lags) <= len(g) - 2:
        rule, got = "a tuple of ints in [1, T - 2]", f"{lags!r} for T = {len(g)}"
        _checks.refuse(ValueError, "lags", rule, got, "Pass e.g. lags=(1,).")
    return jnp.stack([correlation(g[k:], g[:-k]) for k in lags])


def second_moments(state: Any, params: Any) -> Any:
    r"""v_t, before bias correction, of an optimizer in the form of the parameters.

    In the state after the update of step t it is the v that scaled this update. For correlations
    over early steps divide by :math:`1 - \beta_2^t` first (AdaShift's by
    :math:`1 - \beta_2^{t-n}`).

    Args:
      state: of any chain with one `nu` in it: Adam's or `adashift`'s, not `adashift_factored`'s.
      params: the tree that it was initialized with.

    Returns:
      A tree like `params`; each leaf broadcasts against that of `params`, with size 1 along the
      axes that share one v.

    Raises:
      ValueError: the state has no such v, or belongs to other parameters.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from adashift_optax import adashift
      >>> from adashift_optax.analysis import second_moments
      >>> params = {"b": jnp.ones(2), "w": jnp.ones((2, 3))}
      >>> print(jax.tree.map(jnp.shape, second_moments(adashift(0.1).init(params), params)))
      {'b': (1,), 'w': (1, 1)}
    """
    try:
        cells = jax.tree.leaves(optax.tree.get(state, "nu"))
    except KeyError as error:
        remedy = "Pass the part of it that is meant, e.g. state[0]."
        raise ValueError(f"state must have one nu in it; got several. {remedy}") from error
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        return params
    if len(cells) != len(leaves):  # vectors with one entry per leaf
        if any(c.ndim != 1 for c in cells) or sum(c.size for c in cells) != len(leaves):
            rule = "state must hold one v per element, block or leaf of params"
            got = f"{[c.shape for c in cells]} for {len(leaves)} leaves"
            remedy = "Pass the tree given to init; adashift_factored has no v but a product."
            raise ValueError(f"{rule}; got {got}. {remedy}")
        cells = list(jnp.concatenate(cells))
    for c, p in zip(cells, leaves, strict=True):
        sizes = zip(c.shape, jnp.shape(p), strict=False)
        if c.size != 1 and (c.ndim != jnp.ndim(p) or any(s not in (1, size) for s, size in sizes)):
            got = f"one of shape {[*jnp.shape(p)]} for a v of {[*c.shape]}"
            remedy = "Pass the tree given to init."
            _checks.refuse(ValueError, "params", "those that state was made for", got, remedy)
    pairs = zip(cells, leaves, strict=True)
    cells = [c.reshape((1,) * jnp.ndim(p)) if c.size == 1 else c for c, p in pairs]
    return treedef.unflatten(cells)


def _check_cycle(C: Any, d: Any, **decays: Any) -> None:
    """The constants of a cycle are numbers in range; traced ones pass."""
    _check_steps("d", d, 1, "Pass e.g. d=101.")
    _checks.check_number("C", C, -np.inf, np.inf, "Pass e.g. C=101.0.")
    for name, b in decays.items():
        _checks.check_number(name, b, 0, 1, f"Pass e.g. {name}=0.9.")


def _recorded(name: str, x: Any, steps: int) -> jax.Array:
    """`x` as an array of floats of at least so many steps."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        x = np.asarray(x, object)
    if not jnp.issubdtype(x.dtype, jnp.inexact) or not x.ndim or len(x) < steps:
        rule = f"a float array with time first, of at least {steps} steps"
        remedy = "Stack the recorded arrays: jnp.stack(list)."
        _checks.refuse(ValueError, name, rule, f"{x.dtype}{list(x.shape)}", remedy)
    return x
