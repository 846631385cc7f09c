"""The contract as tables: the wrappers under which updates are those of the reference.

`test_contract.py` tests every row, and as a program writes docs/contract.md from these tables.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import settings
from contract_runs import jitted, rejecting

import adashift_optax

RATE, DECAY, STEPS = 0.1, 0.5, 13
SHAPES = {"matrix": (3, 4), "vector": (7,)}
FROZEN = "vector"  # the leaf that some wrappers leave out; nothing else has an axis of its size

# Rank 1 has no two axes, so that "axes" gives way to the other setting with trees of blocks.
ALL = tuple(name for name in settings.SETTINGS if name != "axes")
LAYOUTS = tuple("callable axes" if name == "axes" else name for name in settings.LAYOUTS)
KINDS = ("scale_by", "plain", "decayed")  # the public optimizers: direction, without, with decay
FACTORIES = {  # of the paper's and of the factored settings
    "scale_by": (adashift_optax.scale_by_adashift, adashift_optax.scale_by_adashift_factored),
    "plain": (adashift_optax.adashift, adashift_optax.adashift_factored),
    "decayed": (adashift_optax.adashiftw, adashift_optax.adashift_factored),
}
ARGUMENTS = {
    "scale_by": {},
    "plain": {"learning_rate": RATE},
    "decayed": {"learning_rate": RATE, "weight_decay": DECAY},
}
# Under a wrapper each layout is tested for one public optimizer, so that all of them appear.
# A momentum of bfloat16 is made in float32 also where the parameters have 64 bits.
OFF = {"factored bfloat16": 2.0**-20}
PAIRS = tuple(zip(LAYOUTS, ("plain", "decayed", "scale_by") * 3, strict=False))
EVERY_PAIR = tuple((name, kind) for name in ALL for kind in KINDS)


def factory(name, kind):
    return FACTORIES[kind][name in settings.FACTORED]


def make(name, kind):
    return factory(name, kind)(**ARGUMENTS[kind], **settings.SETTINGS[name])


def injected(name, kind):
    static = ("mu_dtype",) if name in settings.FACTORED else adashift_optax.STATIC_ARGS
    wrapped = optax.inject_hyperparams(factory(name, kind), static)
    return wrapped(**ARGUMENTS[kind], **settings.SETTINGS[name])


def oracle(name, kind):
    """The reference as an Optax transformation, which keeps every gradient that reaches it."""

    def init(params):
        seen = jax.tree.map(lambda p: jnp.zeros((2 * STEPS, *p.shape), p.dtype), params)
        return jnp.zeros([], int), seen

    def latest(count, seen):
        def one(path, s):
            grads = list(np.asarray(s)[: int(count) + 1])
            return np.asarray(settings.expected(name, grads, path[-1].key if path else None)[0][-1])

        return jax.tree_util.tree_map_with_path(one, seen)

    def update(updates, state, params=None):
        del params
        count, seen = state
        seen = jax.tree.map(lambda s, g: s.at[count].set(g), seen, updates)
        like = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), updates)
        return jax.pure_callback(latest, like, count, seen), (count + 1, seen)

    parts = [optax.GradientTransformation(init, update)]
    parts += [optax.add_decayed_weights(DECAY)] if kind == "decayed" else []
    return optax.chain(*parts, optax.scale(1.0 if kind == "scale_by" else -RATE))


def same(x):
    return x


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """What is put around an optimizer, or into its parameters.

    `make` builds the optimizer. `tree` changes parameters and gradients, `start` the parameters
    alone. `frozen`: nothing of the state is FROZEN's. `without`: settings
    that this wrapper cannot have.
    """

    note: str
    wrap: Callable[..., Any] = same
    make: Callable[..., Any] = make
    run: Callable[..., Any] = jitted
    tree: Callable[..., Any] = same
    start: Callable[..., Any] = same
    frozen: bool = False
    steps: int = STEPS
    without: tuple[str, ...] = ()


MASK = {name: name != FROZEN for name in SHAPES}
GROUPS = {name: "train" if trained else "freeze" for name, trained in MASK.items()}
NO_STATE = "A leaf that is left out has no state."

WRAPPERS = {
    "chain": Wrapper(
        "Other transformations may stand before and behind it.",
        lambda tx: optax.chain(optax.clip(0.5), tx, optax.add_decayed_weights(0.1)),
    ),
    "masked": Wrapper(NO_STATE, lambda tx: optax.masked(tx, MASK), frozen=True),
    "partition": Wrapper(
        NO_STATE,
        lambda tx: optax.partition({"train": tx, "freeze": optax.set_to_zero()}, GROUPS),
        frozen=True,
    ),
    "leaves that are None": Wrapper(NO_STATE, tree=lambda t: {**t, FROZEN: None}, frozen=True),
    "leaves that are MaskedNode": Wrapper(
        NO_STATE, tree=lambda t: {**t, FROZEN: optax.MaskedNode()}, frozen=True
    ),
    "MultiSteps": Wrapper(
        "With `adashift` the parameters first move at micro-step (n + 1) k, with "
        "`adashift_factored` at k.",
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        steps=2 * STEPS,
    ),
    "apply_if_finite": Wrapper(
        "A rejected step leaves the state as it is, bit for bit.",
        lambda tx: optax.apply_if_finite(tx, 3),
        run=rejecting,
    ),
    "inject_hyperparams": Wrapper(
        'Pass `static_args=STATIC_ARGS`, and for `adashift_factored` `("mu_dtype",)`.',
        make=injected,
    ),
    "lookahead": Wrapper(
        "",
        lambda tx: optax.lookahead(tx, sync_period=2, slow_step_size=0.5),
        start=optax.LookaheadParams.init_synced,
    ),
    "contrib.schedule_free": Wrapper("", lambda tx: optax.contrib.schedule_free(tx, RATE)),
    "contrib.mechanize": Wrapper("", optax.contrib.mechanize),
    "contrib.reduce_on_plateau": Wrapper(
        "Put it behind the optimizer, with patience + n for `adashift`.",
        lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau(patience=1)),
    ),
    "flatten": Wrapper(
        "All leaves become one leaf of rank 1: one block, and nothing to factor.",
        optax.flatten,
        without=("callable axes",),
    ),
    "with_extra_args_support": Wrapper(
        "Further arguments of `update` are ignored.", optax.with_extra_args_support
    ),
}


def make_grads(steps=STEPS):
    """Multiples of 1/4 up to 3/4: exact in a bfloat16 queue, and so are means of two."""
    rng = np.random.default_rng(0)
    return [
        {k: jnp.asarray(rng.integers(-3, 4, shape) / 4) for k, shape in SHAPES.items()}
        for _ in range(steps)
    ]


def make_params():
    rng = np.random.default_rng(1)
    return {k: jnp.asarray(rng.standard_normal(shape)) for k, shape in SHAPES.items()}


def run(txs, wrapper, how, steps=None):
    """The updates of optimizers at every step, parameters following them, and the first states.

    In one program: it compiles faster than one for each.
    """
    params = wrapper.start(wrapper.tree(make_params()))
    txs = {name: optax.with_extra_args_support(wrapper.wrap(tx)) for name, tx in txs.items()}
    states = jax.jit(lambda params: {name: tx.init(params) for name, tx in txs.items()})(params)

    def step(carry, g):
        def one(tx, params, state):
            u, state = tx.update(g, state, params, value=1.0)
            return (optax.apply_updates(params, u), state), u

        out = {name: one(txs[name], *pair) for name, pair in carry.items()}
        return tuple({name: pair[i] for name, pair in out.items()} for i in (0, 1))

    carry = {name: (params, state) for name, state in states.items()}
    grads = [wrapper.tree(g) for g in make_grads(steps or wrapper.steps)]
    return how(step, carry, grads), states


def differing(updates, wanted):
    """The cells whose updates are not the reference's, or of which nothing is left to compare."""
    wrong, known = {}, set()
    for u, want in zip(updates, wanted, strict=True):
        for cell in want:
            off = OFF.get(cell.split(", ")[0], 1e-12)
            for x, y in zip(*map(jax.tree.leaves, (u[cell], want[cell])), strict=True):
                if not np.allclose(x, y, 1e-9, off):
                    wrong[cell] = "differs"
                if np.any(y):
                    known.add(cell)
    return wrong | {cell: "is 0" for cell in wanted[-1] if cell not in known}
