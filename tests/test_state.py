"""What the compiled program does with the state: in place, no recompilation, stable types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import compile_donated, train_step

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
}


# Every layout that a field of the state has: enough for what only carries the state along.
LAYOUTS = ("max", "axes", "b1_0", "hopping_factored", "hopping_none", "float16_none")


@pytest.mark.parametrize("n", [1, 2, 10, 40])
@pytest.mark.parametrize("variant", VARIANTS)
def test_donated_step_is_in_place(variant, n):
    """Less than a tenth of one slot is temporary: no copy of the queue, nor of one leaf."""
    compiled = step_of(scale_by_adashift(n, **VARIANTS[variant]))
    assert temporary_bytes(compiled) < LEAF_BYTES / 10


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
    gradient = LEAF_BYTES * (VARIANTS[variant].get("phi") != "none" or "float16" in variant)
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


def test_bytes_of_state():
    """Bytes per parameter: slots, m and v, and beside them a few numbers per leaf."""
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(8)}
    params |= {f"b{i}": jax.ShapeDtypeStruct((1024,), jnp.float32) for i in range(8)}
    size = sum(p.size for p in params.values())

    def per_parameter(n=10, **kwargs):
        return state_bytes(scale_by_adashift(n, **kwargs), params) / size

    assert 48 <= per_parameter() <= 48.1
    assert 26 <= per_parameter(queue_dtype="bfloat16") <= 26.1
    assert 15 <= per_parameter(queue_dtype="float8_e5m2") <= 15.1
    assert 52 <= per_parameter(phi="none") <= 52.1
    assert per_parameter(b1=0) <= 0.1
    assert 8 <= per_parameter(1, b1=0, phi="none") <= 8.1
    for n in (2, 10, 40, 1000):
        assert 8 <= per_parameter(n, window="hopping") <= 8.1
        assert 20 <= per_parameter(n, window="hopping", phi="none") <= 20.1
    assert 8 <= per_parameter(window="hopping", phi="factored") <= 8.2
    assert per_parameter(b1=0, phi="factored") <= 0.2
    assert state_bytes(optax.scale_by_adam(), params) == 8 * size + 4
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
    assert (state.mu, state.nu_queue) == (None, None)
    assert (state.nu["a"].shape, state.queue["a"].shape) == ((2, 3), (1, 2, 3))


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
        wide = jax.tree.leaves(state._replace(queue=None))
        assert all(x.dtype.itemsize >= 4 for x in wide)
        np.testing.assert_allclose(np.asarray(updates["w"], np.float64), 1, rtol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_state_can_be_donated(variant):
    """No two arrays of it share a buffer."""
    tx = scale_by_adashift(2, **VARIANTS[variant])
    params = tree()
    state = jax.jit(lambda g, s: tx.update(g, s)[1], donate_argnums=1)(params, tx.init(params))
    assert state.count == 1
