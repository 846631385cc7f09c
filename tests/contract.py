"""The contract as tables: which variants of which optimizers give the reference's updates where.

`test_contract.py` tests every cell, and as a program writes docs/contract.md from these tables.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import reference
from common import adafactors, rising
from contract_runs import jitted, rejecting

from adashift_optax import STATIC_ARGS, adashift, adashiftw, scale_by_adashift

N, STEPS = 2, 9
SHAPES = {"w": (3, 4), "b": (5,)}
FROZEN = "b"  # the leaf that some contexts leave out; nothing else has an axis of its size
RATE, DECAY = 0.1, 0.5

OPTIMIZERS = {
    "scale_by_adashift": (scale_by_adashift, {}),
    "adashift": (adashift, {"learning_rate": RATE}),
    "adashiftw": (adashiftw, {"learning_rate": RATE, "weight_decay": DECAY}),
}

VARIANTS: Mapping[str, dict[str, Any]] = {
    "max": {},
    "mean": {"phi": "mean"},
    "none": {"phi": "none"},
    "factored": {"phi": "factored"},
    "callable phi": {"phi": lambda g2: g2.sum() + 1},
    "block_axes": {"block_axes": lambda path, leaf: (leaf.ndim - 1,) if leaf.ndim else None},
    "b1=0": {"b1": 0},
    "none, b1=0": {"phi": "none", "b1": 0},
    "n=1": {"n": 1},
    "none, clip_value": {"phi": "none", "clip_value": 0.9},
    "clip_value schedule": {"clip_value": lambda count: 0.2 + 0.1 * count},
    "hopping": {"window": "hopping"},
    "none, hopping": {"phi": "none", "window": "hopping"},
    "factored, hopping": {"phi": "factored", "window": "hopping"},
    "bfloat16": {"queue_dtype": "bfloat16"},
    "none, float16": {"phi": "none", "queue_dtype": "float16"},
    "float8_e5m2": {"queue_dtype": "float8_e5m2"},
    "float8_e4m3fn": {"queue_dtype": "float8_e4m3fn"},
    "ema": {"window": "ema"},
    "none, ema": {"phi": "none", "window": "ema"},
    "outputs, ema, b2 schedule": {
        "phi": "mean",
        "block_axes": "outputs",
        "window": "ema",
        "b2": adafactors,
    },
    "warm_start": {"warm_start": True},
    "none, hopping, warm_start, b2 schedule": {
        "phi": "none",
        "window": "hopping",
        "warm_start": True,
        "b2": rising,
    },
    "factored, ema, n=1, warm_start": {
        "phi": "factored",
        "window": "ema",
        "n": 1,
        "warm_start": True,
    },
    # b1 = 1/3 makes m of two gradients (3 g_t + g_{t-1}) / 4, which bfloat16 holds exactly.
    "mu_dtype": {"mu_dtype": "bfloat16", "b1": 1 / 3},
    "hopping, mu_dtype": {"window": "hopping", "mu_dtype": "bfloat16", "b1": 1 / 3},
    "none, ema, n=1, mu_dtype": {
        "phi": "none",
        "window": "ema",
        "n": 1,
        "mu_dtype": "bfloat16",
    },
}
NARROW = tuple(name for name, kwargs in VARIANTS.items() if "queue_dtype" in kwargs)
# How far off updates may be, in those of the largest: where terms of m cancel, by float32, in which
# a narrow m is made; and where m is no number of bfloat16, by a rounding to that at every step.
OFF = {
    "mu_dtype": 2.0**-22,
    "hopping, mu_dtype": 2.0**-22,
    "none, ema, n=1, mu_dtype": STEPS * 2.0**-9,
}
# In these every field of the state has every layout that it has in any variant.
LAYOUTS = ("max", "b1=0", "factored, hopping", "none, hopping", "none, float16")
LAYOUTS += ("outputs, ema, b2 schedule",)


def parts(variants):
    """Three variants of three optimizers go into one program: of more, XLA compiles fewer."""
    return [variants[i : i + 3] for i in range(0, len(variants), 3)]


PARTS, LAYOUT_PARTS = parts(tuple(VARIANTS)), parts(LAYOUTS)


def axes_of_outputs(path, leaf):
    """Of leaves of the shapes [..., in, out] and [out]."""
    return (leaf.ndim - 2,) if leaf.ndim > 1 else None


def run_reference(grads, kwargs):
    """Updates of one leaf, and their scales, by the NumPy reference, which rounds nothing."""
    kwargs = {"n": N, "b1": 0.9, "b2": 0.999, "phi": "max", "window": "sliding", **kwargs}
    n, b1, b2, phi, window = (kwargs[name] for name in ("n", "b1", "b2", "phi", "window"))
    axes, clip = kwargs.get("block_axes"), kwargs.get("clip_value")
    axes = axes_of_outputs if axes == "outputs" else axes
    axes = axes(None, grads[0]) if axes else None
    warm = kwargs.get("warm_start", False)
    return reference.adashift(grads, n, b1, b2, 1e-10, phi, axes, clip, window, warm=warm)


def reference_updates(grads, kwargs):
    return run_reference(grads, kwargs)[0]


def oracle(kwargs):
    """The reference as an Optax transformation, which keeps every gradient that reaches it."""

    def init(params):
        seen = jax.tree.map(lambda p: jnp.zeros((STEPS, *p.shape), p.dtype), params)
        return jnp.zeros([], int), seen

    def latest(count, seen):
        def one(s):
            return np.asarray(reference_updates(list(np.asarray(s)[: count + 1]), kwargs)[-1])

        return jax.tree.map(one, seen)

    def update(updates, state, params=None):
        del params
        count, seen = state
        seen = jax.tree.map(lambda s, g: s.at[count].set(g), seen, updates)
        like = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), updates)
        return jax.pure_callback(latest, like, count, seen), (count + 1, seen)

    return optax.GradientTransformation(init, update)


def oracles(kwargs):
    """For each of OPTIMIZERS what it must equal."""
    rate, decay = optax.scale(-RATE), optax.add_decayed_weights(DECAY)
    return {
        "scale_by_adashift": oracle(kwargs),
        "adashift": optax.chain(oracle(kwargs), rate),
        "adashiftw": optax.chain(oracle(kwargs), decay, rate),
    }


def same(x):
    return x


def injected(factory, kwargs):
    static = STATIC_ARGS + ("b2",) * callable(kwargs.get("b2"))
    return optax.inject_hyperparams(factory, static)(**kwargs)


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """What is put around an optimizer, or into its parameters.

    `make` builds the optimizer from its factory. `tree` changes parameters and gradients, `start`
    the parameters alone; `extra` goes to update. `frozen`: nothing of the state is FROZEN's.
    `variants`: LAYOUTS are enough where the wrapper only carries the state along.
    """

    note: str
    wrap: Callable[..., Any] = same
    make: Callable[..., Any] = lambda factory, kwargs: factory(**kwargs)
    run: Callable[..., Any] = jitted
    tree: Callable[..., Any] = same
    start: Callable[..., Any] = same
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    frozen: bool = False
    variants: tuple[str, ...] = tuple(VARIANTS)


MASK = {name: name != FROZEN for name in SHAPES}
LABELS = {name: "train" if trained else "freeze" for name, trained in MASK.items()}

WRAPPERS = {
    "chain": Wrapper(
        "Other transformations may stand before and behind it.",
        lambda tx: optax.chain(optax.clip(0.5), tx, optax.add_decayed_weights(0.1)),
        variants=LAYOUTS,
    ),
    "masked": Wrapper(
        "A leaf that is masked out has no state.", lambda tx: optax.masked(tx, MASK), frozen=True
    ),
    "partition": Wrapper(
        "A leaf that is frozen has no state.",
        lambda tx: optax.partition({"train": tx, "freeze": optax.set_to_zero()}, LABELS),
        frozen=True,
        variants=LAYOUTS,
    ),
    "leaves that are None": Wrapper(
        "Such leaves have no state.", tree=lambda tree: {**tree, FROZEN: None}, frozen=True
    ),
    "leaves that are MaskedNode": Wrapper(
        "Such leaves have no state.",
        tree=lambda tree: {**tree, FROZEN: optax.MaskedNode()},
        frozen=True,
    ),
    "MultiSteps": Wrapper(
        "The parameters first move at micro-step (n + 1) k, with `warm_start` at k. Each call "
        "copies the whole state, Adam's too; averaging gradients before `update` does not.",
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    ),
    "apply_if_finite": Wrapper(
        "A rejected step leaves the state as it is, bit for bit.",
        lambda tx: optax.apply_if_finite(tx, 3),
        run=rejecting,
    ),
    "inject_hyperparams": Wrapper(
        'Pass `static_args=STATIC_ARGS`, and where b2 is a schedule `(*STATIC_ARGS, "b2")`.',
        make=injected,
    ),
    "lookahead": Wrapper(
        "",
        lambda tx: optax.lookahead(tx, sync_period=2, slow_step_size=0.5),
        start=optax.LookaheadParams.init_synced,
        variants=LAYOUTS,
    ),
    "contrib.schedule_free": Wrapper(
        "", lambda tx: optax.contrib.schedule_free(tx, RATE), variants=LAYOUTS
    ),
    "contrib.mechanize": Wrapper("", optax.contrib.mechanize, variants=LAYOUTS),
    "contrib.reduce_on_plateau": Wrapper(
        "Put it behind AdaShift. Because the first n updates are zero, pass patience + n, or take "
        "`warm_start=True`.",
        lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau(patience=1)),
        extra={"value": 1.0},
        variants=LAYOUTS,
    ),
    "flatten": Wrapper("All leaves become one leaf: one block.", optax.flatten, variants=LAYOUTS),
    "with_extra_args_support": Wrapper(
        "Further arguments of `update` are ignored.",
        optax.with_extra_args_support,
        extra={"value": 1.0},
        variants=LAYOUTS,
    ),
}


def make_grads(seed=0):
    """Multiples of 1/4 up to 3/4: exact in every queue_dtype, and so are means of two."""
    rng = np.random.default_rng(seed)
    return [
        {k: jnp.asarray(rng.integers(-3, 4, shape) / 4) for k, shape in SHAPES.items()}
        for _ in range(STEPS)
    ]


def make_params():
    rng = np.random.default_rng(1)
    return {k: jnp.asarray(rng.standard_normal(shape)) for k, shape in SHAPES.items()}


def run(txs, context, how):
    """The updates of optimizers at every step, parameters following them, and the first states.

    In one program: it compiles twice as fast as one for each.
    """
    params = context.start(context.tree(make_params()))
    txs = {name: optax.with_extra_args_support(context.wrap(tx)) for name, tx in txs.items()}
    states = jax.jit(lambda params: {name: tx.init(params) for name, tx in txs.items()})(params)

    def step(carry, g):
        def one(tx, params, state):
            u, state = tx.update(g, state, params, **context.extra)
            return (optax.apply_updates(params, u), state), u

        out = {name: one(txs[name], *pair) for name, pair in carry.items()}
        return tuple({name: pair[i] for name, pair in out.items()} for i in (0, 1))

    carry = {name: (params, state) for name, state in states.items()}
    return how(step, carry, [context.tree(g) for g in make_grads()]), states


def differing(updates, wanted):
    """The cells whose updates are not the reference's."""
    most = jax.tree.map(lambda *u: max(np.max(np.abs(x), initial=0) for x in u), *wanted)
    names = {}
    for u, want in zip(updates, wanted, strict=True):
        for cell in want:
            off = OFF.get(cell.split(":")[0], 0)
            equal = jax.tree.map(
                lambda x, y, most, off=off: np.allclose(x, y, 1e-9, 1e-12 + off * most),
                u[cell],
                want[cell],
                most[cell],
            )
            if not all(jax.tree.leaves(equal)):
                names[cell] = None
    return list(names)
