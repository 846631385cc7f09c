"""The state on a mesh: in its place from init on, and the same numbers as without a mesh.

All settings are one program for each type of mesh (meshes.py).
"""

import jax
import jax.numpy as jnp
import meshes
import optax
import pytest
from meshes import TYPES, assert_in_place, assert_near_reference, set_mesh, trained

from adashift_optax import STATIC_ARGS, adashift, adashift_factored
from adashift_optax.sharding import opt_state_shardings

ON = [pytest.param("auto", marks=pytest.mark.slow), "explicit"]


@pytest.mark.parametrize("types", ON)
def test_updates_equal_the_reference(types):
    """Which knows of no mesh; one compilation serves all steps."""
    found = trained(types)
    for name in meshes.names_on(types):
        assert_near_reference([u[name] for u in found.updates], name)
    assert found.compilations <= 2  # where axes are Auto, XLA may place a small array elsewhere


@pytest.mark.parametrize("types", ON)
def test_the_state_is_in_its_place_from_init_on(types):
    """However init runs, and after the last step: slots and reduced axes are not sharded."""
    found = trained(types)
    assert_in_place(found.eager)
    assert_in_place(found.told)
    assert_in_place(found.jitted, exactly=types == "explicit")
    assert_in_place(found.last, exactly=types == "explicit")
    assert meshes.kinds(found.last) == meshes.kinds(found.eager) == meshes.kinds(found.jitted)
    queue = found.eager["max"][0].queue["matrix"]
    assert {s.data.size for s in queue.addressable_shards} == {queue.size // 8}


LEAVES = {"matrix": True, "vector": False, "stack": True}
LABELS = {name: "ours" if ours else "adam" for name, ours in LEAVES.items()}
WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, LEAVES),
    "partition": lambda tx: optax.partition({"ours": tx, "adam": optax.adam(1e-3)}, LABELS),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject": lambda tx: optax.inject_hyperparams(adashift, static_args=STATIC_ARGS)(0.1, n=3),
}


@pytest.mark.parametrize("types", TYPES)
def test_opt_state_shardings_of_any_wrapper(types):
    """With and without a mesh set, of parameters and of what only describes them."""
    mesh = meshes.make_mesh(types)
    params = meshes.place(mesh, meshes.make_arrays())
    abstract = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params
    )
    for wrap in WRAPPERS.values():
        for make in (adashift, adashift_factored):
            tx = wrap(make(0.1))
            found = opt_state_shardings(tx, abstract)
            with set_mesh(mesh):
                assert opt_state_shardings(tx, params) == found
            like = jax.eval_shape(tx.init, params)
            assert jax.tree.structure(found) == jax.tree.structure(like)
            assert all(s.mesh == mesh for s in jax.tree.leaves(found))
            placed = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, found
            )
            assert_in_place(placed)


def test_parameters_off_any_mesh():
    with pytest.raises(ValueError, match=r"params must be on one mesh; got 0 .*NamedSharding"):
        opt_state_shardings(adashift(1e-2), {"w": jnp.ones(2)})
