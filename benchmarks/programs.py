"""The programs that are timed: a whole step of an optimizer, alone, in a loop or being compiled."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adashift_optax import state_bytes
from adashift_optax.sharding import opt_state_shardings
from benchmarks.timing import Program, Run

LOOP_LENGTH = 10

Make = Callable[[], optax.GradientTransformation]


@lru_cache(maxsize=1)
def matrices(parameters: int) -> Any:
    """8 square matrices and 8 biases, about `parameters` random numbers in all."""
    side = round((parameters / 8 + 0.25) ** 0.5 - 0.5)
    return random_like([jax.ShapeDtypeStruct(s, jnp.float32) for s in [(side, side), (side,)] * 8])


def sharded_matrices(parameters: int) -> Any:
    """The same, matrices over all devices and both axes of a mesh, biases over the second axis."""
    mesh = jax.make_mesh((jax.device_count() // 2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def place(x: jax.Array) -> jax.Array:
        names = ("x", "y")[-x.ndim :]
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*names)))

    return jax.tree.map(place, matrices(parameters))


def random_like(shapes: Any) -> Any:
    """Normal random numbers: far from overflow and from denormals."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape.shape, np.float32))

    return jax.tree.map(draw, shapes)


def train_step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """One whole step: update, then apply."""

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def train_loop(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Steps in a lax.scan, each with other gradients, so that nothing can be moved out of it.

    Those of matrices come from a product of 16 columns and 16 rows, as in training from that of
    activations and errors: a gradient that is only scaled would never be stored, and Adam's
    kernels would each make it anew.
    """
    step = train_step(tx)

    def loop(carry: Any, grads: Any, factors: jax.Array) -> Any:
        def body(carry: Any, factor: jax.Array) -> Any:
            def gradient(g: jax.Array) -> jax.Array:
                return factor * g if g.ndim < 2 else (factor * g[:, :16]) @ g[:16]

            return step(carry, jax.tree.map(gradient, grads)), None

        return jax.lax.scan(body, carry, factors)[0]

    return loop


def program(make: Make, grads: Any, *, loop: bool = False, donate: bool = True) -> Program:
    """A step (or a loop of steps) from parameters like `grads` and the optimizer's first state."""
    tx = make()
    sharded = isinstance(jax.tree.leaves(grads)[0].sharding, NamedSharding)
    shardings = opt_state_shardings(tx, grads) if sharded else None
    state = jax.jit(tx.init, out_shardings=shardings)(grads)
    params = jax.tree.map(jnp.copy, grads)
    if loop:
        inputs = grads, jnp.linspace(0.5, 1.5, LOOP_LENGTH)
        compiled = Program(train_loop(tx), (params, state), *inputs, donate=donate)
    else:
        compiled = Program(train_step(tx), (params, state), grads, donate=donate)
    compiled.state_bytes = state_bytes(tx, grads)
    return compiled


def pair(base: Make, make: Make, grads: Callable[[], Any], **options: bool) -> list[Run]:
    """The programs of base and case."""
    return [program(tx, grads(), **options) for tx in (base, make)]


def compilation(make: Make, shapes: Any) -> Run:
    """Tracing and compiling a donated step, from nothing."""

    def run(times: int) -> None:
        for _ in range(times):
            tx = make()
            carry = shapes, jax.eval_shape(tx.init, shapes)
            jax.jit(train_step(tx), donate_argnums=0).lower(carry, shapes).compile()

    return run
