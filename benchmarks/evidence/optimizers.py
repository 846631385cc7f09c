"""The optimizers of the study, one row each. A row is a direction and what else defines it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from adashift_optax import scale_by_adashift, scale_by_adashift_factored
from benchmarks.evidence.candidates import Candidate, momentum

# The rule that the library has: tasks B and D are run with it, once tasks A have chosen it.
LIBRARY = Candidate(nesterov=True, b1=0.8, kappa=1.0, growing=False)


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Attributes:
      name: the name in the results.
      make: its direction, which the rate multiplies; for schedule_free all but the rate.
      offset: where its grid of rates begins, in quarters of a decade from Adam's.
      clipped: whether the global norm of the gradient is clipped in front of it.
      schedule_free: whether the rate stays after the warm-up, and the parameters are averaged.
    """

    name: str
    make: Callable[[], optax.GradientTransformation]
    offset: int = 0
    clipped: bool = True
    schedule_free: bool = False


def adam(b1: float, nesterov: bool = False) -> Row:
    """Optax's Adam or NAdam, b2 = 0.999."""
    name = f"{'n' if nesterov else ''}adam b1={b1:g}"
    return Row(name, lambda: optax.scale_by_adam(b1, nesterov=nesterov))


def recipe(b1: float, nesterov: bool = False, dtype: Any = None) -> Row:
    """Adafactor's recipe: factored squares, a clip of each block's RMS, and momentum behind.

    All matrices are factored, however small, so that its bytes are those of its class.
    """
    kind = "" if b1 == 0 else " nesterov" if nesterov else " plain"

    def make() -> optax.GradientTransformation:
        factored = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
        return optax.chain(factored, optax.clip_by_block_rms(1.0), momentum(b1, nesterov, dtype))

    return Row(f"recipe{kind} b1={b1:g}" + (" bfloat16" if dtype else ""), make)


def matrices(params: Any) -> Any:
    """What Muon is made for: matrices, except tables and the last layer. The rest gets Adam."""

    def one(path: Any, p: jax.Array) -> Any:
        name = jax.tree_util.keystr(path)
        other = p.ndim != 2 or "embedding" in name or "head" in name
        return None if other else optax.contrib.MuonDimensionNumbers()

    return jax.tree.map_with_path(one, params)


def muon() -> optax.GradientTransformation:
    """Optax's Muon at a rate of -1, whose sign the chain turns around. `consistent_rms` gives its
    steps the size of Adam's, so that one rate fits both.
    """
    return optax.contrib.muon(
        -1.0, muon_weight_dimension_numbers=matrices, consistent_rms=0.2, adam_learning_rate=-1.0
    )


def unclipped(row: Row) -> Row:
    """A row without the clip of the global norm."""
    return replace(row, name=f"{row.name} unclipped", clipped=False)


def candidate(of: Candidate) -> Row:
    """A row of what tasks A choose from."""
    return Row(of.name, of.make)


B1 = LIBRARY.b1
OURS = Row("ours", lambda: scale_by_adashift_factored(B1))
NARROW = Row("ours bfloat16", lambda: scale_by_adashift_factored(B1, mu_dtype=jnp.bfloat16))
PAPER = Row("paper max n=10", lambda: scale_by_adashift(n=10, phi="max"), 5)
OTHERS = (
    Row("ours b1=0", lambda: scale_by_adashift_factored(0.0)),
    Row("ours undelayed", lambda: LIBRARY.make(delayed=False)),
    unclipped(OURS),
    unclipped(adam(0.9)),
    Row("schedule_free", lambda: optax.scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True),
        schedule_free=True),
    Row("lion bfloat16", lambda: optax.scale_by_lion(mu_dtype=jnp.bfloat16), -2),
    Row("adafactor", lambda: optax.chain(optax.adafactor(1.0), optax.scale(-1.0)), 4),
    recipe(0),
    PAPER,
)  # fmt: skip
MUON = Row("muon", muon, 1)
# One part of the rule off in each, beside "undelayed"; the last three are what might mend it.
PARTS = dict(kappa=0.0), dict(nesterov=False), dict(kappa=2.0), dict(growing=True), dict(b1=0.9)
SWITCHED = (
    Row("ours RMS clipped", lambda: LIBRARY.make(clipped=True)),
    Row("ours scaled last", lambda: LIBRARY.make(last=True)),
    *(candidate(LIBRARY._replace(**part)) for part in PARTS),
)
