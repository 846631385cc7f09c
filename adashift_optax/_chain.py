"""What stands behind the direction: weight decay, the learning rate, the dtype of the updates."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, all_leaves, tree_map_with_path
from optax import OptState, Updates

from adashift_optax import _checks
from adashift_optax._boxes import Updated, each
from adashift_optax._numbers import is_zero, widened


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
            wide, state = extended.update(updates, state, params, **extra)
            (u, tree), given = jax.tree.flatten(wide), jax.tree.leaves(updates)
            theirs = p if len(p := jax.tree.leaves(params)) == len(given) else given
            kinds = each(lambda *x: jnp.promote_types(*map(jnp.result_type, x)), given, theirs)
        return tree.unflatten(each(lambda u, kind: u.astype(kind), u, kinds)), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def scale_by_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """``optax.scale_by_learning_rate``, of a rate that is one finite number."""
    rate = _checks.check_scheduled("learning_rate", learning_rate, -math.inf, narrow=True)
    return optax.scale_by_learning_rate(rate)


def add_decay(weight_decay: optax.ScalarOrSchedule, mask: Any) -> optax.GradientTransformation:
    """``optax.add_decayed_weights``, which would broadcast parameters of other shapes."""
    weight_decay = _checks.check_scheduled("weight_decay", weight_decay, 0)
    if isinstance(mask, bool | jax.Array) and isinstance(weight_decay, jax.Array):
        # optax.inject_hyperparams has called a mask as if it were a schedule.
        rule = "None, a tree of bools like the parameters or a callable that makes one"
        remedy = "Under optax.inject_hyperparams list a callable mask in static_args."
        _checks.refuse(TypeError, "mask", rule, f"{mask!r}, with a weight_decay array", remedy)
    if is_zero(weight_decay):
        return optax.identity()
    add, dtype = optax.add_decayed_weights, jnp.result_type(float)
    # It takes no schedule before Optax 0.2.6. Without a dtype the numbers of a schedule would be as
    # narrow as the parameters at init, and wide at update.
    make = optax.inject_hyperparams(add, hyperparam_dtype=dtype) if callable(weight_decay) else add
    decay = make(weight_decay)
    tx = decay if mask is None else optax.masked(decay, mask)

    def matched(path: KeyPath, u: Any, p: Any) -> Any:
        if u is not None and jnp.shape(u) != jnp.shape(p):
            got = f"{[*jnp.shape(p)]} for an update of {[*jnp.shape(u)]} at {_checks.at(path)}"
            remedy = "Pass the parameters that the updates are for."
            _checks.refuse(ValueError, "params", "of the shapes of updates", got, remedy)
        return None if u is None else p

    def update(updates: Updates, state: OptState, params: Any = None) -> Updated:
        if params is None:
            return tx.update(updates, state, params)
        params = tree_map_with_path(matched, updates, params, is_leaf=lambda x: x is None)
        # Optax would call the mask with updates, which are wide here: it may ask for dtypes.
        now = optax.masked(decay, mask(params)) if callable(mask) and all_leaves([mask]) else tx
        return now.update(updates, state, jax.tree.map(widened, params))

    return optax.GradientTransformation(tx.init, update)
