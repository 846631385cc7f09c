"""What n updates of zero do to the programs around them, and other surprises: numbers and remedies.

The numbers are those of the documentation. What it must say is listed at the end.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from common import assert_same_bits
from flax import serialization

from adashift_optax import adashift, scale_by_adashift
from adashift_optax._numbers import mean

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def square(x):
    return x**2


def steps_of(tx, steps, **extra):
    """x and the state after each step on x^2 from 3."""
    tx = optax.with_extra_args_support(tx)
    x = jnp.float32(3)
    state, update = tx.init(x), jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(2 * x, state, x, value=square(x), **extra)
        x = x + updates
        yield float(x), state


@pytest.mark.parametrize(
    ("kwargs", "patience", "cut"),
    [({}, 10, 11), ({"n": 1}, 10, None), ({}, 10 + 10, None), ({"n": 3}, 10, None)],
)
def test_reduce_on_plateau(kwargs, patience, cut):
    """With its default patience of 10 it cuts the rate at step 11; not with n=1 or patience + n."""
    plateau = optax.contrib.reduce_on_plateau(patience=patience)
    found = steps_of(optax.chain(adashift(0.01, **kwargs), plateau), 30)
    scales = [float(state[-1].scale) for _, state in found]
    assert next((t for t, s in enumerate(scales, 1) if s < 1), None) == cut
    adam = steps_of(optax.chain(optax.adam(0.01), optax.contrib.reduce_on_plateau()), 30)
    assert all(state[-1].scale == 1 for _, state in adam)


def first_stop(tx, patience):
    """The step before which early stopping gives up."""
    best, since, x = np.inf, 0, 3.0
    for t, (after, _) in enumerate(steps_of(tx, 30), 1):
        best, since = (square(x), 0) if square(x) < best else (best, since + 1)
        if since == patience:
            return t
        x = after
    return None


def test_early_stopping():
    """At patience 5 it stops before update 6, with patience + n or n=1 not at all."""
    assert first_stop(adashift(0.01), 5) == 6
    assert first_stop(adashift(0.01), 5 + 10) is None
    assert first_stop(adashift(0.01, n=1), 5) is None
    assert first_stop(optax.adam(0.01), 5) is None


def solved(tx):
    """The step after which a solver takes a small step with a small change of f for the end.

    Optimistix's rule; before the first step its f is infinite.
    """
    x, f = 3.0, np.inf
    for t, (after, _) in enumerate(steps_of(tx, 30), 1):
        if abs(after - x) < 1e-6 and abs(square(x) - f) < 1e-6:
            return t
        x, f = after, square(x)
    return None


def test_a_solver_that_ends_on_a_small_step():
    """It returns the start, as a success. With n=1 it goes on."""
    assert solved(adashift(0.01)) == 2
    assert solved(adashift(0.01, n=2)) == 2
    assert solved(adashift(0.01, n=1)) is None
    assert solved(optax.adam(0.01)) is None


@pytest.mark.parametrize(("n", "k"), [(10, 4), (3, 2), (1, 4)])
def test_multi_steps(n, k):
    """n k calls without an update, and k - 1 more that only accumulate, as every k do."""
    tx = optax.MultiSteps(adashift(0.1, n), k)
    params = jnp.ones(2)
    state, update = tx.init(params), jax.jit(tx.update)
    moved = []
    for _ in range(n * k + 2 * k):
        updates, state = update(params, state, params)
        moved.append(bool(np.any(updates)))
    assert moved == [(t > n * k and t % k == 0) for t in range(1, n * k + 2 * k + 1)]


VARIANTS = {"max": {}, "n=1": {"n": 1}, "none": {"phi": "none"}, "hopping": {"window": "hopping"}}


def first_step(tx, frozen):
    """The largest element of the first update that is not 0, after `frozen` gradients of 0."""
    rng = np.random.default_rng(0)
    params = jnp.ones(8)
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(frozen + 20):
        g = rng.standard_normal(8) if t >= frozen else np.zeros(8)
        updates, state = update(jnp.float32(g), state, params)
        if np.any(updates):
            return float(jnp.max(jnp.abs(updates)))
    raise AssertionError


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_thawed_after_300_steps(variant):
    """Its first step: sqrt((1 - b2^301) / (1 - b2)) times that of a new optimizer, if unclipped."""
    kwargs = VARIANTS[variant]
    fresh, thawed = (first_step(scale_by_adashift(**kwargs), t) for t in (0, 300))
    assert thawed / fresh == pytest.approx(np.sqrt((1 - 0.999**301) / 0.001), rel=1e-3)  # 16.1
    assert first_step(scale_by_adashift(**kwargs, clip_value=1.0), 300) <= 1


@pytest.mark.parametrize("make", [lambda rate: adashift(rate, 1), optax.adam])
def test_bfloat16_parameters_near_1_and_small_rates(make):
    """Between 1 and 2 they are 2^-7 apart: a step of less than half of that is rounded away."""
    for rate, moves in ((3.8e-3, False), (4.2e-3, True)):
        tx, params = make(rate), jnp.full(4, 1.5, jnp.bfloat16)
        state, p = tx.init(params), params
        for _ in range(20):
            updates, state = tx.update(params, state, p)
            p = optax.apply_updates(p, updates)
        assert p.dtype == jnp.bfloat16
        assert np.any(p != params) == moves


STATES = {**VARIANTS, "bfloat16": {"queue_dtype": "bfloat16"}, "factored": {"phi": "factored"}}


@pytest.mark.parametrize("variant", STATES)
def test_the_whole_state_in_host_memory_between_updates(variant):
    """There and back around each update: bit for bit the same."""
    tx = adashift(0.1, **{"n": 3, **STATES[variant]})
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    states, update = [tx.init(params)] * 2, jax.jit(tx.update)

    def move(state, kind):
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=kind)
        return jax.device_put(state, place)

    parked = move(states[1], "pinned_host")
    for seed in range(7):
        g = jax.tree.map(lambda p, s=seed: jax.random.normal(jax.random.key(s), p.shape), params)
        u, states[0] = update(g, states[0], params)
        v, state = update(g, move(parked, "device"), params)
        parked = move(state, "pinned_host")
        assert {x.sharding.memory_kind for x in jax.tree.leaves(parked)} == {"pinned_host"}
        jax.tree.map(assert_same_bits, u, v)


def test_a_state_restored_without_a_template():
    """Dicts in the place of tuples: the error names what to restore into."""
    tx, params = scale_by_adashift(2), jnp.ones(2)
    plain = serialization.msgpack_restore(serialization.to_bytes(tx.init(params)))
    remedy = r"(?s)state must be .*got dict.*(restor|target|template).*init\(params\)"
    for state in (plain, list(tx.init(params))):
        with pytest.raises(TypeError, match=remedy.replace("dict", type(state).__name__)):
            tx.update(params, state)


@pytest.mark.parametrize(
    "kwargs", [{}, {"window": "hopping"}, {"b1": 0}, {"block_axes": (0,)}], ids=str
)
@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**16), (3, 2**31)], ids=str)
@pytest.mark.parametrize("phi", ["max", "mean", "none", "factored"])
def test_leaves_of_2_to_the_31_and_more_elements(phi, shape, kwargs):
    """They can be traced, in every variant."""
    tx, params = scale_by_adashift(2, phi=phi, **kwargs), jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(tx.init, params)
    updates, new = jax.eval_shape(tx.update, params, state)
    assert updates.shape == shape
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize("shape", [(2**31,), (2**16, 2**17), (3, 2**31)], ids=str)
def test_the_mean_of_2_to_the_31_and_more_elements(shape):
    """Nothing so large is computed: it is what the sum is divided by in all."""
    traced = jax.make_jaxpr(lambda x: mean(x, None))(jax.ShapeDtypeStruct(shape, jnp.float32))
    (count,) = (float(e.invars[-1].val) for e in traced.eqns if e.primitive.name == "div")
    assert count == pytest.approx(np.prod(shape, dtype=float), rel=1e-6)


# What a paragraph or a row of a table of docs/contract.md or another page must have in it.
SAID = {
    "plateau": [r"reduce_on_plateau", r"step 11", r"n=1", r"patience"],
    "early stopping": [r"early stopping", r"patience", r"n=1"],
    "solver": [r"small step|optimistix", r"n=1"],
    "line search": [r"line search"],
    "MultiSteps": [r"MultiSteps", r"n (x|\u00d7|times|\*|\\times)? ?k"],
    "thawed": [r"thaw|unfroz|unfreez", r"\b16\b", r"clip_value"],
    "bfloat16 parameters": [r"bfloat16 parameters", r"4e-3|0\.004"],
    "host memory": [r"host memory|pinned_host", r"whole state"],
    "a parameter added": [r"(parameter|leaf) (that is )?added|add(ing|s)? a (parameter|leaf)"],
}


@pytest.mark.parametrize("surprise", SAID)
def test_the_documentation_says_so(surprise):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in pages)
    parts = [p for block in text.split("\n\n") for p in [block, *re.findall(r"(?m)^\|.*$", block)]]
    assert any(all(re.search(s, part, re.I) for s in SAID[surprise]) for part in parts)
