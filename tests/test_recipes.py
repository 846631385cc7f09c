"""What users do with a state by recipes that are not ours: Optax's shardings, named arrays, reuse.

On 8 CPU devices.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_sharding import SPECS, VARIANTS, make_mesh, make_params, norm

from adashift_optax import adashift, scale_by_adashift

ALL = {
    **VARIANTS,
    "mean": {"phi": "mean"},
    "n=1, none": {"phi": "none", "n": 1},
    "none, float16": {"phi": "none", "queue_dtype": "float16"},
    "factored, hopping": {"phi": "factored", "window": "hopping"},
    "axes, float8": {**VARIANTS["axes"], "queue_dtype": "float8_e5m2"},
}


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def in_place(state, params):
    """Momentum is sharded like its parameter; the rest like it or not at all, slots never."""
    by_shape = {p.shape: norm(p.sharding.spec) for p in jax.tree.leaves(params)}
    for x in jax.tree.leaves(optax.tree_utils.tree_get(state, "mu")):
        assert norm(x.sharding.spec) == by_shape[x.shape], x.shape
    for x in jax.tree.leaves(state):
        spec = norm(x.sharding.spec)
        if x.shape in by_shape:
            assert spec in ((), by_shape[x.shape]), x.shape
        elif x.shape[1:] in by_shape and x.ndim:  # a ring: slots are never sharded
            assert spec in ((), norm((None, *by_shape[x.shape[1:]]))), x.shape
        else:  # reduced to size 1 somewhere, or a ring of such, or scalars of many leaves
            assert all(name is None or size > 1 for name, size in zip(spec, x.shape, strict=False))
            if x.ndim and x.shape[0] == 4:
                assert not spec or spec[0] is None, x.shape


WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("n", [3, 10])  # 4 slots, which 4 devices divide unnoticed, and 11
@pytest.mark.parametrize("variant", ALL)
def test_optax_recipe_for_shardings(variant, n, types):
    """The parameters' shardings for what is like them, replicated for the rest.

    Where the axes of the mesh are explicit, JAX refuses a replicated queue of sharded gradients.
    """
    mesh = make_mesh(types)
    with jax.set_mesh(mesh):
        params = make_params(mesh)
        of_params = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        replicated = NamedSharding(mesh, P())
        for wrap in WRAPPERS.values():
            tx = wrap(adashift(1e-2, **{"n": n, **ALL[variant]}))
            state = tx.init(params)
            shardings = optax.tree_utils.tree_map_params(
                tx,
                lambda x, sharding: sharding,
                state,
                of_params,
                transform_non_params=lambda x: replicated,
            )
            placed = jax.device_put(state, shardings)
            in_place(placed, params)
            init = jax.jit(tx.init, out_shardings=shardings)
            in_place(init(params), params)
            try:
                updates, _ = jax.jit(tx.update)(params, placed, params)
            except Exception as error:
                if types == AxisType.Auto or type(error).__name__ != "ShardingTypeError":
                    raise
            else:
                assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Named:
    """An array whose axes have names, as in Haliax and Penzai: one for each, by position."""

    array: jax.Array
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


@pytest.mark.parametrize("variant", ALL)
def test_named_arrays(variant):
    """A library that reads the names in the state finds arrays that have these axes.

    It shards whatever has the path of a parameter by the names it finds there.
    """
    params = {
        "w": Named(jnp.ones((16, 8)), ("in", "out")),
        "b": Named(jnp.ones(8), ("out",)),
        "stack": Named(jnp.ones((4, 8, 16)), ("layer", "out", "in")),
    }
    tx = adashift(1e-2, **{"n": 3, **ALL[variant]})
    sizes = {"in": 16, "out": 8, "layer": 4}
    state = tx.init(params)
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Named))
    for node in nodes:
        if isinstance(node, Named):
            assert node.array.shape == tuple(sizes[name] for name in node.names)
    updates, _ = tx.update(params, state, params)
    assert updates["w"].names == ("in", "out")


AXES = {
    "(0,)": (0,),
    "(1,)": (1,),
    "()": (),
    "(0, 1)": (0, 1),
    "None": None,
    "a function of (0,)": lambda path, leaf: (0,),
    "a function of (1,)": lambda path, leaf: (1,),
    "a function of ()": lambda path, leaf: (),
    "a function of None": lambda path, leaf: None,
}
SAME = [("(0, 1)", "None"), ("(0, 1)", "a function of None"), ("None", "a function of None")]
SAME += [(axes, f"a function of {axes}") for axes in ("(0,)", "(1,)", "()")]
KINDS = {
    "max": {},
    "mean, hopping": {"phi": "mean", "window": "hopping"},
    "b1=0": {"b1": 0},
    "ema": {"window": "ema"},
    "float8": {"queue_dtype": "float8_e5m2"},
    "none, float8": {"phi": "none", "queue_dtype": "float8_e5m2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_other_block_axes_is_refused(kind):
    """Static or not: it would train with the old blocks. The same blocks, said otherwise, may."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones((4, 4))}
    txs = {
        name: scale_by_adashift(2, block_axes=axes, **KINDS[kind]) for name, axes in AXES.items()
    }
    states = {name: jax.eval_shape(tx.init, params) for name, tx in txs.items()}
    accepted, messages = [], []
    for old, new in itertools.permutations(AXES, 2):
        if (old, new) not in SAME and (new, old) not in SAME:
            try:
                jax.eval_shape(txs[new].update, params, states[old])
                accepted.append(f"{old} by {new}")
            except ValueError as error:
                messages.append(str(error))
    assert accepted == []
    assert all("block_axes" in message for message in messages)
    for name, tx in txs.items():
        jax.eval_shape(tx.update, params, states[name])


def test_the_smallest_state_of_other_blocks():
    """Rows of one parameter, taken for columns."""
    params = jnp.ones((4, 4))
    state = scale_by_adashift(1, block_axes=(0,)).init(params)
    with pytest.raises(ValueError, match="block_axes"):
        scale_by_adashift(1, block_axes=(1,)).update(params, state)


def test_a_leaf_of_one_element_has_the_same_blocks_either_way():
    """Not refused: reduced or not, an axis of size 1 is the same."""
    params = {"w": jnp.ones((1, 1)), "s": jnp.ones(())}
    states = [scale_by_adashift(1, block_axes=a).init({"w": params["w"]}) for a in ((0,), ())]
    assert jax.tree.map(jnp.shape, states[0]) == jax.tree.map(jnp.shape, states[1])


def test_a_function_that_is_asked_anew_must_agree_with_itself():
    """A function over leaves of one tree, whose answer differs from leaf to leaf, stays usable."""
    tx = scale_by_adashift(1, block_axes=lambda path, leaf: (leaf.ndim - 1,) if leaf.ndim else None)
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3), "c": jnp.ones(())}
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state)
    np.testing.assert_allclose(updates["a"], 1, rtol=1e-5)
