"""Argument checks. Every message names the argument, the rule, the value and the remedy.

Traced values pass: nothing is known of them but shape and dtype. What JAX or Python refuse anyway,
with a message that can be understood, is not checked here.
"""

import math
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
    "mu_dtype",
    "warm_start",
)
"""Arguments that `optax.inject_hyperparams` must leave alone: pass them as its `static_args`."""


MU_DTYPES = ("float32", "bfloat16", "float16")
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


B2_REMEDY = (
    "Pass e.g. b2=0.999, or a schedule such as lambda k: 1 - k**-0.8 (under "
    'optax.inject_hyperparams with static_args=(*STATIC_ARGS, "b2")).'
)


def check_b2(value: Any) -> Any:
    """`value`, a number in [0, 1) or a schedule."""
    return value if callable(value) else check_number("b2", value, 0, 1, B2_REMEDY)


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


def check_bool(name: str, value: Any) -> bool:
    """`value`, which is True or False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(
        f"{name} must be True or False, known before jit; got {value!r}. Pass e.g. {name}=True; "
        "under optax.inject_hyperparams list it in static_args, as STATIC_ARGS does."
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


def check_dtype(name: str, dtype: DTypeLike | None, choices: Sequence[str]) -> np.dtype | None:
    """`dtype`, None or one of `choices`."""
    if dtype is None or jnp.dtype(dtype).name in choices:
        return None if dtype is None else jnp.dtype(dtype)
    raise ValueError(
        f"{name} must be None or one of {', '.join(choices)}; got {dtype!r}. Pass e.g. "
        f"{name}=jnp.bfloat16, or None to hold them in float32 or wider."
    )


def check_params(params: Any, **narrow: np.dtype | str | None) -> None:
    """Every leaf is a float array or, if all dtypes in `narrow` are None, a complex one."""
    dtypes = jax.tree.map(dtype_of, params)
    check_inexact("params", dtypes)
    for path, dtype in jax.tree_util.tree_leaves_with_path(dtypes):
        for name, given in narrow.items():
            if given is not None and jnp.issubdtype(dtype, jnp.complexfloating):
                raise TypeError(
                    f"{name} must be None for complex parameters; got {str(given)!r} for the "
                    f"{dtype} leaf at {at(path)}. Leave {name} out."
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
