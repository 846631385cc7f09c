"""Interleaved timing: quartiles of ratios, because absolute times drift."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

Run = Callable[[int], None]  # takes that many steps and waits for the last one


class Settings(NamedTuple):
    """How long to measure.

    Attributes:
      rounds: how often each program is timed.
      lengths: steps per timed call. One number: the time of the call. Two, on a GPU: the
        difference of the times over the difference of the lengths, so that what a call costs once
        (dispatch, the wait for the device) drops out and the time is the device's.
      warm_up: steps before.
    """

    rounds: int
    lengths: tuple[int, ...]
    warm_up: int


class Timed:
    """A jitted step and what it carries from one call to the next, donated.

    Attributes:
      temporaries: bytes that a call allocates beside arguments and results.
    """

    def __init__(
        self, step: Callable[..., Any], carry: Any, *inputs: Any, donate: bool = True
    ) -> None:
        """`step` takes the carry and `inputs`, which it only reads; it returns the next carry."""
        jitted = jax.jit(step, donate_argnums=0 if donate else ())
        self._step = jitted.lower(carry, *inputs).compile()
        self._carry, self._inputs = carry, inputs
        self.temporaries = self._step.memory_analysis().temp_size_in_bytes

    def __call__(self, steps: int) -> None:
        """Run `steps` steps, one after the other, and wait for the last."""
        for _ in range(steps):
            self._carry = self._step(self._carry, *self._inputs)
        jax.block_until_ready(self._carry)


def interleave(runs: dict[str, Run], settings: Settings) -> pd.DataFrame:
    """Seconds per step: a row for each round, in which every run is called once, in random order.

    In a fixed order, each would always find the caches as the same other one left them.
    """
    for run in runs.values():
        run(settings.warm_up)
    rng = np.random.default_rng(0)
    rounds = [
        {name: _seconds(runs[name], settings.lengths) for name in rng.permutation(list(runs))}
        for _ in range(settings.rounds)
    ]
    return pd.DataFrame(rounds)


def ratios(seconds: pd.DataFrame, base: str) -> pd.DataFrame:
    """Of each run the quartiles of its time over that of `base`, round by round."""
    found = seconds.div(seconds[base], axis=0).quantile([0.25, 0.5, 0.75]).T
    return found.set_axis(["low", "ratio", "high"], axis=1)


def _seconds(run: Run, lengths: tuple[int, ...]) -> float:
    times = []
    for length in lengths:
        start = time.perf_counter()
        run(length)
        times.append(time.perf_counter() - start)
    if len(lengths) == 1:
        return times[0] / lengths[0]
    return (times[1] - times[0]) / (lengths[1] - lengths[0])
