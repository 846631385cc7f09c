"""What XLA has to be told, in one place: symptom, version, cost, and the test that guards it.

All was measured with jaxlib 0.10.2, on CPU by running, for an H100 and TPUs by compiling.
``tests/test_in_place.py`` and ``tests/test_order.py`` guard it.

- Write, then read (`_ring.py`). If the oldest gradient is read before the new one is written, XLA
  copies the whole queue at every step: 20 times Adam's time on CPU.
- `apart_on_cpu`. Two readers of one gradient make XLA on CPU store what they share.
- `as_bits`. XLA on CPU widens a whole bfloat16 queue to write one slot: 4.6 times Adam's time.
- `zeros_like`. Zeros lose the place of a parameter on a mesh under jit: the queue would be whole on
  every device.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from adashift_optax._checks import refuse

Tree = TypeVar("Tree")


def apart_on_cpu(tree: Tree) -> Tree:
    """Barrier against CPU fusion, for one more reader of `tree`; elsewhere and without jit nothing.

    XLA on CPU stores what two kernels make of the same array, if only one of them is a loop: the
    squares of a gradient, or a bfloat16 gradient in float32. Behind a barrier it takes the array
    for another one. Without: 3 to 5 times the time of the factored update, and temporaries as
    large as the parameters. On GPU and TPU a barrier would keep the update out of the kernel that
    makes the gradient.
    """
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(tree)):
        return tree
    barrier = functools.partial(jax.tree.map, jax.lax.optimization_barrier)  # each leaf by itself
    return jax.lax.platform_dependent(tree, cpu=barrier, default=lambda tree: tree)


def zeros_like(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Zeros in the place of `x`, also under jit on a mesh whose axes are `AxisType.Auto`."""
    zeros = jnp.zeros_like(x, dtype)
    if not isinstance(x, Tracer):
        return zeros
    # There the sharding of x is no part of its type. It goes to what is computed from x, as far as
    # XLA can tell: behind the barrier it cannot see that nothing of x is taken.
    never = jax.lax.optimization_barrier(jnp.zeros([], bool))
    x = x if jnp.iscomplexobj(zeros) else jnp.real(x)
    return jnp.where(never, x.astype(dtype), zeros)


def as_bits(x: jax.Array) -> jax.Array:
    """A bfloat16 array as the uint16 of its bits, of which XLA on CPU can update a part in place.

    Raises:
      TypeError: it is differentiated.
    """
    return jax.lax.bitcast_convert_type(_not_differentiable(x), jnp.uint16)


def from_bits(bits: jax.Array) -> jax.Array:
    """The bfloat16 array of such bits."""
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)


@jax.custom_jvp
def _not_differentiable(x: jax.Array) -> jax.Array:
    """Identity that raises when it is differentiated: bits would drop a part of the derivative."""
    return x


@functools.partial(_not_differentiable.defjvp, symbolic_zeros=True)
def _not_differentiable_jvp(primals: tuple[jax.Array], tangents: Any) -> tuple[jax.Array, Any]:
    if not isinstance(tangents[0], SymbolicZero):
        rule = "None where updates are differentiated by gradients"
        got = "bfloat16, whose bits would drop a part of the derivative"
        refuse(TypeError, "queue_dtype", rule, got, "Leave queue_dtype out there.")
    return primals[0], jnp.zeros_like(primals[0])
