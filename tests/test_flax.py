"""Flax's and Equinox's ways to hold parameters, on a mesh: TrainState, stacked layers, None leaves.

Losses are linear in the parameters, so that their gradients are given, and exact in every
queue_dtype: where the parameters go is known from the NumPy reference.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import exact_in_8_bits, make_grads, rings
from contract import reference_updates
from flax import linen, nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_sharding import VARIANTS, N, make_mesh, norm

from adashift_optax import adashift

LAYERS, WIDTH, RATE = 4, 8, 1e-2
# The blocks of "outputs" depend on names (test_outputs.py), and a narrow m is rounded at each step.
VARIANTS = {k: v for k, v in VARIANTS.items() if k not in ("ema_outputs", "hopping_mu")}
VARIANTS["ema"] = {"window": "ema"}
AXES = {"block_axes": lambda path, leaf: tuple(range(1, leaf.ndim))}
STACKED = {**{k: v for k, v in VARIANTS.items() if k != "axes"}, "per_layer": AXES}


@pytest.fixture(autouse=True)
def _as_a_user():
    """Flax and Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def make_slopes(params):
    """For each of 12 steps the gradients of all leaves."""
    shapes = {i: leaf.shape for i, leaf in enumerate(jax.tree.leaves(params))}
    return [jax.tree.map(exact_in_8_bits, g) for g in make_grads(12, shapes, np.float32)]


def loss_of(params, slopes):
    return sum(jnp.sum(leaf * slopes[i]) for i, leaf in enumerate(jax.tree.leaves(params)))


def assert_trained(params, start, slopes, kwargs):
    """Parameters are where the reference goes from `start`."""
    for i, (got, p) in enumerate(zip(*map(jax.tree.leaves, (params, start)), strict=True)):
        updates = reference_updates([g[i] for g in slopes], {"n": N, **kwargs})
        np.testing.assert_allclose(got, p - RATE * np.sum(updates, 0), rtol=2e-5, atol=1e-6)


class Layer(nnx.Module):
    """One layer of a stack."""

    def __init__(self, names, rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), names)
        self.linear = nnx.Linear(WIDTH, WIDTH, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return nnx.tanh(self.linear(x))


class Stack(nnx.Module):
    """Layers made by nnx.vmap and run by nnx.scan."""

    def __init__(self, names, rngs):
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: None})
        def make(rngs):
            return Layer(names, rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        @nnx.scan
        def run(x, layer):
            return layer(x), None

        return run(x, self.layers)[0]


@pytest.mark.parametrize("variant", STACKED)
def test_nnx_vmapped_layers(variant):
    """An unmodified nnx.Optimizer on a stack of 4 = n + 1 layers, on a mesh."""
    kwargs = STACKED[variant]
    x = np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)

    @nnx.jit
    def step(model, optimizer, g):
        grads = nnx.grad(lambda model: loss_of(nnx.state(model), g))(model)
        optimizer.update(model, grads)

    with jax.set_mesh(make_mesh(AxisType.Auto, (2, 4))):
        model = Stack(("x", "y"), nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, adashift(RATE, n=N, **kwargs), wrt=nnx.Param)
        start = jax.tree.map(np.array, nnx.as_pure(nnx.state(model)))
        slopes = make_slopes(start)
        for g in slopes:
            step(model, optimizer, g)
        assert np.isfinite(model(x)).all()
        assert_trained(nnx.as_pure(nnx.state(model)), start, slopes, kwargs)
        kernel = model.layers.linear.kernel[...]
        assert norm(kernel.sharding.spec) == (None, "x", "y")
        for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(optimizer.opt_state))):
            if leaf.ndim >= 3 and leaf.shape[-3:] == kernel.shape:
                assert norm(leaf.sharding.spec)[-3:] == (None, "x", "y"), leaf.shape
                assert {s.data.size for s in leaf.addressable_shards} == {leaf.size // 8}
        spec = nnx.as_pure(nnx.get_partition_spec(nnx.state(optimizer.opt_state)))[0]
        if "queue" in spec:
            kernels = rings(spec["queue"])["layers"]["linear"]["kernel"]
            assert norm(kernels) == (None, None, "x", "y")


class Scanned(linen.Module):
    """Layers made and run by nn.scan."""

    @linen.compact
    def __call__(self, x):
        init = linen.with_partitioning(linen.initializers.lecun_normal(), ("x", "y"))

        class OneLayer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return linen.tanh(linen.Dense(WIDTH, kernel_init=init)(x)), None

        stack = linen.scan(
            OneLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={linen.PARTITION_NAME: None},
        )
        return stack(name="layers")(x, None)[0]


@pytest.mark.parametrize("variant", STACKED)
def test_linen_scanned_layers_in_a_train_state(variant):
    """Flax's recipe: specs of the whole TrainState by get_partition_spec, jitted init and step."""
    kwargs = STACKED[variant]
    model, tx = Scanned(), adashift(RATE, n=N, **kwargs)
    x = np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)

    def init(key):
        return TrainState.create(apply_fn=model.apply, params=model.init(key, x)["params"], tx=tx)

    def step(state, g):
        return state.apply_gradients(grads=jax.grad(loss_of)(state.params, g))

    mesh = make_mesh(AxisType.Auto, (2, 4))
    with jax.set_mesh(mesh):
        specs = linen.get_partition_spec(jax.eval_shape(init, jax.random.key(0)))
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
        inner = state.opt_state[0]
        if inner.queue is not None:
            ring = linen.unbox(rings(inner.queue))["layers"]["Dense_0"]["kernel"]
            assert ring.sharding.spec == P(None, None, "x", "y")
            assert {s.data.size for s in ring.addressable_shards} == {ring.size // 8}
        start = jax.tree.map(np.array, linen.unbox(state.params))
        slopes = make_slopes(start)
        sharded_step = jax.jit(step, donate_argnums=0, out_shardings=shardings)
        for g in slopes:
            state = sharded_step(state, g)
        assert_trained(linen.unbox(state.params), start, slopes, kwargs)
        assert np.isfinite(model.apply({"params": state.params}, x)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equinox_modules(variant):
    """Leaves that are not arrays become None; gradients have the same Nones."""
    kwargs = VARIANTS[variant]
    tx = adashift(RATE, n=N, **kwargs)
    mesh = make_mesh(AxisType.Auto, (2, 4))

    def loss(model, g):
        return loss_of(eqx.filter(model, eqx.is_inexact_array), g)

    @eqx.filter_jit
    def step(model, state, g):
        grads = eqx.filter_grad(loss)(model, g)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    def place(leaf):
        spec = P("x", "y") if leaf.ndim == 2 else P("y")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    first = eqx.nn.MLP(8, 8, 16, 2, key=jax.random.key(0))
    start, rest = eqx.partition(first, eqx.is_inexact_array)
    arrays, slopes = jax.tree.map(place, start), make_slopes(start)
    model, state = eqx.combine(arrays, rest), tx.init(arrays)
    for g in slopes:
        model, state = step(model, state, g)
    assert_trained(eqx.filter(model, eqx.is_inexact_array), start, slopes, kwargs)
    assert model.activation is first.activation
    if state[0].queue is not None:
        for ring in jax.tree.leaves(rings(state[0].queue)):
            assert ring.sharding.spec[0] is None
            assert max(s.data.size for s in ring.addressable_shards) < ring.size
