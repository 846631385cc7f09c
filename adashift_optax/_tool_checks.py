"""Checks of what `analysis`, `problems`, `sharding` and `state_bytes` are given."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adashift_optax._checks import at


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


def recorded(name: str, x: Any, steps: int) -> jax.Array:
    """`x` as an array of floats of at least so many steps."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        x = np.asarray(x, object)
    if not jnp.issubdtype(x.dtype, jnp.inexact) or not x.ndim or len(x) < steps:
        raise ValueError(
            f"{name} must be a float array with time first, of at least {steps} steps; got "
            f"{x.dtype}{list(x.shape)}. Stack the recorded arrays: jnp.stack(list)."
        )
    return x
