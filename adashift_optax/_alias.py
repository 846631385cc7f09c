"""The optimizers with a learning rate, as users chain them."""

from typing import Any

import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax._adashift import B1, B2, EPS, PHI, direction
from adashift_optax._blocks import BlockAxes, Phi
from adashift_optax._chain import add_decay, narrowing, scale_by_rate
from adashift_optax._factored import factored_direction


def adashift(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    n: int | None = None,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    queue_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift, the paper's optimizer: each gradient is scaled by a v of older gradients only.

    In Adam :math:`v_t` contains :math:`g_t^2`, so a large gradient shrinks its own step. AdaShift
    computes :math:`v_t` from gradients at least n steps old and the momentum from the latest n.
    A block B is a set of elements that share one v: by default a leaf, which is one array of the
    parameter tree. With :math:`g_t` the incoming updates, :math:`\phi` = ``phi``,
    :math:`\beta_1` = ``b1``, :math:`\beta_2` = ``b2``, :math:`\epsilon` = ``eps``,
    :math:`\alpha_t` = ``learning_rate``:

    .. math::

      m_t &= \sum_{i=0}^{n-1} \beta_1^i g_{t-i} \Big/ \sum_{i=0}^{n-1} \beta_1^i \\
      v_t[B] &= \beta_2 v_{t-1}[B] + (1 - \beta_2)\, \phi(g_{t-n}[B]^2) \\
      v_n &= 0 \\
      \hat v_t &= v_t / (1 - \beta_2^{t-n}) \\
      u_t &= -\alpha_t\, m_t / (\sqrt{\hat v_t} + \epsilon) \quad (t > n) \\
      u_t &= 0 \quad (t \le n)

    **The first n updates are exactly zero**, because there is no :math:`v` yet. A block (or
    element) whose squares were all 0 so far has no scale and gets a zero update too.

    Take it to study the method, and :func:`adashift_factored` to train. The defaults here are the
    paper's: they need 48 bytes of state for each float32 parameter, and about 10 times Adam's
    learning rate. With ``phi="none"`` a delayed scale can be far too small for today's gradient:
    put ``optax.clip`` between :func:`scale_by_adashift` and the learning rate.

    Gradients that are not finite make the update not finite, as in ``optax.adam`` (use
    ``optax.apply_if_finite``). A finite gradient whose square is not finite does not join v. It
    enters the window with at most :math:`2^{120}` (in 64 bits :math:`2^{1016}`).

    Args:
      learning_rate: :math:`\alpha_t`, a float, a scalar array or a schedule of the step count.
      b1: decay of the weights of the momentum, in [0, 1). A Python 0 needs no momentum and, unless
        ``phi="none"``, no queue of gradients. Changing a traced ``b1`` during training reweights
        only new gradients; the old weights fade as :math:`\beta_1^k` over k steps.
      b2: decay of the second moment, in [0, 1).
      eps: added to the denominator, >= 0, in the units of a gradient.
      n: the delay in steps and the length of the momentum window, a Python int >= 1. None: 10.
      phi: the function that reduces the squared gradients of a block to one number.

        - ``"max"``: their maximum, which the paper recommends.
        - ``"mean"``: their mean.
        - ``"none"``: every element is a block and keeps its own v.
        - A callable: it gets the squared gradients of one block, in float32 or wider, and returns a
          nonnegative scalar. Its argument has the reduced axes, in their order.

      block_axes: the axes of a leaf that form one block together. ``phi="none"`` ignores it.

        - ``None``: all axes, so a leaf is one block.
        - A tuple of ints: these axes, in every leaf.
        - A callable ``(path, leaf) -> tuple | None``: the axes that it returns for a leaf. It is
          called at init and when ``update`` is traced. ``leaf`` is a ``jax.ShapeDtypeStruct``, of
          which only the shape is the same both times.

      queue_dtype: the dtype in which the queue holds gradients: None (float32 or wider) or
        bfloat16. Gradients are rounded when they enter queue and window, so updates are off by up
        to :math:`2^{-8}` of the terms of m, and by twice that with ``phi="none"``.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. An update has the dtype of its gradient or, if
      ``params`` are given to ``update``, the wider of that and of its parameter (``optax.adam``
      needs none for this). It is computed in float32 or wider and rounded once, behind the rate.

    Raises:
      ValueError, TypeError: an argument is out of its range or of the wrong kind, parameters are
        integers or booleans, or the gradients do not have the leaves that init saw.

    Examples:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashift
      >>> def f(x): return jnp.sum(x ** 2)
      >>> tx = adashift(learning_rate=0.1, n=2)
      >>> x = jnp.array([1., 2., 3.])
      >>> state = tx.init(x)
      >>> for _ in range(6):
      ...     updates, state = tx.update(jax.grad(f)(x), state)
      ...     x = optax.apply_updates(x, updates)
      ...     print(f"{f(x):.2f}")
      14.00
      14.00
      13.08
      12.21
      11.40
      10.63

    References:
      Zhou et al., `AdaShift: Decorrelation and Convergence of Adaptive Learning Rate Methods
      <https://arxiv.org/abs/1810.00143>`_, ICLR 2019, Algorithm 1 and section 4.
    """
    tx = direction(b1, b2, eps, n, phi, block_axes, queue_dtype)
    return narrowing(optax.chain(tx, scale_by_rate(learning_rate)))


def adashiftw(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    n: int | None = None,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    queue_dtype: DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift with decoupled weight decay.

    It is to :func:`adashift` what ``optax.adamw`` is to ``optax.adam``. The update is
    :math:`u_t = -\alpha_t (m_t / (\sqrt{\hat v_t} + \epsilon) + \lambda \theta_t)`. The decay acts
    from the first step on, also while AdaShift's own update is zero.

    Args:
      learning_rate: see :func:`adashift`, as for all arguments that are not listed here.
      weight_decay: :math:`\lambda` >= 0, multiplied by the learning rate: a float, a scalar array
        or a schedule of the step count.
      mask: a tree of bools like the parameters, or a callable from parameters to one: True where
        decay applies. None: everywhere. Under ``optax.inject_hyperparams`` a callable mask must be
        static as well: ``static_args=(*STATIC_ARGS, "mask")``; of :func:`adashift_factored`
        ``("mu_dtype", "mask")``.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose ``update`` needs ``params``, unless
      ``weight_decay`` is 0.

    Raises:
      ValueError, TypeError: as :func:`adashift`; a negative ``weight_decay``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashiftw
      >>> tx = adashiftw(0.1, weight_decay=0.5, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([2.]), "b": jnp.array([2.])}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> print(updates["w"], updates["b"])
      [-0.1] [-0.]
    """
    tx = direction(b1, b2, eps, n, phi, block_axes, queue_dtype)
    return narrowing(optax.chain(tx, add_decay(weight_decay, mask), scale_by_rate(learning_rate)))


def adashift_factored(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.8,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    mu_dtype: DTypeLike | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift with factors: half of Adam's memory, and no update waits for a sum.

    What needs a sum is a step old, what needs none is of today. R and C are running means of
    squared gradients over each row and each column, as in Adafactor, and the step uses those of the
    step before. Of today only the element's own square joins its v. With :math:`g_t` the incoming
    updates, :math:`\beta_1` = ``b1``, :math:`\beta_2` = ``b2``, :math:`\epsilon` = ``eps``,
    :math:`\alpha_t` = ``learning_rate``, :math:`\lambda` = ``weight_decay``:

    .. math::

      a_t &= (1 - \beta_2) / (1 - \beta_2^t) \\
      v_t[i,j] &= (1 - a_t)\, R_{t-1}[i]\, C_{t-1}[j] / \mathrm{mean}(R_{t-1}) + a_t\, g_t[i,j]^2 \\
      s_t &= g_t / (\sqrt{v_t} + \epsilon) \\
      m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, s_t \\
      u_t &= -\alpha_t\, (\beta_1 m_t / (1 - \beta_1^{t+1}) + (1 - \beta_1)\, s_t / (1 - \beta_1^t)
        + \lambda \theta_t) \\
      R_t[i] &= (1 - a_t)\, R_{t-1}[i] + a_t\, \mathrm{mean}_j\, g_t[i,j]^2,
        \quad C_t[j] \text{ likewise}

    The momentum is Nesterov's, as in ``optax.adam(nesterov=True)``, and stands behind the scale. It
    works at Adam's learning rate. There is no idle step: :math:`a_1 = 1`, so :math:`s_1` is the
    sign of :math:`g_1`. No element is unbounded: :math:`|s_t| \le a_t^{-1/2}`. Rows and columns
    are the last two axes of a leaf, and each index of its leading axes has its own. In a leaf of
    rank 0 or 1 every element keeps its own v.

    :math:`v_t` contains :math:`g_t^2` with the weight :math:`a_t`, so the paper's Theorem 5 does
    not apply, and on a single element it is Adam with the momentum behind the scale.

    Gradients that are not finite make the update not finite, as in ``optax.adam``. Where
    :math:`a_t\, g_t^2` overflows, :math:`s_t` is 0. A mean that is not finite does not join.

    Args:
      learning_rate: :math:`\alpha_t`, a float, a scalar array or a schedule of the step count.
      b1: decay of the momentum, in [0, 1). A Python 0 keeps none, only rows and columns.
      b2: decay of the second moment, in [0, 1).
      eps: added to the denominator, >= 0, in the units of a gradient.
      mu_dtype: the dtype in which the state holds the momentum: None (float32 or wider) or
        bfloat16. The momentum is rounded to it before the update is made of it. For a b1 above 0.9
        leave it out: of a constant gradient, b1 = 0.99 makes updates that are 19 % too small.
      weight_decay: :math:`\lambda` >= 0, decoupled, as in ``optax.adamw``: a float, a scalar array
        or a schedule of the step count. If it is not 0, ``update`` needs ``params``.
      mask: see :func:`adashiftw`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, with updates in the dtypes of :func:`adashift`.

    Raises:
      ValueError, TypeError: as :func:`adashift`; a negative ``weight_decay``.

    Examples:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashift_factored
      >>> def f(x): return jnp.sum(x ** 2)
      >>> tx = adashift_factored(learning_rate=0.1)
      >>> x = jnp.array([[1., 2.], [3., 4.]])
      >>> state = tx.init(x)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jax.grad(f)(x), state)
      ...     x = optax.apply_updates(x, updates)
      ...     print(f"{f(x):.2f}")
      27.19
      25.14
      23.33
      21.67

    References:
      The factors: Shazeer & Stern, `Adafactor <https://arxiv.org/abs/1804.04235>`_,
      2018. Scale first, then average: Taniguchi et al., `ADOPT
      <https://arxiv.org/abs/2411.02853>`_, NeurIPS 2024. The delay: Zhou et al., `AdaShift
      <https://arxiv.org/abs/1810.00143>`_, ICLR 2019. Nesterov's momentum: Dozat, NAdam, 2016.
    """
    tx = factored_direction(b1, b2, eps, mu_dtype)
    return narrowing(optax.chain(tx, add_decay(weight_decay, mask), scale_by_rate(learning_rate)))
