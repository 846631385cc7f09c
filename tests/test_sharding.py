"""The state on a mesh: in its place from init on, and the same numbers as without a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import adafactors, exact_in_8_bits, make_grads, rings
from contract import run_reference
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from adashift_optax import STATIC_ARGS, adashift, scale_by_adashift
from adashift_optax.sharding import opt_state_shardings

SHAPES = {"w": (16, 8), "b": (8,), "stack": (4, 8, 16)}
SPECS = {"w": P("x", "y"), "b": P("y"), "stack": P(None, "y", "x")}
VARIANTS = {
    "max": {},
    "none": {"phi": "none"},
    "factored": {"phi": "factored"},
    "axes": {"block_axes": lambda path, leaf: (1, 2) if leaf.ndim == 3 else (leaf.ndim - 1,)},
    "b1_0": {"b1": 0},
    "hopping": {"window": "hopping"},
    "hopping_none": {"window": "hopping", "phi": "none"},
    "bfloat16": {"queue_dtype": "bfloat16"},
    "float8": {"queue_dtype": "float8_e5m2"},
    "ema_outputs": {
        "window": "ema",
        "phi": "mean",
        "block_axes": "outputs",
        "b2": adafactors,
    },
    "warm_ema_none": {"window": "ema", "phi": "none", "warm_start": True},
    "hopping_mu": {"window": "hopping", "mu_dtype": "bfloat16"},
}
N = 3  # n + 1 slots equal the 4 devices of an axis: where slots would be sharded unnoticed


def make_mesh(types, shape=(4, 2)):
    return jax.make_mesh(shape, ("x", "y"), axis_types=(types,) * 2)


def make_params(mesh, seed=0):
    """Or gradients, that every queue_dtype holds exactly."""
    (arrays,) = make_grads(1, SHAPES, np.float32, seed)
    arrays = jax.tree.map(exact_in_8_bits, arrays)
    if mesh is None:
        return jax.tree.map(jnp.asarray, arrays)
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in arrays.items()}


def norm(spec):
    """A spec without its trailing Nones."""
    entries = list(spec)
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def assert_in_place(state, params):
    """Arrays as large as a parameter (or a ring of it) are sharded like it, slots unsharded."""
    by_shape = {p.shape: p.sharding.spec for p in jax.tree.leaves(params)}
    seen = 0
    for x in jax.tree.leaves(state):
        for lead in (0, 1):
            if x.shape[lead:] in by_shape and (lead == 0 or x.shape[0] == N + 1):
                spec = by_shape[x.shape[lead:]]
                assert norm(x.sharding.spec) == norm((None,) * lead + tuple(spec)), x.shape
                devices = np.prod([x.sharding.mesh.shape[a] for a in spec if a])
                assert {s.data.size for s in x.addressable_shards} == {x.size // devices}
                seen += 1
    return seen


@functools.cache
def twenty_updates(variant):
    """The reference's, of every leaf, and what their error is to be measured against."""
    grads = [make_params(None, step) for step in range(20)]
    kwargs = {"n": N, **VARIANTS[variant]}
    return {k: run_reference([np.asarray(g[k]) for g in grads], kwargs) for k in SHAPES}


def tolerance(variant):
    """Of the terms of m: float32's, or with a bfloat16 m of N gradients N roundings of it."""
    return N * 2.0**-9 if "mu_dtype" in VARIANTS[variant] else 1e-5


def assert_near_reference(updates, variant, step, rate=1.0):
    for name, (wanted, scales) in twenty_updates(variant).items():
        error = np.abs(np.asarray(updates[name], np.float64) - rate * wanted[step])
        assert np.all(error <= tolerance(variant) * abs(rate) * scales[step]), name


@pytest.mark.parametrize("how", ["eager", "jit", "jit to shardings"])
@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("variant", VARIANTS)
def test_twenty_steps_equal_reference(variant, types, how):
    tx = adashift(1e-2, n=N, **VARIANTS[variant])
    mesh = make_mesh(types)
    with jax.set_mesh(mesh):
        params = make_params(mesh)
        to = opt_state_shardings(tx, params) if how == "jit to shardings" else None
        state = tx.init(params) if how == "eager" else jax.jit(tx.init, out_shardings=to)(params)
        first = jax.tree.map(jax.typeof, state)
        assert assert_in_place(state, params) > 0 or variant == "b1_0"
        update = jax.jit(tx.update, donate_argnums=1)
        for step in range(20):
            u, state = update(make_params(mesh, step), state)
            assert_near_reference(u, variant, step, rate=-1e-2)
        assert jax.tree.map(jax.typeof, state) == first
        assert_in_place(state, params)
        assert update._cache_size() <= 2  # once more for the uncommitted counters of an eager init


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False, "stack": True}),
    "partition": lambda tx: optax.partition(
        {"ours": tx, "adam": optax.adam(1e-3)}, {"w": "ours", "b": "adam", "stack": "ours"}
    ),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject": lambda tx: optax.inject_hyperparams(adashift, static_args=STATIC_ARGS)(0.1, n=N),
}


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_opt_state_shardings_of_any_wrapper(wrapper, types, abstract):
    tx = WRAPPERS[wrapper](adashift(1e-2, n=N))
    mesh = make_mesh(types)
    with jax.set_mesh(mesh):
        params = make_params(mesh)
        like = params
        if abstract:
            like = jax.tree.map(
                lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params
            )
        shardings = opt_state_shardings(tx, like)
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        assert jax.tree.structure(shardings) == jax.tree.structure(state)
        assert assert_in_place(state, params) >= 4
        assert all(s.mesh == mesh for s in jax.tree.leaves(shardings))


def test_a_queue_in_host_memory_is_refused():
    """As docs/sharding.md says, and not moved as a whole at every step."""
    params = {"w": jnp.ones((4, 4))}
    tx = scale_by_adashift(N)
    state = tx.init(params)
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    state = state._replace(queue=jax.device_put(state.queue, host))
    with pytest.raises(ValueError, match="memory_space of all inputs"):
        jax.jit(tx.update)(params, state)


def test_parameters_off_any_mesh():
    with pytest.raises(ValueError, match=r"params must be on one mesh; got 0 .*NamedSharding"):
        opt_state_shardings(adashift(1e-2), {"w": jnp.ones(2)})


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (8, 1)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nnx_optimizer_as_it_is(variant, shape):
    """Construction, update, partition spec and nnx.jit; parameters as by the reference."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(
                16,
                8,
                kernel_init=nnx.with_partitioning(nnx.initializers.ones_init(), ("x", "y")),
                bias_init=nnx.with_partitioning(nnx.initializers.ones_init(), ("y",)),
                rngs=rngs,
            )

    kwargs = {"n": N, **VARIANTS[variant]}
    shapes = {"kernel": (16, 8), "bias": (8,)}
    grads = [jax.tree.map(exact_in_8_bits, g) for g in make_grads(12, shapes, np.float32)]

    @nnx.jit
    def step(model, optimizer, g):
        def loss(model):
            return sum(jnp.sum(getattr(model.linear, name)[...] * g[name]) for name in shapes)

        optimizer.update(model, nnx.grad(loss)(model))

    with jax.numpy_dtype_promotion("standard"), jax.set_mesh(jax.make_mesh(shape, ("x", "y"))):
        model = Model(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, adashift(1e-2, **kwargs), wrt=nnx.Param)
        first = jax.tree.map(jax.typeof, nnx.as_pure(optimizer.opt_state))
        for g in grads:
            step(model, optimizer, g)
        assert jax.tree.map(jax.typeof, nnx.as_pure(optimizer.opt_state)) == first
        for name in shapes:
            updates, scales = run_reference([g[name] for g in grads], kwargs)
            error = np.abs(getattr(model.linear, name)[...] - (1 - 1e-2 * np.sum(updates, 0)))
            assert np.all(error <= 1e-5 + tolerance(variant) * 1e-2 * np.sum(scales, 0))
        inner = nnx.as_pure(nnx.get_partition_spec(nnx.state(optimizer.opt_state)))[0]
        if "queue" in inner:
            assert norm(rings(inner["queue"])["linear"]["kernel"]) == (None, "x", "y")
        if "mu" in inner:
            mu = inner["mu"][0] if 0 in inner["mu"] else inner["mu"]
            assert norm(mu["linear"]["kernel"]) == ("x", "y")


@pytest.mark.parametrize("variant", VARIANTS)
def test_linen_partitioned_boxes(variant):
    """A box of the state names the axes of its own array."""
    names = {"w": ("x", "y"), "b": ("y",), "stack": (None, "y", "x")}
    values = make_params(None)
    params = {k: linen.Partitioned(v, names[k]) for k, v in values.items()}
    tx = scale_by_adashift(N, **VARIANTS[variant])
    state = tx.init(params)
    for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, linen.Partitioned)):
        if isinstance(leaf, linen.Partitioned):
            assert len(leaf.names) == leaf.value.ndim
            for size, name in zip(leaf.value.shape, leaf.names, strict=True):
                assert name is None or size in (8, 16)
    if state.queue is not None:
        assert rings(linen.get_partition_spec(state).queue)["w"] == P(None, "x", "y")
    update = jax.jit(tx.update)
    for step in range(6):
        g = {k: linen.Partitioned(v, names[k]) for k, v in make_params(None, step).items()}
        u, state = update(g, state)
        assert isinstance(u["w"], linen.Partitioned)
        assert_near_reference(linen.unbox(u), variant, step)
