"""Flax's and Equinox's ways to hold parameters, on a mesh: TrainState, stacked layers, None leaves.

Gradients are element-wise functions of the parameters, so that they are the same on any mesh: those
of a matrix product differ by a rounding, which phi="none" magnifies where v is small.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import rings
from flax import linen, nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_sharding import VARIANTS, N, make_mesh, norm

from adashift_optax import adashift

LAYERS, WIDTH = 4, 8
AXES = {"block_axes": lambda path, leaf: tuple(range(1, leaf.ndim))}
STACKED = {**{k: v for k, v in VARIANTS.items() if k != "axes"}, "per_layer": AXES}


@pytest.fixture(autouse=True)
def _as_a_user():
    """Flax and Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss_of(params):
    """A sum over elements, of different steepness."""
    leaves = enumerate(jax.tree.leaves(params))
    return sum((1 + i) * jnp.sum((leaf - 0.5) ** 2) for i, leaf in leaves)


class Layer(nnx.Module):
    """One layer of a stack."""

    def __init__(self, names, rngs):
        init = nnx.initializers.lecun_normal()
        if names:
            init = nnx.with_partitioning(init, names)
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
    """An unmodified nnx.Optimizer on a stack of 4 = n + 1 layers; equal to the unsharded run."""
    kwargs = STACKED[variant]
    x = np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)

    def train(names):
        model = Stack(names, nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, adashift(1e-2, n=N, **kwargs), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            optimizer.update(model, nnx.grad(lambda model: loss_of(nnx.state(model)))(model))

        for _ in range(12):
            step(model, optimizer)
        assert np.isfinite(model(x)).all()
        return model, optimizer

    alone, _ = train(None)
    with jax.set_mesh(make_mesh(AxisType.Auto, (2, 4))):
        model, optimizer = train(("x", "y"))
        kernel, want = model.layers.linear.kernel[...], alone.layers.linear.kernel[...]
        np.testing.assert_allclose(kernel, np.asarray(want), rtol=2e-5, atol=1e-6)
        assert norm(kernel.sharding.spec) == (None, "x", "y")
        for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(optimizer.opt_state))):
            if leaf.ndim >= 3 and leaf.shape[-3:] == kernel.shape:
                assert norm(leaf.sharding.spec)[-3:] == (None, "x", "y"), leaf.shape
                assert {s.data.size for s in leaf.addressable_shards} == {leaf.size // 8}
        spec = nnx.as_pure(nnx.get_partition_spec(nnx.state(optimizer.opt_state)))[0]
        if "queue" in spec:
            assert norm(rings(spec["queue"])["layers"]["linear"]["kernel"]) == (
                None,
                None,
                "x",
                "y",
            )


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
    model, tx = Scanned(), adashift(1e-2, n=N, **STACKED[variant])
    x = np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)

    def init(key):
        return TrainState.create(apply_fn=model.apply, params=model.init(key, x)["params"], tx=tx)

    def step(state):
        return state.apply_gradients(grads=jax.grad(loss_of)(state.params))

    def kernel(state):
        return linen.unbox(state.params)["layers"]["Dense_0"]["kernel"]

    alone, alone_step = init(jax.random.key(0)), jax.jit(step)
    for _ in range(12):
        alone = alone_step(alone)
    want = np.asarray(kernel(alone))
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
        sharded_step = jax.jit(step, donate_argnums=0, out_shardings=shardings)
        for _ in range(12):
            state = sharded_step(state)
        np.testing.assert_allclose(kernel(state), want, rtol=2e-5, atol=1e-6)
        assert np.isfinite(model.apply({"params": state.params}, x)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equinox_modules(variant):
    """Leaves that are not arrays become None; gradients have the same Nones."""
    kwargs = dict(VARIANTS[variant])
    if variant == "axes":
        kwargs["block_axes"] = (-1,)
    tx = adashift(1e-2, n=N, **kwargs)
    mesh = make_mesh(AxisType.Auto, (2, 4))

    def loss(model):
        return loss_of(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    def place(leaf):
        spec = P("x", "y") if leaf.ndim == 2 else P("y")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    def train(sharded):
        model = eqx.nn.MLP(8, 8, 16, 2, key=jax.random.key(0))
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)
        if sharded:
            arrays = jax.tree.map(place, arrays)
        model, state = eqx.combine(arrays, rest), tx.init(arrays)
        for _ in range(12):
            model, state = step(model, state)
        return model, state

    alone, _ = train(sharded=False)
    model, state = train(sharded=True)
    for layer, want in zip(model.layers, alone.layers, strict=True):
        np.testing.assert_allclose(layer.weight, want.weight, rtol=2e-5, atol=1e-6)
    assert model.activation is alone.activation
    if state[0].queue is not None:
        for ring in jax.tree.leaves(rings(state[0].queue)):
            assert ring.sharding.spec[0] is None
            assert max(s.data.size for s in ring.addressable_shards) < ring.size
