"""Argument checks. Every message names the argument, the rule, the value and the remedy.

Traced values pass: nothing is known of them but shape and dtype. What JAX or Python refuse anyway,
with a message that can be understood, is not checked here.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import KeyPath
from jax.typing import ArrayLike, DTypeLike

State = TypeVar("State")
Choice = TypeVar("Choice")

STATIC_ARGS: tuple[str, ...] = (
    "n",
    "phi",
    "block_axes",
    "axis_name",
    "window",
    "queue_dtype",
)
"""Arguments that `optax.inject_hyperparams` must leave alone: pass them as its `static_args`."""


QUEUE_DTYPES = ("float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")


def check_n(n: Any) -> int:
    """`n` as a Python int >= 1."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= 46340:
        raise ValueError(
            "n must be a Python int in [1, 46340] (steps of delay; n (n + 1) is an int32); got "
            f'{n!r}. Pass e.g. n=10; under optax.inject_hyperparams list "n" in static_args, as '
            "adashift_optax.STATIC_ARGS does."
        )
    return int(n)


def check_number(
    name: str, value: Any, low: float, high: float, remedy: str, narrow: bool = False
) -> Any:
    """`value` in [low, high) and finite, also when rounded: a float, or an array if it is one.

    It may be of any width if it is used by itself (`narrow`).
    """
    array, whole = _kind_of_number(name, value, remedy, narrow)
    if isinstance(value, Tracer):
        return value.astype(float) if whole else value  # inject_hyperparams makes ints of b1=0
    if not low <= float(value) < high or not np.isfinite(rounded(value, jnp.result_type(float))):
        rule = f"in [{low:g}, {high:g})" if math.isfinite(high) else "finite"
        rule += f" and >= {low:g}" if math.isinf(high) and math.isfinite(low) else ""
        raise ValueError(f"{name} must be {rule}; got {value!r}. {remedy}")
    return jnp.asarray(value, float if whole else None) if array else float(value)


def _kind_of_number(name: str, value: Any, remedy: str, narrow: bool) -> tuple[bool, bool]:
    """Whether `value`, a real scalar, is an array, and whether it is an integer."""
    dtype, array = dtype_of(value), isinstance(value, (jax.Array, np.ndarray))
    whole = jnp.issubdtype(dtype, jnp.integer)
    if np.shape(value) or not (whole or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{name} must be a real scalar; got {value!r}. {remedy}")
    if array and not narrow and dtype in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"{name} must be float32 or wider; got {dtype}, which rounds 0.999 to 1 or 1e-10 to 0. "
            "Under optax.inject_hyperparams pass hyperparam_dtype=jnp.float32."
        )
    return array, whole


def check_choice(name: str, value: Choice, choices: Sequence[str]) -> Choice:
    """`value`, one of `choices`."""
    if value not in choices:
        rule = " or ".join(map(repr, choices))
        raise ValueError(f"{name} must be {rule}; got {value!r}. Pass {name}={choices[0]!r}.")
    return value


CLIP_REMEDY = "Pass e.g. clip_value=1.0, or None."


def check_clip_value(value: Any) -> Any:
    """`value`, None, a positive number or a schedule."""
    if value is None or callable(value):
        return value
    value = check_number("clip_value", value, 0, math.inf, CLIP_REMEDY)
    check_fits(value, 0.0, [jnp.result_type(float)])
    return value


def clip_at(value: Any, count: jax.Array) -> ArrayLike | None:
    """What `clip_value` is after `count` updates."""
    return check_scalar("clip_value", value(count), CLIP_REMEDY) if callable(value) else value


def check_fits(clip: Any, eps: ArrayLike, dtypes: Sequence[jnp.dtype]) -> None:
    """`clip_value` is not 0, nor `eps` infinite, in the dtypes of the leaves they are used for."""
    for dtype in dtypes:
        if not isinstance(eps, Tracer) and not np.isfinite(rounded(eps, dtype)):
            raise ValueError(
                f"eps must be finite in {dtype}, the dtype of a leaf's v; got {eps!r}. Pass e.g. "
                "eps=1e-10."
            )
        known = clip is not None and not callable(clip) and not isinstance(clip, Tracer)
        if (
            known and rounded(clip, dtype) < jnp.finfo(dtype).tiny
        ):  # below, processors take it for 0
            raise ValueError(
                f"clip_value must be at least {jnp.finfo(dtype).tiny}, the smallest {dtype}, for 0 "
                f"would clip every update to nothing; got {clip!r}. {CLIP_REMEDY}"
            )


def rounded(value: Any, dtype: jnp.dtype) -> np.ndarray:
    """A known number in `dtype`; too large, it is infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(float(value)).astype(dtype)


def check_block_axes(block_axes: Any) -> Any:
    """`block_axes`, None, a tuple of ints or a callable."""
    if block_axes is None or callable(block_axes):
        return block_axes
    if not isinstance(block_axes, (tuple, list)) or not all(
        isinstance(a, numbers.Integral) and not isinstance(a, bool) for a in block_axes
    ):
        raise TypeError(
            "block_axes must be None, a tuple of ints or a callable (path, leaf) -> tuple | None; "
            f"got {block_axes!r}. Pass e.g. block_axes=(-2, -1)."
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


def check_state(state: object, of: type[State]) -> State:
    """`state`, which is one `of` this library."""
    if not isinstance(state, of):
        raise TypeError(
            f"state must be the {of.__name__} that init or the last update returned; got "
            f"{type(state).__name__}. Keep one state per optimizer; if it comes from a checkpoint, "
            "restore it into the target tx.init(params)."
        )
    return state


def check_phi_value(x: ArrayLike) -> jax.Array:
    """The value of a callable phi, a real scalar."""
    x = jnp.asarray(x)
    if x.ndim or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            "phi must map the squared gradients of one block to one real scalar; got shape "
            f"{x.shape}, dtype {x.dtype}. Reduce over all axes, e.g. phi=jnp.median."
        )
    return x


def dtype_of(x: Any) -> np.dtype:
    """The dtype of a leaf, whatever it is."""
    return getattr(x, "dtype", None) or np.result_type(type(x))


def check_inexact(name: str, dtypes: Any) -> None:
    """Every leaf of a tree of dtypes is float or complex, of a width that JAX knows."""
    for path, dtype in jax.tree_util.tree_leaves_with_path(dtypes):
        if not jnp.issubdtype(dtype, jnp.inexact) or dtype in (np.longdouble, np.clongdouble):
            dtype = "float0" if dtype == jax.dtypes.float0 else dtype
            raise TypeError(
                f"{name} must be float or complex; got dtype {dtype} at {at(path)}. "
                "Keep such leaves out with optax.masked or optax.partition."
            )


def check_queue_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """`dtype` is None or one that the queue can hold."""
    if dtype is None or jnp.dtype(dtype).name in QUEUE_DTYPES:
        return None if dtype is None else jnp.dtype(dtype)
    raise ValueError(
        f"queue_dtype must be None or one of {', '.join(QUEUE_DTYPES)}; got {dtype!r}. "
        "Pass e.g. queue_dtype=jnp.bfloat16, or None to hold gradients as they are accumulated."
    )


def check_params(params: Any, queue_dtype: str | None) -> None:
    """Every leaf is a float or, without a `queue_dtype`, complex array."""
    dtypes = jax.tree.map(dtype_of, params)
    check_inexact("params", dtypes)
    for path, dtype in jax.tree_util.tree_leaves_with_path(dtypes):
        if queue_dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"queue_dtype must be None for complex parameters; got {queue_dtype!r} for the "
                f"{dtype} leaf at {at(path)}. Leave queue_dtype out."
            )


def check_scalar(name: str, value: Any, remedy: str) -> Any:
    """`value`, which a schedule has given, is one real number."""
    real = isinstance(value, (jax.Array, np.ndarray, np.number, int, float))
    if not real or isinstance(value, bool) or jnp.shape(value) or jnp.iscomplexobj(value):
        raise TypeError(f"{name} must be a real scalar; got {value!r}. {remedy}")
    return value


def at(path: KeyPath) -> str:
    """Where a leaf is, for messages."""
    return jax.tree_util.keystr(path) or "the root"
