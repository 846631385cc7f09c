"""All axes of the API drawn at random, in trees of 9 leaves and more, against an independent model.

A few hundred combinations, the same each time; ADASHIFT_EXAMPLES=3000 draws that many new ones.
Compiling is the price, so that each program runs several sets of numbers.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_cases as cases
from common import adafactors, rising
from random_cases import Leaf

from adashift_optax import adashift, adashiftw, scale_by_adashift

EXAMPLES = int(os.environ.get("ADASHIFT_EXAMPLES", "0"))
EACH = 8  # sets of numbers for a program
PARTS = 6
PROGRAMS = -(-(EXAMPLES or 288) // EACH // PARTS)
QUEUES = (None, None, "float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")
SHAPES = [
    (),
    (1,),
    (3,),
    (0,),
    (5,),
    (2, 3),
    (3, 1),
    (1, 1),
    (4, 2),
    (2, 2, 3),
    (2, 0),
    (1, 2, 1, 3),
]
KINDS = ("plain", "spread", "sparse", "late", "constant", "zeros", "one huge", "one step")
TAME = ("small_spread", "late_small", "zeros", "one step small")  # what fits a narrow queue


def gradients(rng, kind, leaf, steps):
    """[steps, *shape] of one of KINDS or TAME, times a magnitude of the leaf's own."""
    spread, shape = cases.SPREAD[narrowest(leaf)], (steps, *leaf.shape)
    base = "small_spread" if kind in TAME else kind if kind in cases.KINDS else "plain"
    g = cases.KINDS[base](rng, shape, spread / 2)
    g = np.array(g) * 2.0 ** rng.integers(-spread, spread + 1)
    if kind == "late_small":
        g[: steps // 2] = 0
    if kind == "zeros":
        g[:] = 0
    if kind.startswith("one step"):  # seen once, and never again
        g[np.arange(steps) != rng.integers(steps)] = 0
    if kind == "one huge" and g.size:
        g.flat[rng.integers(g.size)] *= 10.0 ** (spread / 2)
    return g


def narrowest(leaf):
    """The dtype that bounds the magnitudes: of the gradient, and of the state it is rounded to."""
    return min(leaf.dtype, leaf.params, key=cases.SPREAD.get)


def rounded(g, queue, leaf):
    """To nearest, with the digits of the queue: a power of 2 scales each block into its range."""
    if queue is None or jnp.finfo(queue).nmant >= jnp.finfo(leaf.held).nmant:
        return g
    fraction, exponent = np.frexp(np.asarray(g, float))
    ulps = 2.0 ** (jnp.finfo(queue).nmant + 1)
    return np.ldexp(np.rint(fraction * ulps) / ulps, exponent)


class Case:
    """One program: what is static in it, and which arguments are traced."""

    def __init__(self, seed):
        rng = self.rng = np.random.default_rng(seed)

        def pick(items):
            return items[rng.integers(len(items))]

        self.wide, self.queue = bool(rng.integers(2)), pick(QUEUES)
        dtypes = cases.REAL if self.queue else tuple(cases.SPREAD)
        dtypes = [d for d in dtypes if self.wide or d in cases.NARROW]
        mixed = rng.random() < 0.5
        self.leaves = [self.leaf(dtypes, mixed) for _ in range(rng.integers(9, 13))]
        self.static = {
            "n": int(pick([1, 1, 2, 2, 3, 4, 5])),
            "phi": pick(cases.PHIS),
            "window": pick(["sliding", "hopping", "ema"]),
            "warm_start": pick([False, False, True]),
        }
        self.b2 = pick([None, None, adafactors, rising])  # a schedule
        self.axes = pick(["None", "static", "function"])
        if self.axes == "static":  # for leaves of any rank
            self.leaves = [Leaf(x.shape, x.dtype, (), x.params) for x in self.leaves]
        if self.axes == "None":
            self.leaves = [Leaf(x.shape, x.dtype, None, x.params) for x in self.leaves]
        self.make = pick([scale_by_adashift, adashift, adashiftw])
        self.traced = bool(rng.integers(2))
        self.clip_kind = pick(["None", "number", "schedule"])
        self.numbers = self.draw()

    def leaf(self, dtypes, mixed):
        rng = self.rng
        shape = SHAPES[rng.integers(len(SHAPES))]
        dtype = dtypes[rng.integers(len(dtypes))]
        same = [d for d in dtypes if d.startswith("c") == dtype.startswith("c")]
        params = same[rng.integers(len(same))] if mixed else dtype
        axes = tuple(a for a in range(len(shape)) if rng.integers(2))
        return Leaf(shape, dtype, None if rng.random() < 0.3 else axes, params)

    def draw(self):
        """The numbers that may be traced."""
        rng = self.rng

        def pick(items):
            return float(np.float32(items[rng.integers(len(items))]))

        return {
            "b1": pick([0, 0.5, 0.9, 0.999, rng.uniform(0.1, 0.9999)]),
            "b2": pick([0, 0.9, 0.999, rng.uniform(0.1, 0.99999)]),
            "eps": pick([0, 1e-10, 1e-3]),
            "clip": pick([0.25, 1, 1e6]),
            "rate": pick([1, 1e-3, 1e-7]),
            "decay": pick([0, 0.5]),
        }

    def optimizer(self, x):
        """Made of the numbers `x`, traced or not."""
        axes = dict(enumerate(leaf.axes for leaf in self.leaves))
        block_axes = {"None": None, "static": ()}.get(self.axes, lambda path, _: axes[path[0].idx])
        clip = {"None": None, "number": x["clip"]}.get(
            self.clip_kind, lambda t: x["clip"] * (t % 3)
        )
        kwargs = {name: x[name] for name in ("b1", "b2", "eps")} | cases.library(self.static)
        kwargs["b2"] = self.b2 or kwargs["b2"]
        kwargs |= {"clip_value": clip, "block_axes": block_axes, "queue_dtype": self.queue}
        if self.make is not scale_by_adashift:
            kwargs["learning_rate"] = x["rate"]
        if self.make is adashiftw:
            kwargs["weight_decay"] = x["decay"]
        return self.make(**kwargs)

    def expected(self, leaf, g, p, x):
        """The updates that are right, and how far off ours may be."""
        n, phi, window = (self.static[name] for name in ("n", "phi", "window"))
        clip = {"None": None, "number": x["clip"]}.get(
            self.clip_kind, lambda t: x["clip"] * (t % 3)
        )
        queued = window != "hopping" and n > 1
        in_window = window == "sliding" and n > 1 and (self.traced or x["b1"] > 0)
        g = np.asarray(g, leaf.held if g.dtype.kind != "c" else np.result_type(leaf.held, "c8"))
        m = rounded(g, self.queue if in_window else None, leaf)
        args = {name: x[name] for name in ("b1", "b2", "eps")} | self.static
        args["b2"] = self.b2 or args["b2"]
        of = list(rounded(g, self.queue if phi == "none" and queued else None, leaf))
        want, allowed = cases.expected(leaf, m, **args, clip_value=clip, axes=leaf.axes, of=of)
        if self.make is scale_by_adashift:
            return want, allowed
        decayed = (x["decay"] if self.make is adashiftw else 0) * np.asarray(p, want.dtype)
        info = jnp.finfo(leaf.updates)
        wide = float(jnp.finfo(leaf.held).eps) * 4 * (np.abs(want) + np.abs(decayed))
        size = x["rate"] * np.abs(want + decayed)
        once = float(info.eps) * 0.51 * size + float(info.tiny) * (size > 0)
        # `allowed` holds a rounding to the dtype of updates, which comes once, and last.
        return -x["rate"] * (want + decayed), x["rate"] * (allowed + wide) + once


def check(seed):
    """Runs one case, with EACH sets of numbers; returns what was wrong."""
    case = Case(seed)
    steps = 3 * case.static["n"] + 3
    with jax.enable_x64(case.wide), jax.numpy_dtype_promotion("standard"):

        def run(grads, params, x):
            return cases.scan(case.optimizer(x if case.traced else case.numbers), grads, params)

        run, wrong = jax.jit(run), []
        for _ in range(EACH):
            rng, kinds = case.rng, TAME if case.queue else KINDS
            grads, params = [], []
            for leaf in case.leaves:
                parts = [
                    gradients(rng, kinds[rng.integers(len(kinds))], leaf, steps) for _ in range(2)
                ]
                g = parts[0] + 1j * parts[1] if leaf.dtype.startswith("c") else parts[0]
                grads.append(g.astype(jnp.dtype(leaf.dtype)))
                params.append(rng.standard_normal(leaf.shape).astype(jnp.dtype(leaf.params)))
            x = case.draw() if case.traced else case.numbers
            as_wide = np.float64 if case.wide else np.float32
            traced = {name: as_wide(value) for name, value in x.items()}
            updates = jax.tree.map(np.asarray, run(grads, params, traced))
            for i, (leaf, g, p, u) in enumerate(
                zip(case.leaves, grads, params, updates, strict=True)
            ):
                want, allowed = case.expected(leaf, g, p, x)
                error = np.abs(np.asarray(u, want.dtype) - want)
                if u.dtype != leaf.updates or not np.all(error <= allowed):
                    worst = np.max(np.where(error <= allowed, 0, error), initial=0)
                    wrong.append((seed, i, leaf, u.dtype.name, float(worst), case.static, x))
    return wrong


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, PARTS))]
)
def test_random_combinations(part):
    """Values and dtypes of all updates; of what is wrong, where and how to repeat it."""
    start = int.from_bytes(os.urandom(3)) * 1000 if EXAMPLES else 0
    wrong = []
    for i in range(PROGRAMS):
        wrong += check(start + part * PROGRAMS + i)
    assert not wrong, f"{len(wrong)} leaves, first: {wrong[:3]}"


def test_a_trace_of_every_axis():
    """The programs of the fixed seed between them have every value of every static axis."""
    made = [Case(seed) for seed in range(36)]
    assert {c.queue for c in made} == set(QUEUES)
    assert {c.static["phi"] for c in made} == set(cases.PHIS)
    assert {c.static["window"] for c in made} == {"sliding", "hopping", "ema"}
    assert {c.static["warm_start"] for c in made} == {False, True}
    assert {c.b2 for c in made} == {None, adafactors, rising}
    assert {c.make for c in made} == {scale_by_adashift, adashift, adashiftw}
    for name in ("axes", "clip_kind", "traced", "wide"):
        assert len({getattr(c, name) for c in made}) == (2 if name in ("traced", "wide") else 3)
