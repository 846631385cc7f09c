"""Equinox's modules: trees with leaves that are no arrays, and that are callable."""

import jax
import jax.numpy as jnp
import meshes
import numpy as np
import optax
import pytest
import settings
from common import exact_in_8_bits, make_grads
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from adashift_optax import adashift_factored, adashiftw

KEY = jax.random.key(0)

pytestmark = pytest.mark.all_only  # only `make test-all` installs Equinox


@pytest.mark.parametrize("make", [optax.adamw, adashiftw, adashift_factored])
def test_mask_of_a_callable_class(make):
    """Bools in Equinox's module, which is callable: without a gradient only the weights decay."""
    import equinox as eqx

    params = eqx.filter(eqx.nn.MLP(2, 1, 8, 1, key=KEY), eqx.is_inexact_array)
    tx = make(0.1, weight_decay=0.5, mask=jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    with jax.numpy_dtype_promotion("standard"):  # optax.adamw mixes dtypes
        updates, _ = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
    for update, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, leaf * (-0.05 if leaf.ndim > 1 else 0.0), rtol=1e-6)


@pytest.mark.parametrize("name", settings.LAYOUTS)
def test_equinox_modules_on_a_mesh(name):
    """Leaves that are not arrays become None; gradients have the same Nones."""
    import equinox as eqx

    mesh, tx = meshes.make_mesh(shape=(2, 4)), settings.optimizer(name, meshes.RATE)

    @eqx.filter_jit
    def step(model, state, g):
        def loss(model):
            leaves = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
            return sum(jnp.sum(leaf * g[i]) for i, leaf in enumerate(leaves))

        grads = eqx.filter_grad(loss)(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    first = eqx.nn.MLP(8, 8, 16, 2, use_bias=False, use_final_bias=False, key=KEY)
    start, rest = eqx.partition(first, eqx.is_inexact_array)
    place = NamedSharding(mesh, P("x", "y"))
    arrays = jax.tree.map(lambda leaf: jax.device_put(leaf, place), start)
    model, state = eqx.combine(arrays, rest), tx.init(arrays)
    shapes = {i: leaf.shape for i, leaf in enumerate(jax.tree.leaves(start))}
    slopes = [
        jax.tree.map(exact_in_8_bits, g) for g in make_grads(meshes.STEPS, shapes, np.float32)
    ]
    for g in slopes:
        model, state = step(model, state, g)
    tolerance = 2.0**-8 if name == "factored bfloat16" else 2e-5
    trained = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    for i, (got, p) in enumerate(zip(trained, jax.tree.leaves(start), strict=True)):
        updates, scales = settings.expected(name, [g[i] for g in slopes])
        error = np.abs(got - (p - meshes.RATE * np.sum(updates, 0)))
        assert np.all(error <= 1e-6 + tolerance * meshes.RATE * np.sum(scales, 0))
    assert model.activation is first.activation
    for x in jax.tree.leaves(state):
        if x.ndim > 2:  # a ring of gradients
            assert x.sharding.spec == P(None, "x", "y")
