"""The axes of a leaf that form one block: what may be asked for, and what "outputs" means."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.tree_util import KeyPath

from adashift_optax._checks import at

AxesOf = Callable[[KeyPath, jax.ShapeDtypeStruct], Sequence[int] | None]
BlockAxes = Sequence[int] | Literal["outputs"] | AxesOf | None

ATTENTION = ("query", "key", "value")


def outputs(path: KeyPath, leaf: jax.ShapeDtypeStruct) -> tuple[int, ...] | None:
    """The axes over which each output of a layer sums, so that every output has its own v.

    That is one v for each output neuron of a matrix, each channel of a convolution, each dimension
    of a head, each token of an embedding; and one for a bias or the scale of a norm as a whole.
    Leading axes of stacked layers and of experts keep their own. Layouts are those of Flax, and of
    Equinox where a leaf is named "weight".
    """
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    name, module = (["", "", *names])[-1], (["", "", *names])[-2]
    rank = len(leaf.shape)
    if rank < 2:
        return None
    if name in ("bias", "scale"):  # [d], in attention [heads, head_dim]
        return (-2, -1) if module in ATTENTION else (-1,)
    if name == "embedding":  # [tokens, d]
        return (-1,)
    if name == "weight":  # [out, in, ...]
        return tuple(range(1, rank))
    if rank >= 3 and module in ATTENTION:  # [d, heads, head_dim]
        return (-3,)
    if rank >= 3 and module == "out":  # [heads, head_dim, d]
        return (-3, -2)
    return (-2,) if rank < 4 else (-4, -3, -2)  # [in, out]; [height, width, in, out]


def check_block_axes(block_axes: Any) -> Any:
    """`block_axes`, None, a tuple of ints or a callable."""
    if block_axes is None or callable(block_axes) or block_axes == "outputs":
        return block_axes
    if not isinstance(block_axes, (tuple, list)) or not all(
        isinstance(a, numbers.Integral) and not isinstance(a, bool) for a in block_axes
    ):
        raise TypeError(
            'block_axes must be None, "outputs", a tuple of ints or a callable (path, leaf) -> '
            f"tuple | None; got {block_axes!r}. Pass e.g. block_axes=(-2, -1)."
        )
    return tuple(block_axes)


def check_axis_name(axis_name: object, phi: object, block_axes: object) -> None:
    """`axis_name` is None, or the blocks are whole leaves."""
    if axis_name is None:
        return
    if callable(phi) or phi == "factored" or block_axes is not None:
        raise ValueError(
            'axis_name must come with phi="max", "mean" or "none" and without block_axes, because '
            "only such blocks can be reduced shard by shard; got axis_name="
            f"{axis_name!r}, phi={phi!r}, block_axes={block_axes!r}. Use jax.jit on sharded arrays "
            "instead of jax.shard_map: it needs no axis_name."
        )


def check_axes(axes: Sequence[int] | None, ndim: int, path: KeyPath) -> tuple[int, ...]:
    """The axes of one leaf, in [0, ndim), without repeats; None means all of them."""
    if axes is None:
        return tuple(range(ndim))
    axes = tuple(check_block_axes(axes))
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(
            f"block_axes must name different axes of each leaf; got {tuple(axes)} for the leaf "
            f"{at(path)} of rank {ndim}. Pass a callable (path, leaf) -> tuple | None to choose "
            "axes leaf by leaf."
        )
    return tuple(sorted(a % ndim for a in axes))
