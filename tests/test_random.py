"""Both optimizers on trees, arguments and gradients drawn at random, against the reference.

A case is one program. Where the numbers in it are traced, it runs several sets of them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from common import exact_in_8_bits, in_64_bits, scan
from settings import ordered

import adashift_optax

SETS = 4  # of numbers for a program
RATE, DECAY = 0.25, 0.125
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}  # of test_exact.py, relative to the terms summed
SHAPES = [(), (1,), (3,), (0,), (5,), (2, 3), (3, 1), (4, 2), (2, 2, 3), (2, 0), (1, 2, 1, 3)]
REAL, COMPLEX = ["float16", "bfloat16", "float32", "float64"], ["complex64", "complex128"]
# What magnitudes of gradients span, in powers of 10 each way: no square, nor the ratio of two of
# them, leaves the range of what it is computed in. What does is for test_ends_of_range.py.
SPREAD = {
    "float16": 2,
    "bfloat16": 8,
    "float32": 8,
    "complex64": 8,
    "float64": 60,
    "complex128": 60,
}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of the parameters, the dtype of its gradient, and the axes of one block of it."""

    shape: tuple[int, ...]
    params: str
    grads: str
    axes: tuple[int, ...] | None

    @property
    def held(self):
        """The float type that the state has, at least."""
        both = {self.params, self.grads}
        return "float64" if both <= {"float64", "complex128"} else "float32"

    @property
    def updates(self):
        with jax.numpy_dtype_promotion("standard"), in_64_bits():
            return jnp.promote_types(self.params, self.grads).name


class Case:
    """What is static in a program, drawn from a seed."""

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.wide, self.traced = bool(rng.integers(2)), bool(rng.integers(2))
        self.factored, self.alias = rng.random() < 0.4, bool(rng.integers(2))
        self.queue = None if self.factored or rng.random() < 0.7 else "bfloat16"
        self.blocked = not self.factored and bool(rng.integers(2))
        self.n = int(rng.integers(1, 6))
        self.phi = self.pick(["max", "mean", "none", "ordered"])
        self.steps = 16 if self.factored else 3 * self.n + 4
        self.leaves = [self.leaf() for _ in range(rng.integers(1, 12))]
        self.values = [np.array(rng.standard_normal(leaf.shape)) for leaf in self.leaves]

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def leaf(self):
        dtypes = self.pick([REAL] if self.queue else [REAL, REAL, COMPLEX])
        dtypes = dtypes if self.wide else [d for d in dtypes if d not in ("float64", "complex128")]
        shape = self.pick(SHAPES)
        axes = tuple(a for a in range(len(shape)) if self.rng.integers(2))
        return Leaf(shape, self.pick(dtypes), self.pick(dtypes), self.pick([None, axes]))

    def numbers(self):
        """b1, b2 and eps. A b2 that is not 0 is not small: 1 - b2 would lose its digits."""
        numbers = (
            self.pick([0, 0.9, 0.999, self.rng.uniform(0, 0.999)]),
            self.pick([0, 0.9, 0.999, self.rng.uniform(0.1, 0.9999)]),
            self.pick([0.0, 1e-10, 1e-3]),
        )
        return tuple(float(np.float32(x)) for x in numbers)

    def gradients(self, leaf):
        """[steps, *shape] of one of several kinds."""
        rng, shape = self.rng, (self.steps, *leaf.shape)
        kind = self.pick(["plain", "spread", "sparse", "late", "constant"])
        spread = min(SPREAD[leaf.grads], SPREAD[leaf.params])
        parts = []
        for _ in range(1 + leaf.grads.startswith("complex")):
            g = rng.standard_normal(shape)
            if kind == "spread":
                g *= 10 ** rng.uniform(-spread, spread, shape)
            if kind == "sparse":
                g *= rng.random(shape) < 0.3
            if kind == "late":
                g[: self.steps // 2] = 0
            if kind == "constant":
                g[:] = g[:1]
            parts.append(exact_in_8_bits(g) * (g != 0) if self.queue else g)
        g = parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
        return g.astype(jnp.dtype(leaf.grads))

    def optimizer(self, b1, b2, eps):
        if self.factored:
            if self.alias:
                return adashift_optax.adashift_factored(RATE, b1, b2, eps, weight_decay=DECAY)
            return adashift_optax.scale_by_adashift_factored(b1, b2, eps)
        kwargs = {"n": self.n, "phi": self.phi, "queue_dtype": self.queue}
        kwargs["phi"] = ordered(jnp) if self.phi == "ordered" else self.phi
        if self.blocked:
            kwargs["block_axes"] = lambda path, _: self.leaves[path[0].idx].axes
        if not self.alias:
            return adashift_optax.scale_by_adashift(b1, b2, eps, **kwargs)
        if len(self.leaves) % 2:
            return adashift_optax.adashift(RATE, b1, b2, eps, **kwargs)
        return adashift_optax.adashiftw(RATE, b1, b2, eps, **kwargs, weight_decay=DECAY)

    @property
    def decay(self):
        return DECAY if self.alias and (self.factored or len(self.leaves) % 2 == 0) else 0

    def expected(self, k, grads, b1, b2, eps):
        """The updates of leaf k by the reference, and how far off ours may be."""
        leaf, grads = self.leaves[k], list(grads)
        epsilon = float(jnp.finfo(leaf.held).eps)
        if self.factored:
            want, scales = map(np.array, reference.factored(grads, b1, b2, eps))
            allowed = TOLERANCE[leaf.held] * scales
        else:
            phi = ordered(np) if self.phi == "ordered" else self.phi
            args = grads, self.n, b1, b2, eps, phi, leaf.axes if self.blocked else None
            want, scales = map(np.array, reference.adashift(*args))
            left = np.array(reference.adashift(*args, window=left_weights)[1])
            allowed = TOLERANCE[leaf.held] * scales + epsilon / 2 * left
        if self.alias:
            # Wide again: in float16 its rounding error would be 0.
            decayed = self.decay * self.values[k].astype(jnp.dtype(leaf.params)).astype(want.dtype)
            want = -RATE * (want + decayed)
            allowed = RATE * (allowed + 4 * epsilon * np.abs(decayed))
        info = jnp.finfo(leaf.updates)  # to which they are rounded at last, denormals perhaps to 0
        least = info.smallest_subnormal if leaf.updates == "float16" else info.tiny
        rounded = float(info.eps) / 2 * np.abs(want) + float(least)
        return want, np.where(allowed > 0, allowed + rounded, 0)


def left_weights(n, b1, t):
    """What float arithmetic of unit roundoff 1 may leave of g_{t-i}, i >= n: (8 + 6i - 3n) b1^i.

    In S_t = b1 S_{t-1} + (g_t - b1^n g_{t-n}) each weight is rounded, each product and each sum:
    g_{t-i} entered with 4 roundings, and each step since made 3; it left with 4, and each step
    since made 3. To first order (4 + 3i) + (4 + 3(i - n)) of its b1^i do not cancel. Where
    magnitudes differ widely this is more than the error of what is in the window.
    """
    w = np.array([(8 + 6 * i - 3 * n) * b1**i if i >= n > 1 else 0.0 for i in range(t)])
    return w / sum(b1**i for i in range(n))


def check(seed):
    case = Case(seed)
    numbers = [case.numbers() for _ in range(SETS if case.traced else 1)]
    grads = [[case.gradients(leaf) for leaf in case.leaves] for _ in numbers]
    with in_64_bits(case.wide), jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes
        params = [
            jnp.asarray(x, leaf.params) for x, leaf in zip(case.values, case.leaves, strict=True)
        ]

        def run(b1, b2, eps, grads):
            return scan(case.optimizer(b1, b2, eps), grads, params)[0]

        if case.traced:
            stacked = jax.tree.map(lambda *x: np.stack(x), *grads)
            columns = (np.array(x, jnp.result_type(float)) for x in zip(*numbers, strict=True))
            updates = jax.jit(jax.vmap(run))(*columns, stacked)
        else:
            (args,) = numbers
            updates = jax.jit(lambda g: run(*args, g))(grads[0])
            updates = jax.tree.map(lambda u: u[None], updates)
    for k, leaf in enumerate(case.leaves):
        assert updates[k].dtype == leaf.updates
        largest = float(jnp.finfo(leaf.updates).max)
        for got, g, args in zip(np.asarray(updates[k]), grads, numbers, strict=True):
            want, allowed = case.expected(k, g[k], *args)
            with np.errstate(invalid="ignore"):
                error = np.abs(got.astype(want.dtype) - want)
            fits = np.abs(want) < 0.99 * largest
            wrong = ~(error <= allowed) & fits
            assert not np.any(wrong), (leaf, args, error[wrong], allowed[wrong])
            assert not np.any(np.isnan(got))


QUICK, USUAL, ALL = range(4), range(4, 20), range(20, 300)


@pytest.mark.parametrize(
    "seed",
    [
        *QUICK,
        *(pytest.param(seed, marks=pytest.mark.slow) for seed in USUAL),
        *(pytest.param(seed, marks=pytest.mark.all_only) for seed in ALL),
    ],
)
def test_random_case(seed):
    check(seed)
