"""What is compiled: a step of an optimizer, alone or after the forward and backward pass."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from adashift_optax.sharding import opt_state_shardings
from benchmarks.compiled.hlo import Program
from benchmarks.models import Model, specs_of


class Compiled(NamedTuple):
    """What the compiler made of a step, on one of the chips.

    Attributes:
      program: its kernels.
      leaves: how many arrays the parameters are, which are the first results.
      matrices: which of these results are matrices.
      parameters: how many numbers the parameters are.
      state: bytes of the optimizer's state.
      temporaries: bytes that the step allocates beside its arguments.
      peak: bytes of arguments, of results that replace none of them, and of temporaries.
      slot: bytes of the smallest matrix.
    """

    program: Program
    leaves: int
    matrices: tuple[int, ...]
    parameters: int
    state: int
    temporaries: int
    peak: int
    slot: int

    @property
    def copies(self) -> int:
        """Copies as large as a matrix of an argument or a result."""
        return len(self.program.copies(self.slot))

    @property
    def joined(self) -> int:
        """How many matrices are updated in the kernel of a matrix product."""
        return self.program.joined(self.matrices)

    @property
    def waits(self) -> bool:
        """Whether a new parameter waits for an all-reduce."""
        return bool(self.program.awaited(self.leaves))


def mesh(devices: list[Any], fsdp: int = 1) -> Mesh:
    """`devices`, of which parameters and the batch are split over `fsdp`, the rest "tensor"."""
    grid = np.asarray(devices).reshape(fsdp, -1)
    return Mesh(grid, ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)


def update(tx: optax.GradientTransformation, params: Any, on: Mesh) -> Compiled:
    """The optimizer's step, from gradients that are given."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _placed(params, specs_of(params), on)
    return _compiled(step, tx, params, params)


def training(
    tx: optax.GradientTransformation, model: Model, on: Mesh, clip_norm: bool = False
) -> Compiled:
    """The whole step: forward, backward and update."""
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(1.0), tx)

    def step(params: Any, state: Any, batch: Any) -> Any:
        grads = jax.grad(model.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    batch = _placed(model.batch, PartitionSpec("fsdp"), on)
    return _compiled(step, tx, _placed(model.params, specs_of(model.params), on), batch)


def _placed(shapes: Any, specs: Any, on: Mesh) -> Any:
    """`shapes` with their place on a mesh."""

    def place(x: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(on, spec))

    return jax.tree.map(place, shapes, specs)


def _compiled(
    step: Callable[..., Any], tx: optax.GradientTransformation, params: Any, inputs: Any
) -> Compiled:
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(tx.init, params),
        opt_state_shardings(tx, params),
    )
    # The new state must lie where the old one does, or it would not be updated in place.
    results = jax.tree.map(lambda x: x.sharding, (params, state))
    compiled = jax.jit(step, donate_argnums=(0, 1), out_shardings=results)
    compiled = compiled.lower(params, state, inputs).compile()
    memory = compiled.memory_analysis()
    leaves = jax.tree.leaves(params)
    matrices = tuple(k for k, x in enumerate(leaves) if x.ndim > 1)
    return Compiled(
        program=Program(compiled.as_text()),
        leaves=len(leaves),
        matrices=matrices,
        parameters=sum(_size(x) for x in leaves),
        state=_bytes(state),
        temporaries=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        slot=min(_bytes(leaves[k]) for k in matrices),
    )


def _bytes(tree: Any) -> int:
    """Bytes of a tree on one chip."""
    return sum(_size(x) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _size(x: jax.ShapeDtypeStruct) -> int:
    """How many numbers of an array are on one chip."""
    return math.prod(x.sharding.shard_shape(x.shape))
