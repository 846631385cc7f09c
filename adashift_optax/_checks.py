"""Argument checks. Every message names the argument, the rule, the value and the remedy.

Traced values pass: nothing is known of them but shape and dtype. What JAX or Python refuse anyway,
with a message that can be understood, is not checked here.
"""

import math
import numbers
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import KeyPath
from jax.typing import ArrayLike

State = TypeVar("State")

STATIC_ARGS: tuple[str, ...] = ("n", "phi", "block_axes", "queue_dtype")
"""The arguments of `adashift` that `optax.inject_hyperparams` must leave alone: its `static_args`."""


def check_n(n: Any) -> int:
    """`n` as a Python int >= 1."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n < 2**31 - 1:
        raise ValueError(
            f"n must be a Python int >= 1 (steps of delay); got {n!r}. Pass e.g. n=10; under "
            'optax.inject_hyperparams list "n" in static_args, as adashift_optax.STATIC_ARGS does.'
        )
    return int(n)


def check_moments(b1: Any, b2: Any, eps: Any) -> tuple[Any, Any, Any]:
    """These three in their ranges."""
    return (
        check_number("b1", b1, 0, 1, "Pass e.g. b1=0.9."),
        check_number("b2", b2, 0, 1, "Pass e.g. b2=0.999."),
        check_number("eps", eps, 0, math.inf, "Pass e.g. eps=1e-10."),
    )


def check_number(
    name: str, value: Any, low: float, high: float, remedy: str, narrow: bool = False
) -> Any:
    """`value` in [low, high) and finite, also when rounded: a float, or an array if it is one.

    It may be of any width if it is used by itself (`narrow`).
    """
    dtype, array = dtype_of(value), isinstance(value, (jax.Array, np.ndarray))
    whole = jnp.issubdtype(dtype, jnp.integer)
    if np.shape(value) or not (whole or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{name} must be a real scalar; got {value!r}. {remedy}")
    if array and not narrow and dtype in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"{name} must be float32 or wider; got {dtype}, which rounds 0.999 to 1 or 1e-10 to 0. "
            "Under optax.inject_hyperparams pass hyperparam_dtype=jnp.float32."
        )
    if isinstance(value, Tracer):
        return value.astype(float) if whole else value  # inject_hyperparams makes ints of b1=0
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(float(value)).astype(jnp.result_type(float))
    if not low <= float(value) < high or not np.isfinite(rounded):
        rule = f"in [{low:g}, {high:g})" if math.isfinite(high) else "finite"
        rule += f" and >= {low:g}" if math.isinf(high) and math.isfinite(low) else ""
        raise ValueError(f"{name} must be {rule}; got {value!r}. {remedy}")
    return jnp.asarray(value, float if whole else None) if array else float(value)


def check_scalar(name: str, value: Any, remedy: str) -> Any:
    """`value`, which a schedule has given, is one real number."""
    real = isinstance(value, (jax.Array, np.ndarray, np.number, int, float))
    if not real or isinstance(value, bool) or jnp.shape(value) or jnp.iscomplexobj(value):
        raise TypeError(f"{name} must be a real scalar; got {value!r}. {remedy}")
    return value


def check_phi(phi: Any) -> None:
    """`phi` has a known name, or is a callable."""
    if not callable(phi) and phi not in ("max", "mean", "none"):
        raise ValueError(
            f"phi must be 'max', 'mean', 'none' or a callable; got {phi!r}. Pass phi='max'."
        )


def check_phi_value(x: ArrayLike) -> jax.Array:
    """The value of a callable phi, a real scalar."""
    x = jnp.asarray(x)
    if x.ndim or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            "phi must map the squared gradients of one block to one real scalar; got shape "
            f"{x.shape}, dtype {x.dtype}. Reduce over all axes, e.g. phi=jnp.median."
        )
    return x


def check_bfloat16(name: str, dtype: Any) -> np.dtype | None:
    """`dtype`, None or bfloat16."""
    try:
        found = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        found = dtype
    if found is None or found == jnp.bfloat16:
        return found
    raise ValueError(
        f"{name} must be None or bfloat16; got {dtype!r}. Pass {name}=jnp.bfloat16, or None for "
        "float32 or wider."
    )


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


def check_params(params: Any, **narrow: np.dtype | None) -> None:
    """Every leaf is a float array or, if all dtypes in `narrow` are None, a complex one."""
    check_no_names(params)
    dtypes = jax.tree.map(dtype_of, params)
    check_inexact("params", dtypes)
    for path, dtype in jax.tree_util.tree_leaves_with_path(dtypes):
        for name, given in narrow.items():
            if given is not None and jnp.issubdtype(dtype, jnp.complexfloating):
                raise TypeError(
                    f"{name} must be None for complex parameters; got {str(given)!r} for the "
                    f"{dtype} leaf at {at(path)}. Leave {name} out."
                )


def check_no_names(params: Any) -> None:
    """No array of `params` is in a node that names its axes, as Haliax and Penzai have them."""

    def is_named(x: Any) -> bool:
        return any(hasattr(x, name) for name in ("axes", "named_axes", "named_shape"))

    for path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_named):
        if is_named(x):
            raise TypeError(
                "params must not be named arrays, because arrays of the state have other axes; "
                f"got {type(x).__name__} at {at(path)}. Pass the plain arrays, e.g. x.array."
            )


def check_state(state: object, of: type[State]) -> State:
    """`state`, which is one `of` this library."""
    if not isinstance(state, of):
        raise TypeError(
            f"state must be the {of.__name__} that init or the last update returned; got "
            f"{type(state).__name__}. Keep one state per optimizer; if it comes from a checkpoint, "
            "restore it into the target tx.init(params)."
        )
    return state


def check_transformation(tx: Any) -> None:
    """`tx` is one of Optax's."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(
            f"tx must be an optax.GradientTransformation; got {tx!r}. Pass e.g. adashift(1e-2)."
        )


def check_arrays(params: Any, or_numbers: bool = False) -> None:
    """Every leaf has a shape and a dtype, or is a number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) or (
            or_numbers and isinstance(leaf, numbers.Number)
        ):
            continue
        raise TypeError(
            f"params must be arrays or jax.ShapeDtypeStruct; got {leaf!r} at {at(path)}. "
            "Convert numbers by jnp.asarray."
        )


def check_steps(name: str, value: Any, least: int, remedy: str) -> None:
    """`value` is a number of steps that an int32 can count."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value < 2**31:
        raise ValueError(f"{name} must be an int in [{least}, 2**31); got {value!r}. {remedy}")


def at(path: KeyPath) -> str:
    """Where a leaf is, for messages."""
    return jax.tree_util.keystr(path) or "the root"
