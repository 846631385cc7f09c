"""Whether what `update` is given fits together: the updates, the state and the arguments.

Only structures, shapes and dtypes are looked at, while tracing: compiled programs are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adashift_optax import _checks
from adashift_optax._blocks import GROUP, Blocks
from adashift_optax._boxes import is_box


def check_state(
    state: Any,
    kind: str,
    blocks: Blocks,
    parts: int,
    peaks: Blocks | None,
    squares: int,
    slots: int,
) -> Any:
    """The tree of `state` that is like the parameters, or None where it keeps only one v per leaf.

    `state` has this `kind` and the layout of `blocks`, with `parts` trees in mu, a queue whose
    scales are of the blocks `peaks` (None: no queue), `squares` trees in nu_queue for phi="none"
    and else rings of `slots` of what nu holds. States of phi="max", "mean" and a
    callable are of one layout, as are those of all b1 > 0: between these one may change.
    """
    found = tuple(state.clock) if isinstance(state.clock, dict) else (type(state.clock).__name__,)
    if found != (kind,):
        raise ValueError(
            f"state must be that of an optimizer with {kind}; got {', '.join(found)}. Pass the "
            "arguments that it was made with, or call init for a new state."
        )
    for name, x in (("count", state.count), ("clock", state.clock[kind])):
        if jnp.shape(x) != () or getattr(x, "dtype", None) != jnp.int32:
            raise ValueError(
                f"state must have an int32 scalar as its {name}; got {_describe([x])}. "
                "Pass the state that init or the last update returned."
            )
    mu, nu, queue, nu_queue = map(
        jax.tree.leaves, (state.mu, state.nu, state.queue, state.nu_queue)
    )
    tree, shapes = None, None
    if parts:
        tree = state.mu if parts == 1 or not mu else state.mu[0]
        shapes = [jnp.shape(x) for x in jax.tree.leaves(tree)]
    elif peaks:
        tree, shapes = state.queue, [jnp.shape(x)[1:] for x in queue]
    elif not blocks.pooled:
        tree = state.nu[0] if blocks.factored and nu else state.nu
        shapes = [jnp.shape(x) for x in nu] if blocks.elementwise else None
    num = len(jax.tree.leaves(tree)) if tree is not None else None
    num = blocks.num_leaves(nu) if num is None else num
    like = shapes or [None] * num  # None: not known
    scales = [jnp.shape(x)[1:] for x in jax.tree.leaves(state.queue_scale)]
    delayed = [(slots, *jnp.shape(c)) for c in nu]
    fits = {
        "mu": [jnp.shape(x) for x in mu] == like * parts,
        "queue": [jnp.shape(x)[1:] for x in queue] == (like if peaks else []),
        "queue_scale": not scales or (peaks is not None and peaks.fits(scales, like)),
        "nu": blocks.fits([jnp.shape(c) for c in nu], like),
        "nu_queue": [jnp.shape(x) for x in nu_queue]
        == ([jnp.shape(c) for c in nu] * squares if blocks.elementwise else delayed),
    }
    narrow = {
        name: all(jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype.itemsize >= 4 for x in leaves)
        for name, leaves in (("mu", mu), ("nu", nu), ("nu_queue", nu_queue))
    }
    for checks, rule in (
        (fits, "be that of an optimizer with the same phi, block_axes and kind of b1 (0 or more)"),
        (narrow, "hold float32 or wider"),
    ):
        for name, right in checks.items():
            if not right:
                raise ValueError(
                    f"state must {rule}; got {_describe(jax.tree.leaves(getattr(state, name)))} as "
                    f"its {name}. Pass the state that init or the last update returned, or call "
                    "init for a new one."
                )
    return tree


def check_updates(updates: Any, state: Any, tree: Any, blocks: Blocks) -> None:
    """`updates` has the leaves that `state` has: their number, names, shapes, real or complex.

    `tree` is what :func:`check_state` returned. Names are what the path of a leaf says without the
    kinds of its containers and Flax's boxes. Where the state holds a single v per leaf and no tree
    (b1 = 0 or n = 1 with pooled blocks), only the number of leaves is known; leaves in another
    order or of other shapes cannot be told from others there.
    """
    _checks.check_inexact("updates", updates)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    cells = jax.tree.leaves(state.nu)
    num = blocks.num_leaves(cells)
    if len(leaves) != num:
        raise ValueError(
            f"updates must have the {num} leaves that init saw; got {len(leaves)}. "
            "Call init again on the new parameters."
        )
    for path, old in () if tree is None else zip(_paths(updates), _paths(tree), strict=False):
        if path != old and _name(path) != _name(old):
            raise ValueError(
                "updates must have the leaves that init saw, by name and in the same order; got "
                f"{_checks.at(path)}, where the state holds {_checks.at(old)}. Pass gradients of "
                "the same parameters, or call init again on the new ones."
            )
    rings = jax.tree.leaves(state.queue)
    like = jax.tree.leaves(state.mu)[:num]
    like = like or [jax.ShapeDtypeStruct(r.shape[1:], r.dtype) for r in rings]
    for i, (path, leaf) in enumerate(leaves):
        shape = jnp.shape(leaf)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"updates must be arrays; got {leaf} at {_checks.at(path)}. "
                "Use jax.eval_shape for shapes alone."
            )
        if like:  # what holds gradients, and so tells complex ones from real ones
            old, right = like[i], shape == like[i].shape
            right = right and jnp.iscomplexobj(leaf) == jnp.iscomplexobj(old)
        else:
            old = cells[i // GROUP if blocks.pooled else i]
            right = blocks.pooled or blocks.fits([jnp.shape(c) for c in cells[i::num]], [shape])
        if not right:
            raise ValueError(
                "updates must have the shapes that init saw, and be real where the parameters "
                f"were and complex where they were; got {_describe([leaf])} at "
                f"{_checks.at(path)}, where the state holds {_describe([old])}. "
                "Call init again on the new parameters."
            )


def check_mask(mask: Any, params: Any) -> Any:
    """`mask` is a tree of bools and a prefix of `params`, unless these are None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        scalar = isinstance(leaf, bool) or getattr(leaf, "dtype", None) == np.bool_
        if not scalar or jnp.shape(leaf):
            raise TypeError(
                "mask must be None, a tree of bools like the parameters or a callable that gives "
                f"one; got {leaf!r} at {_checks.at(path)}. Pass True where decay applies."
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
                f"{_checks.at(path)} for an update of {list(jnp.shape(x))}. "
                "Pass the parameters that it is for."
            )


def _paths(tree: Any) -> list[Any]:
    """The path of each leaf; of a box that of the box."""
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_box)
    return [path for path, x in found if not is_box(x) or jax.tree.leaves(x)]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _describe(leaves: Any) -> str:
    """Dtypes and shapes of the first few of `leaves`."""
    some = [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves[:4]]
    return ", ".join(some + ["..."] * (len(leaves) > 4)) or "nothing"
