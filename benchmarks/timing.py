"""Interleaved timing: medians and quartiles of ratios, because absolute times drift."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Run = Callable[[int], None]  # takes that many steps and waits for the last one
COPY_ELEMENTS = 2**25  # 128 MiB in float32


class Settings(NamedTuple):
    """How long to measure.

    Attributes:
      rounds: at least so many rounds per case.
      seconds: go on for so long.
      lengths: steps per timed call. One number: the time of the call. Two, on a GPU: the
        difference of the times over the difference of the lengths, so that what a call costs once
        (dispatch, the wait for the device) drops out and the time is the device's.
      warm_up: steps before.
    """

    rounds: int
    seconds: float
    lengths: tuple[int, ...]
    warm_up: int = 12


class Ratio(NamedTuple):
    """The median over rounds, and the quartiles."""

    median: float
    low: float
    high: float


class Program:
    """A jitted step and what it carries from one call to the next, donated.

    Attributes:
      temporary_bytes: what a call allocates beside arguments and results.
      state_bytes: the size of the optimizer's state, where there is one.
    """

    state_bytes: float = math.nan

    def __init__(
        self, step: Callable[..., Any], carry: Any, *inputs: Any, donate: bool = True
    ) -> None:
        """`step` takes the carry and `inputs`, which it only reads; it returns the next carry."""
        self._step = jax.jit(step, donate_argnums=0 if donate else ())
        self._carry, self._inputs = carry, inputs
        memory = self._step.lower(carry, *inputs).compile().memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes

    def __call__(self, steps: int) -> None:
        """Run `steps` steps, one after the other, and wait for the last."""
        for _ in range(steps):
            self._carry = self._step(self._carry, *self._inputs)
        jax.block_until_ready(self._carry)


def copy(donate: bool = True) -> Program:
    """Scales an array: what the memory can do, 4 bytes read and 4 written per element.

    In place; not donated, into newly allocated memory, which a CPU has to page in at every step.
    """
    return Program(jnp.negative, jnp.ones(COPY_ELEMENTS, jnp.float32), donate=donate)


def interleave(runs: Sequence[Run], settings: Settings) -> np.ndarray:
    """Seconds per step, [rounds, runs]: one call of each run per round, in a random order.

    In a fixed order, each would always find the caches as the same other one left them.
    """
    for run in runs:
        run(settings.warm_up)
    rng = np.random.default_rng(0)
    rounds: list[np.ndarray] = []
    start = time.perf_counter()
    while len(rounds) < settings.rounds or time.perf_counter() - start < settings.seconds:
        seconds = np.empty(len(runs))
        for i in rng.permutation(len(runs)):
            seconds[i] = _seconds_per_step(runs[i], settings.lengths)
        rounds.append(seconds)
    return np.array(rounds)


def _seconds_per_step(run: Run, lengths: tuple[int, ...]) -> float:
    times = []
    for length in lengths:
        start = time.perf_counter()
        run(length)
        times.append(time.perf_counter() - start)
    if len(lengths) == 1:
        return times[0] / lengths[0]
    return (times[1] - times[0]) / (lengths[1] - lengths[0])


def ratio(seconds: np.ndarray, i: int, j: int = 0) -> Ratio:
    """Seconds of run `i` over seconds of run `j`, round by round."""
    return Ratio(*np.quantile(seconds[:, i] / seconds[:, j], [0.5, 0.25, 0.75]).tolist())
