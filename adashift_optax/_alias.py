"""AdaShift with a learning rate, as users chain it: `adashift` and `adashiftw`."""

from collections.abc import Callable
from typing import Any

import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax._adashift import B1, B2, EPS, PHI, WINDOW, Window, scale_by_adashift
from adashift_optax._axes import BlockAxes
from adashift_optax._blocks import AxisName, Phi
from adashift_optax._chain import add_decay, in_dtype, scale_by_rate

WEIGHT_DECAY = 1e-4  # optax.adamw's


def adashift(
    learning_rate: optax.ScalarOrSchedule,
    n: int | None = None,
    b1: ArrayLike = B1,
    b2: optax.ScalarOrSchedule = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    axis_name: AxisName = None,
    window: Window = WINDOW,
    queue_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift: Adam, but each gradient is scaled by a v that was made of older gradients only.

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

    **The first n updates are exactly zero**, because there is no :math:`v` yet, unless
    ``warm_start=True``. A block (or element) whose squares were all 0 so far has no scale and gets
    a zero update too.

    **The defaults are the paper's.** They need 48 bytes of state for each float32 parameter, and
    about 10 times Adam's learning rate. We recommend another setting, which needs 4 bytes where
    Adam needs 8, and works at Adam's learning rate: ``adashift(learning_rate, n=1, b1=0.5,
    phi="factored", window="ema", clip_value=10.0)``. See ``docs/choosing.md``.

    Gradients that are not finite make the update non-finite (use ``optax.apply_if_finite``), but
    :math:`\hat v` ignores squares above half of the largest number of its dtype (with
    ``window="hopping", phi="none"`` they count as 0). Finite gradients give finite updates.

    ``window="ema"`` scales first and averages afterwards, in the order of ADOPT. Each gradient is
    divided by the root of its own :math:`\hat v`, which does not contain it, and the momentum is
    the running mean of the quotients:

    .. math::

      s_t &= \mathrm{clip}(g_t / (\sqrt{\hat v_t} + \epsilon)) \\
      m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, s_t \\
      m_n &= 0 \\
      u_t &= -\alpha_t\, m_t / (1 - \beta_1^{t-n}) \quad (t > n)

    The paper divides a mean of gradients by one :math:`\hat v`, so no gradient of the mean may be
    in that v, and the n latest have to be kept. Here only :math:`g_t` must not be in it: n = 1 is
    enough, and no gradients are kept, except with ``phi="none"`` and n > 1.

    ``window="hopping"`` is a variant of ours, not the paper's: it keeps no gradients, so that its
    state is as large as Adam's for any n. We keep two averages of gradients, empty them in turn,
    each every n steps, and use the older one as :math:`m_t`. It holds between n/2 (rounded down)
    plus 1 and n of the latest gradients, instead of always n. :math:`v_t` is the same as above,
    except with ``phi="none"``. There n/2 squares (rounded down or up) join v together,
    when :math:`m_t` has dropped their gradients. So m and v still share no gradient.

    Args:
      learning_rate: :math:`\alpha_t`, a float, a scalar array or a schedule of the step count.
      n: the delay in steps and the length of the momentum window, a Python int >= 1. None: 10.
      b1: decay of the weights of the momentum, in [0, 1). A Python 0 needs no momentum and, unless
        ``phi="none"``, no queue of gradients. Changing a traced ``b1`` during training reweights
        only new gradients; the old weights fade as :math:`\beta_1^k` over k steps.
      b2: decay of the second moment.

        - A number in [0, 1).
        - A schedule, for example Adafactor's ``lambda k: 1 - k**-0.8``. It is called with k = 1,
          2, ... for the k-th square that joins v. That square gets the weight 1 - b2(k), and all
          before it fade by b2(k). The bias correction divides by the sum of the weights. Values
          outside of [0, 1] count as the nearest in it. Under ``optax.inject_hyperparams`` a
          schedule must be static as well: ``static_args=(*STATIC_ARGS, "b2")``.

      eps: added to the denominator, >= 0, in the units of a gradient.
      phi: the function that reduces the squared gradients of a block to one number.

        - ``"max"``: their maximum, which the paper recommends.
        - ``"mean"``: their mean.
        - ``"none"``: every element is a block and keeps its own v.
        - ``"factored"``: every element has its own v, at about the price of blocks. A leaf of rank
          2 or more keeps R, the means of :math:`g^2` over its last axis, and C, those over the axis
          before. Then :math:`v_{ij} = R_i C_j / \mathrm{mean}(R)`, as in Adafactor. Each index of
          the leading axes has an R and a C of its own. In a leaf of rank 0 or 1 every element keeps
          its own v.
        - A callable: it gets the squared gradients of one block and returns a nonnegative scalar.
          Its argument is float32 or wider. It has the reduced axes in their order, and for a whole
          leaf the shape of the leaf.

      block_axes: the axes of a leaf that form one block together. ``phi="none"`` and "factored"
        ignore it, except for the scales of ``queue_dtype``.

        - ``None``: all axes, so a leaf is one block.
        - A tuple of ints: these axes, in every leaf.
        - A callable ``(path, leaf) -> tuple | None``: the axes that it returns for a leaf. It is
          called at init and when ``update`` first sees such updates. ``leaf`` is a
          ``jax.ShapeDtypeStruct``, of which only the shape is the same both times.
        - ``"outputs"``: the axes over which one output of a layer sums, so that each output has its
          own v. With ``phi="mean"`` these are the blocks of Adam-mini. A block belongs to one
          output neuron of a kernel [..., in, out], to one channel of a convolution [height, width,
          in, out], to one dimension of a head ("query", "key", "value": [d, heads, head_dim];
          "out": [heads, head_dim, d]), or to one row of an "embedding". A vector, a "bias" and a
          "scale" are one block each. Leading axes of stacked layers and of experts keep their own
          v. The names are those that Flax gives. A leaf with another name is taken as [..., in,
          out] at rank 2 or 3, and as a convolution at a higher rank. A "weight" is taken as
          Equinox's [out, in, ...].

      axis_name: only for ``jax.shard_map`` over sharded parameters: the mesh axis they are sharded
        on, or a tuple of all. There a function sees one shard of a leaf, and **without axis_name
        phi "max" and "mean" would be those of the shard**. It is not needed under ``jax.jit``,
        whatever the mesh, nor where parameters are replicated.
      window: which gradients the momentum averages: "sliding", the paper's window of the latest n
        gradients, "hopping" or "ema".
      queue_dtype: the dtype in which the queue holds gradients: None (float32 or wider), float32,
        bfloat16, float16, float8_e5m2 or float8_e4m3fn. Gradients are rounded when they enter the
        queue and the window. If the dtype has a smaller range than the gradients, each block is
        scaled by a power of 2 to fit: elements far below its largest round to 0. Updates are off
        by up to :math:`2^{-8}` (bfloat16), :math:`2^{-11}` (float16), :math:`2^{-3}` (float8_e5m2)
        and :math:`2^{-4}` (float8_e4m3fn) of the terms of m, and by twice that with
        ``phi="none"``. It has no effect where there is no queue.
      mu_dtype: the dtype in which the state holds the momentum: None (float32 or wider), float32,
        bfloat16 or float16. The momentum is rounded to it at every step, before the update is made
        of it. On independent gradients with b1 = 0.9 the rounding moves updates by 0.4 % (bfloat16)
        and 0.05 % (float16) of their root mean square. float16 rounds momentum below 6e-8 to 0.
      clip_value: the largest magnitude c > 0 of an element before the learning rate: a float or a
        schedule of the number of earlier updates. None: no clip. With ``window="ema"`` it clips
        the elements of :math:`g_t / (\sqrt{\hat v_t} + \epsilon)`, otherwise those of
        :math:`m_t / (\sqrt{\hat v_t} + \epsilon)`.
      warm_start: if True, the first n updates are not zero. Use it where an update of zero would
        be taken for convergence. It has two prices:

        - While t <= n, :math:`\hat v_t` is made of :math:`g_1, ..., g_t` as in Adam, and the
          momentum of the gradients so far. So the first n steps are not decorrelated. From
          t = n + 1 on, :math:`v` is the same as without. The momentum is too, except with
          ``window="ema"``, whose mean holds :math:`s_1, ..., s_n` as well.
        - Unless ``phi="none"``, every update waits for today's :math:`\phi`, also after the
          first n.


    Returns:
      An ``optax.GradientTransformationExtraArgs``. As with ``optax.adam``, an update has the dtype
      of its gradient or, if ``params`` are given to ``update``, the wider of that and of its
      parameter. It is computed in float32 or wider and rounded once, behind the learning rate.

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
      The order of ``window="ema"``, and the clip: Taniguchi et al., `ADOPT
      <https://arxiv.org/abs/2411.02853>`_, NeurIPS 2024.
      The factors, and b2 as a schedule: Shazeer & Stern, `Adafactor
      <https://arxiv.org/abs/1804.04235>`_, 2018.
      The blocks "outputs": Zhang et al., `Adam-mini <https://arxiv.org/abs/2406.16793>`_, 2024.
    """
    return in_dtype(
        scale_by_adashift(
            n,
            b1,
            b2,
            eps,
            phi=phi,
            block_axes=block_axes,
            axis_name=axis_name,
            window=window,
            queue_dtype=queue_dtype,
            mu_dtype=mu_dtype,
            clip_value=clip_value,
            warm_start=warm_start,
        ),
        scale_by_rate(learning_rate),
    )


def adashiftw(
    learning_rate: optax.ScalarOrSchedule,
    n: int | None = None,
    b1: ArrayLike = B1,
    b2: optax.ScalarOrSchedule = B2,
    eps: ArrayLike = EPS,
    *,
    weight_decay: optax.ScalarOrSchedule = WEIGHT_DECAY,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    axis_name: AxisName = None,
    window: Window = WINDOW,
    queue_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift with decoupled weight decay.

    It is to :func:`adashift` what ``optax.adamw`` is to ``optax.adam``. The update is
    :math:`u_t = -\alpha_t (m_t / (\sqrt{\hat v_t} + \epsilon) + \lambda \theta_t)`. The decay acts
    from the first step on, also while AdaShift's own update is still zero.

    Args:
      learning_rate: see :func:`adashift`, as for all arguments that are not listed here.
      weight_decay: :math:`\lambda` >= 0, multiplied by the learning rate.
      mask: a tree of bools like the parameters, or a callable from parameters to one: True where
        decay applies. None: everywhere. Under ``optax.inject_hyperparams`` a callable mask must be
        static as well: ``static_args=(*STATIC_ARGS, "mask")``.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose ``update`` needs ``params``.

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
    return in_dtype(
        scale_by_adashift(
            n,
            b1,
            b2,
            eps,
            phi=phi,
            block_axes=block_axes,
            axis_name=axis_name,
            window=window,
            queue_dtype=queue_dtype,
            mu_dtype=mu_dtype,
            clip_value=clip_value,
            warm_start=warm_start,
        ),
        add_decay(weight_decay, mask),
        scale_by_rate(learning_rate),
    )
