"""What an optimizer will hold, known before anything is allocated."""

from typing import Any

import jax
import optax

from adashift_optax._tool_checks import check_arrays, check_transformation


def state_bytes(tx: optax.GradientTransformation, params: optax.Params) -> int:
    """Bytes of the state that ``tx.init(params)`` would allocate, over all devices together once.

    Args:
      tx: any Optax transformation.
      params: a tree of arrays or of ``jax.ShapeDtypeStruct``.

    Returns:
      The sum of the sizes of all arrays of the state, in bytes. Nothing is allocated.

    Examples:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashift, state_bytes
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
      >>> state_bytes(optax.adam(1e-3), params)
      8000004
      >>> state_bytes(adashift(1e-2), params)
      48000056
      >>> state_bytes(adashift(1e-2, window="hopping"), params)
      8000056
    """
    check_transformation(tx)
    check_arrays(params, or_numbers=True)
    state: Any = jax.eval_shape(tx.init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
