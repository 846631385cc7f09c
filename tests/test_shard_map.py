"""What sees one shard or one replica at a time: jax.shard_map and jax.pmap."""

import math
import re

import jax
import jax.numpy as jnp
import meshes
import numpy as np
import pytest
import reference
from common import assert_same_bits, make_grads, worst_error
from meshes import SHAPES, SPECS

from adashift_optax import adashift, adashift_factored, scale_by_adashift
from adashift_optax.sharding import opt_state_shardings


def recipe(g2):
    """That of docs/moving.md: the value of phi is that of the whole leaf on every device."""
    return jax.lax.pmax(jax.lax.pmax(jnp.max(g2), "x"), "y")


def sharded_update(tx, mesh, params):
    if hasattr(jax, "shard_map"):
        shard_map = jax.shard_map
    else:  # JAX 0.6.0
        from jax.experimental.shard_map import shard_map
    specs = (SPECS, jax.tree.map(lambda s: s.spec, opt_state_shardings(tx, params)))
    return shard_map(lambda g, s: tx.update(g, s), mesh=mesh, in_specs=specs, out_specs=specs)


def test_the_recipe_is_the_same_optimizer():
    """Bit for bit, with the state of phi="max"."""
    mesh, plain, tx = meshes.make_mesh(), adashift(0.1, n=3), adashift(0.1, n=3, phi=recipe)
    arrays = meshes.make_arrays()
    params = meshes.place(mesh, arrays)
    update, whole = jax.jit(sharded_update(tx, mesh, params)), jax.jit(plain.update)
    state, whole_state = plain.init(params), plain.init(arrays)
    for step in range(8):
        g = meshes.make_arrays(step)
        u, state = update(meshes.place(mesh, g), state)
        want, whole_state = whole(g, whole_state)
        jax.tree.map(assert_same_bits, u, want)
    assert np.all(np.any(u["stack"], (1, 2)))


@pytest.mark.slow
def test_without_the_recipe_jax_refuses_it():
    """Because v differs from shard to shard."""
    mesh, tx = meshes.make_mesh(), scale_by_adashift(n=1)
    params = meshes.place(mesh, meshes.make_arrays())
    with pytest.raises(ValueError, match="out_specs"):
        jax.jit(sharded_update(tx, mesh, params))(params, tx.init(params))


NUMBERS = {  # at most so many are communicated: one for each leaf and mesh axis; means; none
    "max": (adashift(0.1, n=3), 2 * len(SHAPES)),
    "mean": (adashift(0.1, n=3, phi="mean"), 2 * len(SHAPES)),
    "shard_map": (adashift(0.1, n=3, phi=recipe), 2 * len(SHAPES)),
    "factored": (adashift_factored(0.1), (16 + 8 + 1) + 4 * (8 + 16 + 1)),  # "matrix", "stack"
    "none": (adashift(0.1, n=3, phi="none"), 0),
}


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="a fact about one version's programs")
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_communicated(name):
    mesh, (tx, most) = meshes.make_mesh(), NUMBERS[name]
    params = meshes.place(mesh, meshes.make_arrays())
    update = sharded_update(tx, mesh, params) if name == "shard_map" else tx.update
    text = jax.jit(update, donate_argnums=1).lower(params, tx.init(params)).compile().as_text()
    assert not re.findall(r" (?:all-gather|all-to-all|collective-permute)\w*\(", text)
    reduced = "".join(re.findall(r"= (.*?) all-reduce(?:-start)?\(", text))
    shapes = [map(int, filter(None, x.split(","))) for x in re.findall(r"f32\[([\d,]*)\]", reduced)]
    assert min(most, 1) <= sum(map(math.prod, shapes)) <= most


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pmap_with_replicated_state():
    """Every replica gets its own gradients, and all make the step of their mean."""
    shards = [make_grads(9, SHAPES, np.float32, seed=k) for k in range(8)]
    means = [
        jax.tree.map(lambda *g: np.mean(np.stack(g), 0, dtype=np.float64), *step)
        for step in zip(*shards, strict=True)
    ]
    tx = scale_by_adashift(n=3)
    state = jax.tree.map(lambda x: jnp.stack([x] * 8), tx.init(shards[0][0]))
    step = jax.pmap(lambda g, s: tx.update(jax.lax.pmean(g, "batch"), s), axis_name="batch")
    updates = []
    for each in zip(*shards, strict=True):
        u, state = step(jax.tree.map(lambda *g: jnp.stack(g), *each), state)
        for x in jax.tree.leaves(u):
            np.testing.assert_array_equal(x, np.broadcast_to(x[0], x.shape))
        updates.append(jax.tree.map(lambda x: np.asarray(x[0]), u))
    for leaf in SHAPES:
        want = reference.adashift([g[leaf] for g in means], 3)
        assert worst_error([u[leaf] for u in updates], *want) < 2e-5
