"""Argument checks. Every message names the argument, the rule, the value and the remedy.

Ranges are checked on Python and NumPy numbers only; traced values pass.
"""

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

State = TypeVar("State")

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
    if isinstance(n, jax.Array):
        raise TypeError(
            f"n must be a Python int, because it is the size of the queue; got the array {n}. "
            'Under optax.inject_hyperparams list it in static_args: "n" is one of '
            "adashift_optax.STATIC_ARGS."
        )
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"n must be a positive int (steps of delay); got {n!r}. Pass e.g. n=10.")
    if n < 1:
        raise ValueError(f"n must be at least 1 (steps of delay); got {n}. Pass e.g. n=10.")
    n = int(n)
    if n > 46340:
        raise ValueError(
            f"n must be at most 46340, so that n (n + 1) is an int32; got {n}. Pass e.g. n=10."
        )
    return n


def check_number(name: str, value: Any, low: float, high: float, remedy: str) -> Any:
    """`value` as a float in [low, high), or as a traced scalar of at least 32 bits."""
    if isinstance(value, (jax.Array, np.ndarray)):
        if not value.ndim and jnp.issubdtype(value.dtype, jnp.integer):
            value = jnp.asarray(value, float)  # optax.inject_hyperparams makes integers of b1=0
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be a real scalar; got {value.dtype}{list(value.shape)}. {remedy}"
            )
        if value.dtype.itemsize < 4:
            raise ValueError(
                f"{name} must be float32 or wider; got {value.dtype}, which rounds 0.999 to 1 or "
                "1e-10 to 0. Under optax.inject_hyperparams pass hyperparam_dtype=jnp.float32."
            )
        return jnp.asarray(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a real number; got {value!r}. {remedy}")
    if not low <= value < high:
        rule = f"in [{low:g}, {high:g})" if math.isfinite(high) else f"finite and >= {low:g}"
        raise ValueError(f"{name} must be {rule}; got {value!r}. {remedy}")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str], or_callable: bool = False) -> None:
    """`value` is one of `choices` (or a callable)."""
    if or_callable and callable(value):
        return
    if not isinstance(value, str) or value not in choices:
        rule = " or ".join(repr(c) for c in choices) + (" or a callable" if or_callable else "")
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} must be {rule}; got {value!r}. Pass {name}={choices[0]!r}.")


def check_clip_value(value: Any) -> Callable[[Any], Any]:
    """`value`, None, a positive number or a schedule, as a schedule; an array is trusted."""
    if callable(value):
        return lambda count: check_scalar("clip_value", value(count), "Pass e.g. 1.0.")
    if value is not None:
        value = check_number("clip_value", value, 0, math.inf, "Pass e.g. clip_value=1.0, or None.")
    if isinstance(value, float) and value == 0:
        raise ValueError(
            "clip_value must be > 0, for 0 would clip every update to nothing; got 0. "
            "Pass e.g. clip_value=1.0, or None."
        )
    return lambda count: value


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


def check_axis_name(axis_name: Any, phi: Any, block_axes: Any) -> None:
    """`axis_name` is None, a name or a tuple of names, and the blocks are whole leaves."""
    if axis_name is None:
        return
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "axis_name must be None, the name of a mesh axis or a tuple of names; got "
            f'{axis_name!r}. Pass e.g. axis_name="fsdp".'
        )
    if phi not in ("max", "mean", "none") or block_axes is not None:
        raise ValueError(
            'axis_name must come with phi="max", "mean" or "none" and without block_axes, for only '
            "such blocks can be reduced shard by shard; got axis_name="
            f"{axis_name!r}, phi={phi!r}, block_axes={block_axes!r}. Use jax.jit on sharded arrays "
            "instead of jax.shard_map: it needs no axis_name."
        )


@contextlib.contextmanager
def axis_names(axis_name: Any) -> Iterator[None]:
    """Inside, JAX's NameError for an unknown axis becomes ours."""
    try:
        yield
    except NameError as error:
        raise ValueError(
            "axis_name must name axes of the jax.shard_map or jax.pmap that update runs in; got "
            f"{axis_name!r}. Under jax.jit alone leave axis_name out: there leaves are whole."
        ) from error


def check_axes(axes: Any, ndim: int, path: Any) -> tuple[int, ...]:
    """The axes of one leaf, in [0, ndim), without repeats; None means all of them."""
    if axes is None:
        return tuple(range(ndim))
    check_block_axes(axes)
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(
            f"block_axes must name different axes of each leaf; got {tuple(axes)} for the leaf "
            f"{at(path)} of rank {ndim}. Pass a callable (path, leaf) -> tuple | None to choose "
            "axes leaf by leaf."
        )
    return tuple(sorted(a % ndim for a in axes))


def check_kind(state: object, of: type[State], kind: str) -> State:
    """`state`, which is one `of` this library, of an optimizer of this `kind`."""
    if not isinstance(state, of):
        raise TypeError(
            f"state must be the {of.__name__} that init or the last update returned; got "
            f"{type(state).__name__}. Keep one state per optimizer."
        )
    clock = getattr(state, "clock", None)
    found = tuple(clock) if isinstance(clock, dict) else (type(clock).__name__,)
    if found != (kind,):
        raise ValueError(
            f"state must be that of an optimizer with {kind}; got {', '.join(found)}. Pass the "
            "arguments that it was made with, or call init for a new state."
        )
    return state


def check_phi_value(x: Any) -> jax.Array:
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
        known = jnp.issubdtype(dtype, jnp.inexact) and dtype != np.longdouble
        if not known or dtype == np.clongdouble:
            dtype = "float0" if dtype == jax.dtypes.float0 else dtype
            raise TypeError(
                f"{name} must be float or complex; got dtype {dtype} at {at(path)}. "
                "Keep such leaves out with optax.masked or optax.partition."
            )


def check_queue_dtype(dtype: Any) -> np.dtype | None:
    """`dtype` is None or one that the queue can hold."""
    if dtype is None:
        return None
    try:
        checked = jnp.dtype(dtype)
    except TypeError:
        checked = None
    if checked is None or checked.name not in QUEUE_DTYPES:
        raise ValueError(
            f"queue_dtype must be None or one of {', '.join(QUEUE_DTYPES)}; got {dtype!r}. "
            "Pass e.g. queue_dtype=jnp.bfloat16, or None to hold gradients as they are accumulated."
        )
    return checked


def check_params(params: Any, queue_dtype: Any) -> None:
    """Every leaf is a float or, without a `queue_dtype`, complex array."""
    check_inexact("params", jax.tree.map(dtype_of, params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if queue_dtype is not None and jnp.iscomplexobj(leaf):
            raise TypeError(
                f"queue_dtype must be None for complex parameters; got {queue_dtype!r} for the "
                f"{jnp.result_type(leaf)} leaf at {at(path)}. Leave queue_dtype out."
            )


def at(path: Any) -> str:
    """Where a leaf is, for messages."""
    return jax.tree_util.keystr(path) or "the root"


def check_learning_rate(learning_rate: Any) -> Any:
    """`learning_rate` is a finite number, a scalar array or a schedule of scalars."""
    remedy = "Pass e.g. learning_rate=1e-2."
    if callable(learning_rate):
        return lambda count: check_scalar("learning_rate", learning_rate(count), remedy)
    if isinstance(learning_rate, (jax.Array, np.ndarray)):
        return check_scalar("learning_rate", learning_rate, remedy)
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, numbers.Real):
        raise TypeError(
            f"learning_rate must be a number or a schedule; got {learning_rate!r}. {remedy}"
        )
    if not math.isfinite(learning_rate):  # its sign is left to the caller, as Optax does
        raise ValueError(f"learning_rate must be finite; got {learning_rate!r}. {remedy}")
    return learning_rate


def check_scalar(name: str, value: Any, remedy: str) -> Any:
    """`value`, given as an array or by a schedule, is one real number; it may be traced."""
    real = isinstance(value, (jax.Array, np.ndarray, np.number, int, float))
    if not real or jnp.shape(value) or jnp.iscomplexobj(value):
        what = f"{jnp.result_type(value)}{list(jnp.shape(value))}" if real else repr(value)
        raise TypeError(f"{name} must be a real scalar; got {what}. {remedy}")
    return value


def check_mask(mask: Any, params: Any) -> Any:
    """`mask` is a tree of bools and a prefix of `params`, unless these are None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        scalar = isinstance(leaf, bool) or getattr(leaf, "dtype", None) == np.bool_
        if not scalar or jnp.shape(leaf):
            raise TypeError(
                "mask must be None, a tree of bools like the parameters or a callable that gives "
                f"one; got {leaf!r} at {at(path)}. Pass True where decay applies."
            )
    try:
        if params is not None:
            jax.tree.structure(mask).flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"mask must be a tree like the parameters; got {jax.tree.structure(mask)} for "
            f"{jax.tree.structure(params)}. Pass True or False for each of them."
        ) from error
    return mask


def check_like_params(updates: Any, params: Any) -> None:
    """`params` is given and has the leaves and shapes of `updates`, which its decay is added to."""
    if params is None:
        raise ValueError(
            "params must be given to update, because weight decay needs them; got None. "
            "Call update(updates, state, params)."
        )

    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, lambda x: x is None)
    try:
        like = treedef.flatten_up_to(params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"params must be a tree like updates; got {jax.tree.structure(params)} for updates "
            f"of {treedef}. Pass the parameters that they are for."
        ) from error
    for (path, x), p in zip(leaves, like, strict=True):
        if x is not None and jnp.shape(x) != jnp.shape(p):
            raise ValueError(
                f"params must have the shapes of updates; got {list(jnp.shape(p))} at "
                f"{at(path)} for an update of {list(jnp.shape(x))}. "
                "Pass the parameters that it is for."
            )
