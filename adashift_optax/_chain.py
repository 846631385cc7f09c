"""What stands behind the direction: weight decay, the learning rate, the dtype of the updates."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import OptState, Updates

from adashift_optax import _checks
from adashift_optax._boxes import Updated, each
from adashift_optax._numbers import widened


def narrowing(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose updates are wide, with updates in the dtypes that an optimizer gives them.

    That is the wider of the gradient's and, where `params` are given for all of `updates`, the
    parameter's, as in ``optax.adam``. They are rounded once: a narrow direction times a small rate
    may be 0.
    """
    extended = optax.with_extra_args_support(tx)

    def update(updates: Updates, state: OptState, params: Any = None, **extra: Any) -> Updated:
        # Optax's own transformations mix dtypes, also where users have forbidden that.
        with jax.numpy_dtype_promotion("standard"):
            wide, state = extended.update(updates, state, jax.tree.map(widened, params), **extra)
            (u, tree), given = jax.tree.flatten(wide), jax.tree.leaves(updates)
            theirs = p if len(p := jax.tree.leaves(params)) == len(given) else given
            kinds = each(lambda *x: jnp.promote_types(*map(jnp.result_type, x)), given, theirs)
        return tree.unflatten(each(lambda u, kind: u.astype(kind), u, kinds)), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def scale_by_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """``optax.scale_by_learning_rate``, of a rate that is one finite number."""
    remedy = "Pass e.g. learning_rate=1e-2."
    rate = _checks.check_scheduled("learning_rate", learning_rate, -math.inf, remedy, narrow=True)
    return optax.scale_by_learning_rate(rate)


def add_decay(weight_decay: optax.ScalarOrSchedule, mask: Any) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, which would broadcast parameters of other shapes."""
    remedy = "Pass e.g. weight_decay=1e-4."
    weight_decay = _checks.check_scheduled("weight_decay", weight_decay, 0, remedy)
    if isinstance(mask, bool | np.bool_ | jax.Array) and isinstance(weight_decay, jax.Array):
        # optax.inject_hyperparams has called a mask as if it were a schedule.
        rule = "None, a tree of bools like the parameters or a callable that makes one"
        remedy = "Under optax.inject_hyperparams list a callable mask in static_args."
        _checks.refuse(TypeError, "mask", rule, f"{mask!r}, with a weight_decay array", remedy)
    if isinstance(weight_decay, float) and weight_decay == 0:
        return optax.identity()
    decay = optax.add_decayed_weights
    # It takes no schedule before Optax 0.2.6.
    decay = (optax.inject_hyperparams(decay) if callable(weight_decay) else decay)(weight_decay)

    def update(updates: Updates, state: OptState, params: Any = None) -> Updated:
        leaves = jax.tree_util.tree_leaves_with_path(updates)
        for (path, u), p in zip(leaves, jax.tree.leaves(params), strict=False):
            if jnp.shape(u) != jnp.shape(p):
                got = f"{list(jnp.shape(p))} for an update of {list(jnp.shape(u))} at "
                remedy = "Pass the parameters that the updates are for."
                rule = "of the shapes of updates"
                _checks.refuse(ValueError, "params", rule, got + _checks.at(path), remedy)
        return decay.update(updates, state, params)

    checked = optax.GradientTransformation(decay.init, update)
    return checked if mask is None else optax.masked(checked, mask)
