"""What `adashift` and `adashiftw` chain behind the direction: decay, learning rate and dtype."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adashift_optax import _checks
from adashift_optax._numbers import narrowed, widened


def in_dtype(
    *transformations: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """These in a chain, in float32 or wider: a narrow direction times a small rate may be 0."""
    chain = optax.chain(*transformations)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        wide, wide_params = jax.tree.map(widened, (updates, params))
        u, state = chain.update(wide, state, wide_params, **extra_args)
        return narrowed(u, updates, params), state

    return optax.GradientTransformationExtraArgs(chain.init, update)


def scale_by_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """``optax.scale_by_learning_rate``, of a rate that is one finite number."""
    remedy = "Pass e.g. learning_rate=1e-2."
    if callable(learning_rate):
        rates = learning_rate
        return optax.scale_by_learning_rate(
            lambda count: _checks.check_scalar("learning_rate", rates(count), remedy)
        )
    rate = _checks.check_number("learning_rate", learning_rate, -math.inf, math.inf, remedy, True)
    return optax.scale_by_learning_rate(rate)


def add_decay(weight_decay: optax.ScalarOrSchedule, mask: Any) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, which would broadcast parameters of other shapes."""
    if not callable(weight_decay):
        remedy = "Pass e.g. weight_decay=1e-4."
        weight_decay = _checks.check_number("weight_decay", weight_decay, 0, math.inf, remedy)
    if isinstance(mask, bool | np.bool_ | jax.Array) and isinstance(weight_decay, jax.Array):
        raise TypeError(  # optax.inject_hyperparams has called a mask as if it were a schedule
            "mask must be None, a tree of bools like the parameters or a callable that makes one; "
            f"got {mask!r}, with a weight_decay that is an array. Under optax.inject_hyperparams "
            'list a callable mask in static_args: (*STATIC_ARGS, "mask").'
        )
    decay = optax.add_decayed_weights(weight_decay)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        for (path, u), p in zip(leaves, jax.tree.leaves(params), strict=False):
            if jnp.shape(u) != jnp.shape(p):
                raise ValueError(
                    f"params must have the shapes of updates; got {list(jnp.shape(p))} at "
                    f"{_checks.at(path)} for an update of {list(jnp.shape(u))}. Pass the "
                    "parameters that the updates are for."
                )
        return decay.update(updates, state, params)

    checked = optax.GradientTransformation(decay.init, update)
    return checked if mask is None else optax.masked(checked, mask)
