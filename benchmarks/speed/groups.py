"""What is timed: groups of programs, of which each is compared with Adam's in the same group."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adashift_optax import adashift, state_bytes
from benchmarks import models
from benchmarks.optimizers import ADAM, B1_0, FACTORED, MAX, OURS, RATE, RIVALS, Make
from benchmarks.speed.timing import Run, Timed

ON_CPU = jax.default_backend() == "cpu"
SIDE = 1024 if ON_CPU else 2048  # so that a GPU outlasts the dispatch
LOOP_LENGTH = 10
UPDATE = f"update of 8 matrices {SIDE} x {SIDE} and 8 vectors"
NOISE = "Adam, a second time"
ROWS: dict[str, Make] = RIVALS | {NOISE: RIVALS[ADAM]} | OURS
SIZES = (
    models.Sizes(256, 4, 8, 8192, 128, 4, jnp.float32) if ON_CPU else models.Sizes(dtype="bfloat16")
)


class Group(NamedTuple):
    """Programs that are timed together.

    Attributes:
      name: what each of them does.
      params: the shapes of the parameters.
      rows: the optimizers.
      build: makes the program of one.
      rounds: how often each is timed.
      warm_up: steps before; more than n, because XLA skips the work behind a scale of 0.
    """

    name: str
    params: Any
    rows: dict[str, Make]
    build: Callable[[optax.GradientTransformation, Any], Run]
    rounds: int = 100
    warm_up: int = 12

    def state(self, name: str) -> float:
        """Bytes of the state for each parameter."""
        size = sum(x.size for x in jax.tree.leaves(self.params))
        return state_bytes(self.rows[name](), self.params) / size


def groups() -> Iterator[Group]:
    """All of them, whole steps first."""
    model = models.transformer(SIZES)
    few = {name: ROWS[name] for name in (ADAM, NOISE, FACTORED, MAX, B1_0)}
    large, small = models.squares(SIDE), models.many_leaves()
    longer = {f"{MAX}, n=40": lambda: adashift(RATE, n=40)}

    def step(tx: optax.GradientTransformation, params: Any) -> Timed:
        batch = jax.random.randint(
            jax.random.key(0), model.batch.shape, 0, SIZES.vocabulary, jnp.int32
        )
        params = jax.tree.map(lambda x: x * 0.02, random_like(params))
        return Timed(training(tx, model.loss), (params, jax.jit(tx.init)(params)), batch)

    yield Group(f"training step of {model.name}", model.params, ROWS, step, 20)
    yield Group(UPDATE, large, ROWS | longer, update, warm_up=42)
    yield Group(f"{UPDATE}, not donated", large, few, lambda *x: update(*x, donate=False))
    yield Group(f"{UPDATE}, {LOOP_LENGTH} in lax.scan", large, few, loop)
    yield Group("update of 300 small leaves", small, ROWS, update)
    yield Group("compiling the update of 300 small leaves", small, few, compilation, 3, 1)


def random_like(shapes: Any) -> Any:
    """Normal random numbers: far from overflow and from denormals."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape, np.float32)), shapes)


def applied(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """One whole update: the optimizer's, then the parameters'."""

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def training(tx: optax.GradientTransformation, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Forward pass, backward pass and update."""
    step = applied(tx)
    return lambda carry, batch: step(carry, jax.grad(loss)(carry[0], batch))


def update(tx: optax.GradientTransformation, shapes: Any, donate: bool = True) -> Timed:
    """A step of the optimizer alone, on gradients that stay the same."""
    grads = random_like(shapes)
    carry = jax.tree.map(jnp.copy, grads), jax.jit(tx.init)(grads)
    return Timed(applied(tx), carry, grads, donate=donate)


def loop(tx: optax.GradientTransformation, shapes: Any) -> Timed:
    """Updates in a lax.scan, each with other gradients, so that nothing can be moved out of it.

    Those of matrices come from a product of 16 columns and 16 rows, as in training from that of
    activations and errors: a gradient that is only scaled would never be stored, and Adam's
    kernels would each make it anew.
    """
    step = applied(tx)

    def steps(carry: Any, grads: Any, factors: jax.Array) -> Any:
        def body(carry: Any, factor: jax.Array) -> Any:
            def gradient(g: jax.Array) -> jax.Array:
                return factor * g if g.ndim < 2 else (factor * g[:, :16]) @ g[:16]

            return step(carry, jax.tree.map(gradient, grads)), None

        return jax.lax.scan(body, carry, factors)[0]

    grads = random_like(shapes)
    carry = jax.tree.map(jnp.copy, grads), jax.jit(tx.init)(grads)
    return Timed(steps, carry, grads, jnp.linspace(0.5, 1.5, LOOP_LENGTH))


def compilation(tx: optax.GradientTransformation, shapes: Any) -> Run:
    """Tracing and compiling a donated step, from nothing."""

    def run(times: int) -> None:
        for _ in range(times):
            jax.clear_caches()
            carry = shapes, jax.eval_shape(tx.init, shapes)
            jax.jit(applied(tx), donate_argnums=0).lower(carry, shapes).compile()

    return run
