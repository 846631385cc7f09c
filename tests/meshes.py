"""Meshes of 8 CPU devices, and all settings side by side in one program on them.

Older versions of JAX have other names for the same things: they are chosen here.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import settings
from common import exact_in_8_bits, make_grads
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from adashift_optax.sharding import opt_state_shardings

set_mesh = getattr(jax, "set_mesh", None) or jax.sharding.use_mesh
# In JAX 0.6 nnx.jit knows only the older context.
for_flax = getattr(jax, "set_mesh", lambda mesh: mesh)

SHAPES = {"matrix": (16, 8), "vector": (8,), "stack": (4, 8, 16)}
SPECS = {"matrix": P("x", "y"), "vector": P("y"), "stack": P(None, "y", "x")}
RATE, STEPS = 1e-2, 14
TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
# JAX asks a function that reshapes sharded squares for the sharding of the result.
CALLABLE = ("callable", "callable axes")


def make_mesh(types="auto", shape=(4, 2), names=("x", "y")):
    return jax.make_mesh(shape, names, axis_types=(TYPES[types],) * len(names))


def make_arrays(seed=0):
    """Parameters or gradients in NumPy, which a bfloat16 queue holds exactly."""
    (arrays,) = make_grads(1, SHAPES, np.float32, seed)
    return jax.tree.map(exact_in_8_bits, arrays)


def place(mesh, arrays):
    return {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in arrays.items()}


def of(name, tree):
    """The leaves of `tree` that a setting can have."""
    return {k: x for k, x in tree.items() if name != "axes" or len(SHAPES[k]) > 1}


class SideBySide:
    """Optimizers of several settings whose states are one dict, so that they are one program."""

    def __init__(self, names):
        self.txs = {name: settings.optimizer(name, RATE) for name in names}

    def init(self, params):
        return {name: tx.init(of(name, params)) for name, tx in self.txs.items()}

    def update(self, g, states):
        pairs = {n: tx.update(of(n, g), states[n]) for n, tx in self.txs.items()}
        return tuple({n: pair[i] for n, pair in pairs.items()} for i in (0, 1))

    def shardings(self, params):
        return {n: opt_state_shardings(tx, of(n, params)) for n, tx in self.txs.items()}

    def like(self, params):
        """What a checkpoint is to be restored into: shapes, dtypes and shardings."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(self.init, params),
            self.shardings(params),
        )

    def run(self, mesh, state, steps, update=None):
        """The updates of the steps in `steps`, and the last state."""
        update = update or jax.jit(self.update)
        updates = []
        for step in steps:
            g = make_arrays(step)
            u, state = update(place(mesh, g) if mesh else g, state)
            updates.append(jax.tree.map(np.asarray, u))
        return updates, state


def names_on(types):
    skipped = CALLABLE if types == "explicit" else ()
    return tuple(name for name in settings.SETTINGS if name not in skipped)


@functools.cache
def wanted(name):
    """The reference's updates of every leaf, and their scales."""
    grads = [make_arrays(step) for step in range(STEPS)]
    return {k: settings.expected(name, [g[k] for g in grads], k) for k in of(name, SHAPES)}


def assert_near_reference(updates, name, first=0, rate=-RATE):
    """Of the terms of m: float32's rounding, or that of a bfloat16 m."""
    tolerance = 2.0**-8 if name == "factored bfloat16" else 2e-5
    for leaf, (u, scales) in wanted(name).items():
        for step, found in enumerate(updates, first):
            error = np.abs(np.asarray(found[leaf], np.float64) - rate * u[step])
            assert np.all(error <= tolerance * abs(rate) * scales[step]), (name, leaf, step)


def norm(spec):
    """A spec without its trailing Nones."""
    entries = list(spec)
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def assert_in_place(state, exactly=True):
    """Each array of the state is sharded like its parameter, but for slots and reduced axes.

    Not `exactly`: arrays that are smaller than their parameter may be whole on every device.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        spec = norm(x.sharding.spec) if x.ndim else ()
        keys = [getattr(k, "key", None) for k in path]
        (leaf,) = {k for k in keys if k in SHAPES} or {None}
        shape, names = SHAPES.get(leaf, ()), SPECS.get(leaf, ())
        lead = max(x.ndim - len(shape), 0)
        names = [*[None] * lead, *names] + [None] * x.ndim
        sizes = (*[None] * lead, *shape)
        want = norm(a if n == m else None for a, n, m in zip(names, x.shape, sizes, strict=False))
        large = x.shape[lead:] == shape
        assert spec == want or (not exactly and not large and spec == ()), (path, x.shape, spec)


@functools.cache
def trained(types):
    """All settings on one mesh: their states however init runs, their updates, the last states."""
    mesh, all_ = make_mesh(types), SideBySide(names_on(types))
    params = place(mesh, make_arrays())
    eager = all_.init(params)  # with no mesh set: it is known from the parameters
    jax.eval_shape(all_.update, params, eager)
    with set_mesh(mesh):
        shardings = all_.shardings(params)
        told = jax.jit(all_.init, out_shardings=shardings)(params)
        update = jax.jit(all_.update)
        updates, last = all_.run(mesh, told, range(STEPS), update)
        return SimpleNamespace(
            eager=eager,
            jitted=jax.jit(all_.init)(params),
            told=told,  # jitted, to the places that opt_state_shardings tells
            shardings=shardings,
            updates=updates,
            last=last,
            compilations=update._cache_size(),
        )


def kinds(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
