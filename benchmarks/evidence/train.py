"""One run: a task, an optimizer, a rate and a seed."""

import json
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from benchmarks.evidence.optimizers import Row
from benchmarks.evidence.task import Params, Task, start

POINTS = 10  # of the learning curve
WARM_UP = 0.1  # of the steps


def shape(steps: int, constant: bool) -> optax.Schedule:
    """The schedule of all runs: up to 1 in a tenth of the steps, then by a cosine to 0."""
    warm = round(WARM_UP * steps)

    def at(count: jax.Array) -> jax.Array:
        done = (count - warm) / (steps - warm)
        down = 1.0 if constant else 0.5 * (1 + jnp.cos(jnp.pi * done))
        return jnp.where(count < warm, (count + 1) / warm, down)

    return at


def matrices(params: Params) -> Any:
    """What decays: leaves of two axes or more."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


class Program:
    """What is compiled for a task and an optimizer: the same for all rates and seeds."""

    def __init__(self, task: Task, row: Row, steps: int) -> None:
        if steps % POINTS:
            raise ValueError(f"steps must be a multiple of {POINTS}, got {steps}; pass another.")
        self.task, self.row, self.steps = task, row, steps
        self.data = jax.tree.map(jnp.asarray, task.data)
        self.init = jax.jit(lambda params: self.tx(jnp.float32(0)).init(params))
        advance = self.many if task.in_loop else self.step
        self.advance = jax.jit(advance, donate_argnums=0)
        self.evaluate, self.test = (
            jax.jit(partial(self.measure, of)) if of else None for of in (task.evaluate, task.test)
        )

    def tx(self, rate: jax.Array) -> optax.GradientTransformation:
        """The optimizer at a rate, behind the clip of the global norm."""
        of_one = shape(self.steps, self.row.schedule_free)
        rates = optax.scale_by_learning_rate(lambda count: rate * of_one(count))
        clip = optax.clip_by_global_norm(self.task.clip) if self.row.clipped else optax.identity()
        decay = optax.add_decayed_weights(self.task.decay, matrices)
        tx = optax.chain(self.row.make(), decay if self.task.decay else optax.identity(), rates)
        if self.row.schedule_free:
            tx = optax.contrib.schedule_free(tx, lambda count: rate * of_one(count), b1=0.9)
        return optax.chain(clip, tx)

    def step(self, carry: Any, rate: jax.Array, data: Any, batch: Any) -> Any:
        """One step; the loss is that before it."""
        params, state, _ = carry
        loss, grads = jax.value_and_grad(self.task.loss)(params, data, batch)
        updates, state = self.tx(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def many(self, carry: Any, rate: jax.Array, data: Any, batches: Any) -> Any:
        """A step for each batch, until a loss is not finite."""
        size = len(jax.tree.leaves(batches)[0])

        def goes_on(at: Any) -> jax.Array:
            return (at[0] < size) & jnp.isfinite(at[1][2])

        def body(at: Any) -> Any:
            batch = jax.tree.map(lambda x: x[at[0]], batches)
            return at[0] + 1, self.step(at[1], rate, data, batch)

        return jax.lax.while_loop(goes_on, body, (0, carry))[1]

    def measure(self, of: Any, carry: Any, data: Any) -> jax.Array:
        """A loss or an accuracy of the parameters that are to be used."""
        return of(self.parameters(carry), data)

    def parameters(self, carry: Any) -> Params:
        """The parameters that are to be used: schedule-free trains others."""
        params, (_, state), _ = carry
        free = self.row.schedule_free
        return optax.contrib.schedule_free_eval_params(state, params) if free else params

    def piece(self, carry: Any, rate: jax.Array, batches: Any) -> Any:
        """A tenth of a run."""
        if self.task.in_loop:
            return self.advance(carry, rate, self.data, batches)
        for i in range(len(jax.tree.leaves(batches)[0])):
            carry = self.advance(carry, rate, self.data, jax.tree.map(lambda x, i=i: x[i], batches))
            if not math.isfinite(carry[2]):
                break
        return carry

    def run(self, rate: float, seed: int) -> tuple[dict[str, Any], Params]:
        """Train, and stop as soon as a loss is not finite: fields of a record, last parameters."""
        begin = time.perf_counter()
        params, batches = start(self.task, seed, self.steps)
        size = sum(p.size for p in jax.tree.leaves(params))
        state = self.init(params)
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(state)) / size
        carry = params, state, jnp.zeros([])
        curve = [float(self.evaluate(carry, self.data))]
        for part in range(POINTS):
            rows = slice(part * self.steps // POINTS, (part + 1) * self.steps // POINTS)
            tenth = jax.tree.map(lambda x, rows=rows: jnp.asarray(x[rows]), batches)
            carry = self.piece(carry, jnp.float32(rate), tenth)
            finite = math.isfinite(carry[2])
            curve.append(float(self.evaluate(carry, self.data)) if finite else math.nan)
            if not math.isfinite(curve[-1]):
                break
        diverged = not curve[-1] <= curve[0]
        finite = [loss for loss in curve[1:] if math.isfinite(loss)]
        accuracy = math.nan if diverged or not self.test else float(self.test(carry, self.data))
        points = json.dumps([float(f"{x:.6g}") if math.isfinite(x) else None for x in curve[1:]])
        found = {"best": min(finite, default=math.nan), "final": curve[-1], "accuracy": accuracy}
        found |= {"diverged": diverged, "seconds": time.perf_counter() - begin, "curve": points}
        return found | {"steps": self.steps, "state_bytes": state_bytes}, self.parameters(carry)
