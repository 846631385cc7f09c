"""What the compiled program does with the state: in place, no recompilation, stable types."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import adafactors, compile_donated, train_step

from adashift_optax import ScaleByAdashiftState, scale_by_adashift, state_bytes

LEAF = (256, 512)  # 512 KiB in float32
LEAF_BYTES = 4 * 256 * 512


def tree(dtype=jnp.float32):
    return {"w": jnp.ones(LEAF, dtype), "b": jnp.ones(LEAF[1:], dtype)}


def temporary_bytes(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


def step_of(tx):
    """One donated step, compiled."""
    params = tree()
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes dtypes
        return compile_donated(train_step(tx), params, tx.init(params), params)


def loop_of(tx):
    """A donated loop of steps, compiled."""
    step, params = train_step(tx), tree()

    def loop(params, state, grads):
        def body(carry, x):  # other gradients in each step, so that nothing moves out of the loop
            return step(*carry, jax.tree.map(lambda g: g + x, grads)), None

        return jax.lax.scan(body, (params, state), jnp.arange(25.0))[0]

    with jax.numpy_dtype_promotion("standard"):
        return compile_donated(loop, params, tx.init(params), params)


@functools.cache
def temporary_bytes_of_adam(program, wrap=lambda tx: tx):
    return temporary_bytes(program(wrap(optax.scale_by_adam())))


VARIANTS = {
    "max": {},
    "mean": {"phi": "mean"},
    "none": {"phi": "none"},
    "factored": {"phi": "factored"},
    "axes": {"block_axes": (-1,)},
    "b1_0": {"b1": 0},
    "none_b1_0": {"phi": "none", "b1": 0},
    "clip": {"phi": "none", "clip_value": 1.0},
    "hopping": {"window": "hopping"},
    "hopping_none": {"window": "hopping", "phi": "none"},
    "hopping_none_b1_0": {"window": "hopping", "phi": "none", "b1": 0},
    "hopping_factored": {"window": "hopping", "phi": "factored"},
    "bfloat16": {"queue_dtype": "bfloat16"},
    "float16_none": {"queue_dtype": "float16", "phi": "none"},
    "float8": {"queue_dtype": "float8_e4m3fn"},
    "mu_bfloat16": {"mu_dtype": "bfloat16"},
    "hopping_mu_bfloat16": {"window": "hopping", "mu_dtype": "bfloat16"},
    "hopping_none_b2": {"window": "hopping", "phi": "none", "b2": adafactors},
    "warm": {"warm_start": True},
    "warm_none": {"phi": "none", "warm_start": True},
    "warm_hopping_none": {"window": "hopping", "phi": "none", "warm_start": True},
    "ema": {"window": "ema"},
    "ema_none": {"window": "ema", "phi": "none"},
    "ema_outputs_b2": {
        "window": "ema",
        "phi": "mean",
        "block_axes": "outputs",
        "b2": adafactors,
    },
    "warm_ema_factored": {
        "window": "ema",
        "phi": "factored",
        "mu_dtype": "bfloat16",
        "warm_start": True,
    },
}


# Every layout that a field of the state has: enough for what only carries the state along.
LAYOUTS = ("max", "axes", "b1_0", "hopping_factored", "hopping_none", "float16_none")
LAYOUTS += ("ema_none", "ema_outputs_b2")


@pytest.mark.parametrize(
    ("variant", "n"),
    [*itertools.product(VARIANTS, (1, 2, 10)), *((layout, 40) for layout in LAYOUTS)],
)
def test_donated_step_is_in_place(variant, n):
    """Less than a tenth of one slot is temporary: no copy of the queue, nor of one leaf.

    But XLA on CPU copies a v that it reads and replaces where it stores nothing else as large: with
    n = 1 and without momentum. State and copy are then what a ring of one slot and v would be.
    """
    tx = scale_by_adashift(n, **VARIANTS[variant])
    temporary = temporary_bytes(step_of(tx))
    if n == 1 and VARIANTS[variant].get("phi") == "none" and tx.init(tree()).mu is None:
        assert temporary + state_bytes(tx, tree()) < 2.02 * LEAF_BYTES
    else:
        assert temporary < LEAF_BYTES / 10


def test_the_assertion_on_temporaries_can_fail():
    """Reading the oldest slot before overwriting it is the form that XLA copies."""

    def read_then_write(ring, mu, g):
        old = jax.lax.dynamic_index_in_dim(ring, g[0, 0].astype(jnp.int32), 0, keepdims=False)
        ring = jax.lax.dynamic_update_index_in_dim(ring, g, g[0, 0].astype(jnp.int32), 0)
        return ring, mu + g - old

    g = tree()["w"]
    compiled = compile_donated(read_then_write, jnp.zeros((10, *LEAF)), g, g)
    assert temporary_bytes(compiled) > 5 * LEAF_BYTES


@pytest.mark.parametrize("variant", VARIANTS)
def test_scan_needs_no_more_than_around_adam(variant):
    """Beside what Adam's loop needs only the gradient, which a reduction reads as well as the
    update; with phi="none" not even that. Never the queue."""
    compiled = loop_of(scale_by_adashift(10, **VARIANTS[variant]))
    gradient = LEAF_BYTES * (VARIANTS[variant].get("phi") != "none" or variant == "float16_none")
    more = gradient + LEAF_BYTES / 100
    assert temporary_bytes(compiled) <= temporary_bytes_of_adam(loop_of) + more


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.masked(tx, {"w": True, "b": False}),
        lambda tx: optax.inject_hyperparams(lambda scale: optax.chain(tx, optax.scale(scale)))(0.1),
        lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    ],
    ids=["apply_if_finite", "masked", "inject_hyperparams", "chain"],
)
@pytest.mark.parametrize("variant", LAYOUTS)
def test_wrappers_add_no_more_than_they_add_to_adam(wrap, variant):
    compiled = step_of(wrap(scale_by_adashift(10, **VARIANTS[variant])))
    assert temporary_bytes(compiled) <= temporary_bytes_of_adam(step_of, wrap) + 2 * LEAF_BYTES


# Bytes per parameter: slots, m and v. With bfloat16 parameters all are the same.
BYTES = [
    (48, {}),
    (26, {"queue_dtype": "bfloat16"}),
    (15, {"queue_dtype": "float8_e5m2"}),
    (52, {"phi": "none"}),
    (0, {"b1": 0}),
    (0, {"b1": 0, "phi": "factored"}),
    (4, {"b1": 0, "phi": "none", "n": 1}),
    *((8, {"window": "hopping", "n": n}) for n in (2, 10, 40, 1000)),
    *((20, {"window": "hopping", "phi": "none", "n": n}) for n in (2, 10, 40, 1000)),
    (8, {"window": "hopping", "phi": "factored"}),
    (4, {"window": "ema"}),
    (4, {"window": "ema", "phi": "factored"}),
    (4, {"window": "ema", "phi": "mean", "block_axes": "outputs"}),
    (8, {"window": "ema", "phi": "none", "n": 1}),
    (24, {"window": "ema", "phi": "none", "n": 3}),
]
# With a bfloat16 m: 2 less for each mean.
NARROW_MEANS = [
    (46, {}),
    (4, {"window": "hopping"}),
    (2, {"window": "ema"}),
    (2, {"window": "ema", "phi": "factored"}),
    (2, {"window": "ema", "phi": "mean", "block_axes": "outputs"}),
    (6, {"window": "ema", "phi": "none", "n": 1}),
    (22, {"window": "ema", "phi": "none", "n": 3}),
]
BYTES += [(size, {**kwargs, "mu_dtype": "bfloat16"}) for size, kwargs in NARROW_MEANS]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_of_state(dtype):
    """Beside them a few numbers per leaf, or per row and column."""
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), dtype) for i in range(8)}
    params |= {f"b{i}": jax.ShapeDtypeStruct((1024,), dtype) for i in range(8)}
    size = sum(p.size for p in params.values())
    for wanted, kwargs in BYTES:
        found = state_bytes(scale_by_adashift(**{"n": 10, **kwargs}), params) / size
        few = 0.2 if kwargs.get("phi") == "factored" else 0.1
        assert wanted <= found <= wanted + few, kwargs
    of_adam = {"float32": 8, "bfloat16": 4}[dtype]  # it holds all in the dtype of the parameters
    assert state_bytes(optax.scale_by_adam(), params) == of_adam * size + 4
    real = {"w": jnp.ones((3, 4))}
    held = sum(x.nbytes for x in jax.tree.leaves(scale_by_adashift(3).init(real)))
    assert state_bytes(scale_by_adashift(3), real) == held


def test_fields_as_documented():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}
    state = scale_by_adashift(5).init(params)
    assert isinstance(state, ScaleByAdashiftState)
    assert (state.count.dtype, *(x.dtype for x in state.clock.values())) == (jnp.int32, jnp.int32)
    assert (state.nu[0].shape, state.nu_queue[0].shape) == ((2,), (6, 2))
    assert (state.mu["a"].shape, state.queue["a"].shape) == ((2, 3), (6, 2, 3))
    state = scale_by_adashift(5, block_axes=(-1,), b1=0).init(params)
    assert (state.mu, state.queue) == (None, None)
    assert (state.nu["a"].shape, state.nu_queue["a"].shape) == ((2, 1), (6, 2, 1))
    state = scale_by_adashift(1, phi="none").init(params)
    assert (state.mu, state.queue, state.nu_queue) == (None, None, None)
    assert (state.nu["a"].shape, state.log_b2) == ((2, 3), None)
    state = scale_by_adashift(1, window="ema", mu_dtype="float16", b2=adafactors).init(params)
    assert (state.queue, state.nu_queue) == (None, None)
    assert (state.mu["a"].shape, state.mu["a"].dtype) == ((2, 3), jnp.float16)
    assert (state.nu[0].shape, state.log_b2.shape, state.log_b2.dtype) == ((2,), (), jnp.float32)
    state = scale_by_adashift(2, window="ema", phi="none", warm_start=True).init(params)
    assert (state.mu["a"].shape, state.queue["a"].shape) == ((2, 3), (3, 2, 3))
    state = scale_by_adashift(2, mu_dtype="bfloat16", window="hopping").init(params)
    assert [m["a"].dtype for m in state.mu] == [jnp.bfloat16] * 2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype"),
    [
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float64", "float64"),
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
        ("float32", "float64"),
        ("float64", "float16"),
    ],
)
def test_types_never_change(variant, param_dtype, grad_dtype):
    """Same dtype, weak type, shape and sharding after init and after update; one compilation."""
    with jax.enable_x64("float64" in (param_dtype, grad_dtype)):
        params, grads = tree(param_dtype), tree(grad_dtype)
        tx = scale_by_adashift(2, **VARIANTS[variant])
        first = state = tx.init(params)
        update = jax.jit(tx.update)
        for _ in range(4):
            updates, state = update(grads, state, params)
            assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, first)
            shardings = [jax.tree.map(lambda x: x.sharding, s) for s in (state, first)]
            assert shardings[0] == shardings[1]
            with jax.numpy_dtype_promotion("standard"):
                assert updates["w"].dtype == jnp.promote_types(param_dtype, grad_dtype)
        assert update._cache_size() == 1
        assert not any(jax.typeof(x).weak_type for x in jax.tree.leaves(state))
        wide = jax.tree.leaves(state._replace(queue=None, mu=None))
        assert all(x.dtype.itemsize >= 4 for x in wide)
        mu_dtype = VARIANTS[variant].get("mu_dtype")
        for m in jax.tree.leaves(state.mu):
            assert m.dtype == mu_dtype if mu_dtype else m.dtype.itemsize >= 4
        np.testing.assert_allclose(np.asarray(updates["w"], np.float64), 1, rtol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_state_can_be_donated(variant):
    """No two arrays of it share a buffer."""
    tx = scale_by_adashift(2, **VARIANTS[variant])
    params = tree()
    state = jax.jit(lambda g, s: tx.update(g, s)[1], donate_argnums=1)(params, tx.init(params))
    assert state.count == 1
