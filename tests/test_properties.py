"""Properties that hold for all trees, shapes, dtypes, arguments and schedules: drawn by Hypothesis.

With ADASHIFT_EXAMPLES=300 in the environment each draws 300 new examples.
"""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import random_cases as cases
from common import assert_same_bits
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st
from random_cases import arguments, assert_within, examples, expected, gradients, run
from test_precision import ROUNDING

from adashift_optax import adashift, adashiftw, scale_by_adashift

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(sorted(cases.KINDS))
WIDE = st.booleans()  # 64-bit JAX or not


def all_trees(wide, **kwargs):
    return cases.trees(tuple(cases.SPREAD) if wide else cases.NARROW, **kwargs)


@examples(20)
@given(st.data(), WIDE, arguments(), KINDS, SEEDS)
def test_equals_reference(data, wide, args, kind, seed):
    """Any tree, each leaf with block axes and a dtype of its own."""
    tree = data.draw(st.tuples(all_trees(wide), all_trees(wide)))
    blocked = data.draw(st.booleans())
    steps = 3 * args["n"] + 4
    grads = gradients(tree, steps, kind, seed)
    axes = {"block_axes": cases.block_axes(tree)} if blocked else {}
    with jax.enable_x64(wide):
        tx = scale_by_adashift(**cases.library(args), **axes)
        updates = run(tx, grads, cases.zeros(tree))
        assert jax.tree.structure(updates) == jax.tree.structure(tree)
        for leaf, g, u in zip(*map(jax.tree.leaves, (tree, grads, updates)), strict=True):
            assert (u.shape, u.dtype) == (g.shape, g.dtype)
            blocks = {"axes": leaf.axes} if blocked else {}
            assert_within(u, *expected(leaf, g, **args, **blocks))


RATES = st.sampled_from([0.5, cases.schedule])


@examples(7)
@given(st.data(), WIDE, arguments(), RATES, st.sampled_from([None, 0.0, 0.25]), SEEDS)
def test_aliases_equal_reference(data, wide, args, rate, decay, seed):
    """adashift and (decay given) adashiftw: -rate_t (u_t + decay params)."""
    tree = data.draw(all_trees(wide))
    grads = gradients(tree, 3 * args["n"] + 4, "plain", seed)
    params = jax.tree.map(lambda p: p[0], gradients(tree, 1, "plain", seed + 1))
    make = adashift if decay is None else adashiftw
    more = {} if decay is None else {"weight_decay": decay}
    with jax.enable_x64(wide), jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        updates = run(make(rate, **cases.library(args), **more), grads, params)
        rates = [float(rate(t)) if callable(rate) else rate for t in range(3 * args["n"] + 4)]
        for leaf, g, p, u in zip(
            *map(jax.tree.leaves, (tree, grads, params, updates)), strict=True
        ):
            want, allowed = expected(leaf, g, **args)
            decayed = (decay or 0) * np.asarray(p, want.dtype)
            # Two products and a sum, and the rate, are rounded to the dtype of the gradients.
            allowed = allowed + 2 * float(leaf.info.eps) * (np.abs(want) + np.abs(decayed))
            minus = -np.reshape(rates, (-1,) + (1,) * len(leaf.shape))
            assert_within(u, minus * (want + decayed), np.abs(minus) * allowed)


@examples(7)
@given(st.data(), WIDE, arguments(warm_start=st.just(False)), SEEDS)
def test_warm_up_is_exactly_n_zero_updates(data, wide, args, seed):
    """And update n + 1 is not 0, whatever the variant, for gradients of which none is 0."""
    tree, n = data.draw(all_trees(wide, most=3)), args["n"]
    grads = gradients(tree, n + 1, "plain", seed)
    with jax.enable_x64(wide):
        tx = scale_by_adashift(**cases.library(args), block_axes=cases.block_axes(tree))
        for u in jax.tree.leaves(run(tx, grads, cases.zeros(tree))):
            assert not np.any(u[:n])
            assert np.all(u[n])


@examples(7)
@given(
    cases.trees(("float32", "complex64")),
    arguments(),
    st.sampled_from([0, 1e-30]),
    st.integers(-24, 24),
    st.floats(1e-6, 1e6),
    SEEDS,
)
def test_scale_invariance(tree, args, eps, exponent, factor, seed):
    """Gradients times c: as with eps / c, so unchanged as eps -> 0. Bit for bit if c = 2^k."""
    grads = gradients(tree, 3 * args["n"] + 4, "plain", seed)

    @jax.jit
    def updates(c, eps):
        tx = scale_by_adashift(
            **cases.library(args | {"eps": eps}), block_axes=cases.block_axes(tree)
        )
        scaled = jax.tree.map(lambda g: g * c.astype(g.dtype), grads)
        return cases.scan(tx, scaled, cases.zeros(tree))

    c = np.float32(2.0**exponent)
    one = np.float32(1)
    unscaled = updates(one, np.float32(eps))
    jax.tree.map(assert_same_bits, updates(c, np.float32(eps)), unscaled)
    with_eps = updates(c, np.float32(args["eps"]))
    jax.tree.map(assert_same_bits, with_eps, updates(one, np.float32(args["eps"]) / c))
    rounded = updates(np.float32(factor), np.float32(eps))
    for leaf, g, u in zip(*map(jax.tree.leaves, (tree, grads, rounded)), strict=True):
        assert_within(u, *expected(leaf, g, **args | {"eps": eps}, axes=leaf.axes))


ONES = st.integers(0, 3).map(lambda rank: (1,) * rank)


@examples(7)
@given(st.data(), WIDE, arguments(window=st.just("sliding")), st.booleans(), KINDS, SEEDS)
def test_one_element_blocks_equal_elementwise(data, wide, args, leaves, kind, seed):
    """Whole leaves of one element, or leaves of any shape without block axes."""
    tree = data.draw(all_trees(wide, shapes=ONES if leaves else cases.SHAPES))
    phi = data.draw(st.sampled_from([phi for phi in cases.PHIS if phi not in ("none", "factored")]))
    grads = gradients(tree, 3 * args["n"] + 4, kind, seed)
    axes = {} if leaves else {"block_axes": ()}
    with jax.enable_x64(wide):
        tx = scale_by_adashift(**cases.library(args | {"phi": phi}), **axes)
        updates = run(tx, grads, cases.zeros(tree))
        for leaf, g, u in zip(*map(jax.tree.leaves, (tree, grads, updates)), strict=True):
            assert_within(u, *expected(leaf, g, **args | {"phi": "none"}))


TRIPS = {
    "pickle": lambda state, target: pickle.loads(pickle.dumps(jax.device_get(state))),
    "flax": lambda state, target: serialization.from_bytes(target, serialization.to_bytes(state)),
}
QUEUES = st.sampled_from(sorted(ROUNDING))


@examples(7)
@given(st.data(), WIDE, arguments(), st.sampled_from(sorted(TRIPS)), KINDS, SEEDS)
def test_restart_at_any_step(data, wide, args, trip, kind, seed):
    """The state as NumPy arrays, into an optimizer made anew: bit for bit as if nothing was."""
    tree = data.draw(all_trees(wide, most=3))
    real = not any(leaf.dtype.startswith("complex") for leaf in jax.tree.leaves(tree))
    args = args | {"queue_dtype": data.draw(QUEUES) if real else None}
    steps = 2 * args["n"] + 5
    grads = gradients(tree, steps, kind, seed)
    grads = [jax.tree.map(lambda g, t=t: g[t], grads) for t in range(steps)]
    with jax.enable_x64(wide), jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        params = cases.zeros(tree)
        first, second = (adashift(cases.schedule, **cases.library(args)) for _ in range(2))
        update = jax.jit(first.update)
        states, updates = [jax.jit(first.init)(params)], []
        for g in grads:
            u, state = update(g, states[-1])
            states.append(state)
            updates.append(u)
        target, update = jax.jit(second.init)(params), jax.jit(second.update)
        for start in range(steps):
            state = TRIPS[trip](states[start], target)
            for t in range(start, steps):
                u, state = update(grads[t], state)
                jax.tree.map(assert_same_bits, u, updates[t])
            jax.tree.map(assert_same_bits, state, states[-1])


@examples(7)
@given(st.data(), WIDE, arguments(), QUEUES, SEEDS)
def test_queue_dtype(data, wide, args, queue_dtype, seed):
    """Gradients that its dtype can hold lose nothing; others what rounding to nearest can cost."""
    tree = data.draw(cases.trees(cases.REAL if wide else cases.REAL[:3], most=2))
    grads = gradients(tree, 3 * args["n"] + 4, "small_spread", seed)
    held = jax.tree.map(lambda g: g.astype(jnp.dtype(queue_dtype)).astype(g.dtype), grads)
    half_ulp = ROUNDING[queue_dtype]
    # phi="none": of m and of the root of v, whose terms are off in the same proportion.
    off = 2 * half_ulp / (1 - half_ulp) if args["phi"] == "none" else half_ulp
    with jax.enable_x64(wide):
        tx = scale_by_adashift(**cases.library(args), queue_dtype=queue_dtype)
        for given_grads, error in ((held, 0), (grads, off)):
            updates = run(tx, given_grads, cases.zeros(tree))
            for leaf, g, u in zip(*map(jax.tree.leaves, (tree, given_grads, updates)), strict=True):
                assert_within(u, *expected(leaf, g, **args, off=error))
