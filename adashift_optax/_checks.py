"""Argument checks. Every message names the argument, the rule, the value and the remedy.

Traced values pass: nothing is known of them but shape and dtype. What JAX or Python refuse anyway,
with a message that can be understood, is not checked here.
"""

import math
import numbers
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import KeyPath

State = TypeVar("State")
Moments = tuple[Any, Any, Any]  # b1, b2, eps: floats, arrays or traced

STATIC_ARGS: tuple[str, ...] = ("n", "phi", "block_axes", "queue_dtype")
"""What `optax.inject_hyperparams` must leave alone in `adashift`: its `static_args`."""


def refuse(error: type[Exception], name: str, rule: str, got: object, remedy: str) -> NoReturn:
    """Raise an error in the words that all messages have."""
    raise error(f"{name} must be {rule}; got {got}. {remedy}")


def check_n(n: Any) -> int:
    """`n` as a Python int >= 1."""
    if isinstance(n, (int, np.integer)) and not isinstance(n, bool) and 1 <= n < 2**31 - 1:
        return int(n)
    remedy = "Pass e.g. n=10; under optax.inject_hyperparams with static_args=STATIC_ARGS."
    refuse(ValueError, "n", "a Python int >= 1 (steps of delay)", repr(n), remedy)


def check_moments(b1: Any, b2: Any, eps: Any) -> Moments:
    """These three in their ranges."""
    b1, b2 = (check_number(k, x, 0, 1, f"Pass e.g. {k}=0.9.") for k, x in (("b1", b1), ("b2", b2)))
    return b1, b2, check_number("eps", eps, 0, math.inf, "Pass e.g. eps=1e-10.")


def check_number(
    name: str, value: Any, low: float, high: float, remedy: str, narrow: bool = False
) -> Any:
    """`value` in [low, high) and finite, also when rounded: a float, or an array if it is one.

    It may be of any width if it is used by itself (`narrow`).
    """
    dtype, array = dtype_of(value), isinstance(value, (jax.Array, np.ndarray))
    whole = jnp.issubdtype(dtype, jnp.integer)
    if np.shape(value) or not (whole or jnp.issubdtype(dtype, jnp.floating)):
        refuse(TypeError, name, "a real scalar", repr(value), remedy)
    if array and not narrow and dtype in (jnp.bfloat16, jnp.float16):
        got = f"{dtype}, which rounds 0.999 to 1 or 1e-10 to 0"
        remedy = "Under optax.inject_hyperparams pass hyperparam_dtype=jnp.float32."
        refuse(ValueError, name, "float32 or wider", got, remedy)
    if isinstance(value, Tracer):
        return value.astype(float) if whole else value  # inject_hyperparams makes ints of b1=0
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(float(value)).astype(jnp.result_type(float))
    if not low <= float(value) < high or not np.isfinite(rounded):
        refuse(ValueError, name, f"finite and in [{low:g}, {high:g})", repr(value), remedy)
    return jnp.asarray(value, float if whole else None) if array else float(value)


def check_scheduled(name: str, value: Any, low: float, narrow: bool = False) -> Any:
    """`value`, a finite number >= `low`, or a schedule whose every value is one real number."""
    remedy = f"Pass e.g. {name}=1e-4."
    if not callable(value):
        return check_number(name, value, low, math.inf, remedy, narrow)

    def schedule(count: Any) -> Any:
        x = value(count)
        real = isinstance(x, (jax.Array, np.ndarray, np.number, int, float))
        if not real or isinstance(x, bool) or jnp.shape(x) or jnp.iscomplexobj(x):
            refuse(TypeError, name, "a real scalar", repr(x), remedy)
        return x

    return schedule


def check_phi(phi: Any) -> Any:
    """`phi`, a known name or a callable."""
    if not callable(phi) and phi not in ("max", "mean", "none"):
        rule = "'max', 'mean', 'none' or a callable"
        refuse(ValueError, "phi", rule, repr(phi), "Pass phi='max'.")
    return phi


def check_phi_value(x: Any) -> jax.Array:
    """The value of a callable phi, a real scalar."""
    x = jnp.asarray(x)
    if x.ndim or not jnp.issubdtype(x.dtype, jnp.floating):
        rule = "a function from the squared gradients of one block to one real scalar"
        remedy = "Reduce over all axes, e.g. phi=jnp.median."
        refuse(ValueError, "phi", rule, f"shape {x.shape}, dtype {x.dtype}", remedy)
    return x


def check_bfloat16(name: str, dtype: Any) -> np.dtype | None:
    """`dtype`, None or bfloat16."""
    if dtype not in (None, jnp.bfloat16, "bfloat16"):
        remedy = f"Pass {name}=jnp.bfloat16 or None; under inject_hyperparams in static_args."
        refuse(ValueError, name, "None or bfloat16", repr(dtype), remedy)
    return None if dtype is None else jnp.dtype(jnp.bfloat16)


def dtype_of(x: Any) -> np.dtype:
    """The dtype of a leaf, whatever it is."""
    return getattr(x, "dtype", None) or np.result_type(type(x))


def check_inexact(name: str, tree: Any, narrow: str = "") -> None:
    """Every leaf is float or complex, of a width that JAX knows; with `narrow` set, real."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = dtype_of(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact) or dtype in (np.longdouble, np.clongdouble):
            dtype = "float0" if dtype == jax.dtypes.float0 else dtype
            remedy = "Keep such leaves out with optax.masked or optax.partition."
            refuse(TypeError, name, "float or complex", f"dtype {dtype} at {at(path)}", remedy)
        if narrow and jnp.issubdtype(dtype, jnp.complexfloating):
            got = f"bfloat16 for the {dtype} leaf at {at(path)}"
            refuse(TypeError, narrow, "None for complex parameters", got, f"Leave {narrow} out.")


def check_params(params: Any, narrow: str = "") -> None:
    """Every leaf is float or complex (with `narrow` set, real), and no axes have names.

    Haliax and Penzai have nodes of a tree that name the axes of the array in them.
    """
    check_inexact("params", params, narrow)

    def is_named(x: Any) -> bool:
        # By `dir`, in which what a box says of the array in it is not.
        return hasattr(type(x), "dtype") and bool({"axes", "named_axes", "named_shape"} & {*dir(x)})

    for path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_named):
        if is_named(x):
            rule = "plain arrays, because arrays of the state have other axes"
            got = f"the named array {type(x).__name__} at {at(path)}"
            refuse(TypeError, "params", rule, got, "Pass what it holds, e.g. x.array.")


def check_state(state: object, of: type[State]) -> State:
    """`state`, which is one `of` this library."""
    if not isinstance(state, of):
        rule = f"the {of.__name__} that init or the last update returned"
        remedy = "Keep one state per optimizer, and restore a checkpoint into tx.init(params)."
        refuse(TypeError, "state", rule, type(state).__name__, remedy)
    return state


def check_transformation(tx: Any) -> None:
    """`tx` is one of Optax's."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        refuse(TypeError, "tx", "an optax.GradientTransformation", repr(tx), "Pass adashift(1e-2).")


def check_arrays(params: Any, or_numbers: bool = False) -> None:
    """Every leaf has a shape and a dtype, or is a number."""
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        is_array = hasattr(x, "shape") and hasattr(x, "dtype")
        if not is_array and not (or_numbers and isinstance(x, numbers.Number)):
            rule, remedy = "arrays or jax.ShapeDtypeStruct", "Convert numbers by jnp.asarray."
            refuse(TypeError, "params", rule, f"{x!r} at {at(path)}", remedy)


def at(path: KeyPath) -> str:
    """Where a leaf is, for messages."""
    return jax.tree_util.keystr(path) or "the root"
