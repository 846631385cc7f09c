"""What sees one shard or one replica at a time: jax.shard_map and jax.pmap."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import exact_in_8_bits, make_grads, rising, worst_error
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_sharding import make_mesh

from adashift_optax import adashift, scale_by_adashift
from adashift_optax.sharding import opt_state_shardings

SHAPES = {"w": (16, 8), "b": (8,), "stack": (4, 8, 16), "alone": (3,)}
SPECS = {"w": P("x", "y"), "b": P("y"), "stack": P(None, "y", "x"), "alone": P()}
AXES = ("x", "y")
VARIANTS = {
    "max": {},
    "mean": {"phi": "mean"},
    "none": {"phi": "none"},
    "hopping": {"window": "hopping"},
    "mean_hopping": {"phi": "mean", "window": "hopping"},
    "float8": {"queue_dtype": "float8_e5m2"},
    "none_float8": {"phi": "none", "queue_dtype": "float8_e4m3fn"},
    "mean_ema_b2": {"phi": "mean", "window": "ema", "b2": rising},
    "none_ema": {"phi": "none", "window": "ema"},
    "warm": {"warm_start": True, "b2": rising},
    "warm_mean_hopping": {"phi": "mean", "window": "hopping", "warm_start": True},
}


def placed(mesh, tree):
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()}


def sharded_update(tx, mesh, params, **kwargs):
    specs = jax.tree.map(lambda s: s.spec, opt_state_shardings(tx, params))
    step = jax.shard_map(
        lambda g, s: tx.update(g, s),
        mesh=mesh,
        in_specs=(SPECS, specs),
        out_specs=(SPECS, specs),
        **kwargs,
    )
    return jax.jit(step, donate_argnums=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_phi_is_that_of_the_whole_block(variant):
    """Twenty steps on shards against the NumPy reference, which knows of no shards."""
    kwargs = {"n": 3, **VARIANTS[variant]}
    grads = make_grads(20, SHAPES, np.float32)
    if "queue_dtype" in kwargs:
        grads = [jax.tree.map(exact_in_8_bits, g) for g in grads]
    mesh = make_mesh(AxisType.Auto)
    tx = scale_by_adashift(axis_name=AXES, **kwargs)
    state = tx.init(placed(mesh, grads[0]))
    update = sharded_update(tx, mesh, placed(mesh, grads[0]))
    updates = []
    for g in grads:
        u, state = update(placed(mesh, g), state)
        updates.append(u)
    args = (3, 0.9, kwargs.get("b2", 0.999), 1e-10, kwargs.get("phi", "max"))
    others = {"window": kwargs.get("window", "sliding"), "warm": "warm_start" in kwargs}
    for name in SHAPES:
        assert worst_error(updates, grads, name, *args, **others) < 2e-5, name


@pytest.mark.parametrize("phi", ["max", "mean"])
def test_without_axis_name(phi):
    """JAX refuses it, because v differs from shard to shard; unchecked, updates are others."""
    grads = make_grads(8, SHAPES, np.float32)
    mesh = make_mesh(AxisType.Auto)
    tx = scale_by_adashift(3, phi=phi)
    params = placed(mesh, grads[0])
    with pytest.raises(ValueError, match="out_specs"):
        sharded_update(tx, mesh, params)(params, tx.init(params))
    update = sharded_update(tx, mesh, params, check_vma=False)
    state, whole_state = tx.init(params), tx.init(grads[0])
    for g in grads:
        u, state = update(placed(mesh, g), state)
        want, whole_state = tx.update(g, whole_state)
    assert not np.allclose(u["w"], want["w"], rtol=0.01)
    np.testing.assert_allclose(u["alone"], want["alone"], rtol=1e-6)


@pytest.mark.parametrize("how", ["jit", "shard_map"])
@pytest.mark.parametrize("phi", ["max", "mean"])
@pytest.mark.parametrize("window", ["sliding", "hopping", "ema"])
def test_one_number_per_block_is_all_that_is_communicated(how, phi, window):
    mesh = make_mesh(AxisType.Auto)
    params = placed(mesh, make_grads(1, SHAPES, np.float32)[0])
    axis_name = AXES if how == "shard_map" else None
    tx = scale_by_adashift(3, phi=phi, window=window, axis_name=axis_name)
    update = sharded_update(tx, mesh, params) if axis_name else jax.jit(tx.update, donate_argnums=1)
    text = update.lower(params, tx.init(params)).compile().as_text()
    assert not re.findall(r" (?:all-gather|all-to-all|collective-permute)\w*\(", text)
    numbers = 0
    for result in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        for shape in re.findall(r"f32\[([\d,]*)\]", result):
            numbers += int(np.prod([int(d) for d in shape.split(",") if d]))
    assert 0 < numbers <= 2 * len(SHAPES)  # under jit, once per block and mesh axis


def test_pmap_with_replicated_state():
    """Every replica gets its own gradients, and all make the step of their mean."""
    shards = [make_grads(12, SHAPES, np.float32, seed=k) for k in range(8)]
    means = [
        jax.tree.map(lambda *g: np.mean(np.stack(g), 0, dtype=np.float64), *step)
        for step in zip(*shards, strict=True)
    ]
    tx = scale_by_adashift(3)
    state = jax.tree.map(lambda x: jnp.stack([x] * 8), tx.init(means[0]))
    step = jax.pmap(lambda g, s: tx.update(jax.lax.pmean(g, "batch"), s), axis_name="batch")
    updates = []
    for each in zip(*shards, strict=True):
        u, state = step(jax.tree.map(lambda *g: jnp.stack(g), *each), state)
        for x in jax.tree.leaves(u):
            np.testing.assert_array_equal(x, np.broadcast_to(x[0], x.shape))
        updates.append(jax.tree.map(lambda x: np.asarray(x[0]), u))
    for name in SHAPES:
        assert worst_error(updates, means, name, 3, 0.9, 0.999, 1e-10, "max") < 2e-5


def test_axis_name_out_of_place():
    tx = adashift(0.1, axis_name="x")
    params = {"w": jnp.ones(4)}
    state = tx.init(params)
    with pytest.raises(NameError, match=r"unbound axis name: x.*jax\.shard_map"):  # JAX's
        jax.jit(tx.update)(params, state)
