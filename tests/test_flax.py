"""Flax's ways to hold parameters, on a mesh: nnx.Optimizer, boxes of linen, layers, TrainState.

Losses are linear in the parameters, so that their gradients are given, and exact in a bfloat16
queue: where the parameters go is known from the NumPy reference. All settings are one program.
"""

import flax
import jax
import jax.numpy as jnp
import meshes
import numpy as np
import pytest
import settings
from common import exact_in_8_bits, make_grads
from flax import linen, nnx
from flax.nnx.training.optimizer import OptState
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import RATE, for_flax

LAYERS, WIDTH, STEPS = 4, 8, 13
NAMES = settings.LAYOUTS
FLAX = tuple(map(int, flax.__version__.split(".")[:2]))
SHARDING = "out_sharding" if FLAX >= (0, 12) else "sharding"

pytestmark = pytest.mark.usefixtures("standard_promotion")


def make_slopes(params):
    """For each step the gradients of all leaves."""
    shapes = {i: leaf.shape for i, leaf in enumerate(jax.tree.leaves(params))}
    return [jax.tree.map(exact_in_8_bits, g) for g in make_grads(STEPS, shapes, np.float32)]


def loss_of(params, slopes):
    return sum(jnp.sum(leaf * slopes[i]) for i, leaf in enumerate(jax.tree.leaves(params)))


def assert_trained(name, params, start, slopes):
    """Parameters are where the reference goes from `start`."""
    tolerance = 2.0**-8 if name == "factored bfloat16" else 2e-5
    for i, (got, p) in enumerate(zip(*map(jax.tree.leaves, (params, start)), strict=True)):
        updates, scales = settings.expected(name, [g[i] for g in slopes])
        error = np.abs(got - (p - RATE * np.sum(updates, 0)))
        assert np.all(error <= 1e-6 + tolerance * RATE * np.sum(scales, 0)), name


def train_nnx(make, mesh, names=NAMES):
    """Models of one kind, and optimizers of all settings, after steps of one program."""

    @nnx.jit
    def step(models, optimizers, g):
        for model, optimizer in zip(models, optimizers, strict=True):
            apply(optimizer, model, nnx.grad(lambda m: loss_of(nnx.state(m), g))(model))

    with for_flax(mesh):
        models = [placed(make(), mesh) for _ in names]
        optimizers = [
            nnx.Optimizer(model, settings.optimizer(name, RATE), wrt=nnx.Param)
            for name, model in zip(names, models, strict=True)
        ]
        start = [np.array(x) for x in arrays(models[0])]
        slopes = make_slopes(start)
        first = [kinds(o) for o in optimizers]
        for g in slopes:
            step(models, optimizers, g)
        assert [kinds(o) for o in optimizers] == first
        for name, model in zip(names, models, strict=True):
            assert_trained(name, arrays(model), start, slopes)
    return dict(zip(names, optimizers, strict=True))


def apply(optimizer, model, grads):
    if FLAX < (0, 11):
        optimizer.update(grads)
    else:
        optimizer.update(model, grads)


def placed(model, mesh):
    """By itself Flax shards what it makes from version 0.12 on."""

    def place(x):
        spec = P("fsdp") if x.ndim == 1 else P(*[None] * (x.ndim - 2), "x", "y")
        return jax.device_put(x, NamedSharding(mesh, spec))

    nnx.update(model, jax.tree.map(place, nnx.state(model, nnx.Param)))
    return model


def kinds(optimizer):
    return [(x.shape, x.dtype) for x in jax.tree.leaves(nnx.state(optimizer, OptState))]


def arrays(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def assert_in_place(found, shape, spec):
    """Momentum lies as the parameter, and so does a queue, all of whose slots are together."""
    for name, optimizer in found.items():
        of_state = jax.tree.leaves(nnx.state(optimizer, OptState))
        ranks = [0] * (name not in ("b1=0", "factored b1=0"))
        ranks += [1] * (name in ("max", "axes", "none bfloat16"))
        for lead in ranks:
            at = P(*[None] * lead, *spec)
            like = [x.sharding for x in of_state if x.shape[lead:] == shape and x.ndim == len(at)]
            same = {s.is_equivalent_to(NamedSharding(s.mesh, at), len(at)) for s in like}
            assert same == {True}, (name, like)


def rings(state):
    """The rings of gradients, or of their bits."""
    return getattr(state.queue, "bits", state.queue)


class Model(nnx.Module):
    def __init__(self):
        init = nnx.with_partitioning(nnx.initializers.ones_init(), ("x", "y"))
        self.linear = nnx.Linear(16, WIDTH, use_bias=False, kernel_init=init, rngs=nnx.Rngs(0))


OTHER = [pytest.param(shape, marks=pytest.mark.all_only) for shape in ((2, 4), (8, 1))]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 2), *OTHER])
def test_nnx_optimizer_as_it_is(shape):
    found = train_nnx(Model, meshes.make_mesh(shape=shape))
    assert_in_place(found, (16, WIDTH), ("x", "y"))


AXES = {
    "one string": lambda mesh: "fsdp",
    "a tuple": lambda mesh: ("fsdp",),
    "a PartitionSpec": lambda mesh: P("fsdp"),
    "a NamedSharding": lambda mesh: NamedSharding(mesh.abstract_mesh, P("fsdp")),
}


@pytest.mark.parametrize("axes", AXES)
def test_names_of_axes(axes):
    """A vector whose one axis is named by a string, not by a tuple of strings."""
    if FLAX < (0, 12) and axes in ("a PartitionSpec", "a NamedSharding"):
        pytest.skip("this Flax takes names only")
    mesh = meshes.make_mesh(shape=(8,), names=("fsdp",))

    class Vector(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(16), **{SHARDING: AXES[axes](mesh)})

    with for_flax(mesh):
        for name in ("max", "none bfloat16", "b1=0", "factored", "factored bfloat16"):
            model = placed(Vector(), mesh)
            optimizer = nnx.Optimizer(model, settings.optimizer(name, RATE), wrt=nnx.Param)
            assert_in_place({name: optimizer}, (16,), ("fsdp",))
            for _ in range(3):
                apply(optimizer, model, nnx.grad(lambda m: loss_of(nnx.state(m), [1.0]))(model))


class Stack(nnx.Module):
    """Layers made by nnx.vmap."""

    def __init__(self):
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: None})
        def make(rngs):
            init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x", "y"))
            return nnx.Linear(WIDTH, WIDTH, use_bias=False, kernel_init=init, rngs=rngs)

        self.layers = make(nnx.Rngs(0))


@pytest.mark.slow
def test_nnx_vmapped_layers():
    """An unmodified nnx.Optimizer on a stack of 4 layers, which a ring of 4 slots resembles."""
    found = train_nnx(Stack, meshes.make_mesh(shape=(2, 4)))
    assert_in_place(found, (LAYERS, WIDTH, WIDTH), (None, "x", "y"))


class Scanned(linen.Module):
    """Layers made and run by nn.scan."""

    @linen.compact
    def __call__(self, x):
        init = linen.with_partitioning(linen.initializers.lecun_normal(), ("x", "y"))

        class OneLayer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return linen.tanh(linen.Dense(WIDTH, use_bias=False, kernel_init=init)(x)), None

        stack = linen.scan(
            OneLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={linen.PARTITION_NAME: None},
        )
        return stack(name="layers")(x, None)[0]


@pytest.mark.slow
def test_linen_scanned_layers_in_a_train_state():
    """Flax's recipe: specs of the whole TrainState by get_partition_spec, jitted init and step."""
    model, mesh = Scanned(), meshes.make_mesh(shape=(2, 4))
    x = np.ones((16, WIDTH), np.float32)

    def init(key):
        params = model.init(key, x)["params"]
        make = TrainState.create
        txs = {name: settings.optimizer(name, RATE) for name in NAMES}
        return {n: make(apply_fn=model.apply, params=params, tx=tx) for n, tx in txs.items()}

    def step(states, g):
        grads = {name: jax.grad(loss_of)(state.params, g) for name, state in states.items()}
        return {name: s.apply_gradients(grads=grads[name]) for name, s in states.items()}

    with for_flax(mesh):
        specs = linen.get_partition_spec(jax.eval_shape(init, jax.random.key(0)))
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        states = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
        for name in ("max", "axes", "none bfloat16"):
            ring = linen.unbox(rings(states[name].opt_state[0]))["layers"]["Dense_0"]["kernel"]
            assert ring.sharding.spec == P(None, None, "x", "y")
            assert {s.data.size for s in ring.addressable_shards} == {ring.size // 8}
        start = jax.tree.map(np.array, linen.unbox(states["max"].params))
        slopes = make_slopes(start)
        sharded_step = jax.jit(step, donate_argnums=0, out_shardings=shardings)
        states = jax.tree.map(jnp.copy, states)  # parameters of all are the same arrays
        for g in slopes:
            states = sharded_step(states, g)
        for name, state in states.items():
            assert_trained(name, linen.unbox(state.params), start, slopes)
