"""The state: its size, its fields, its types, and one compilation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import settings
from common import in_64_bits

from adashift_optax import (
    STATIC_ARGS,
    ScaleByAdashiftFactoredState,
    ScaleByAdashiftState,
    adashift,
    adashift_factored,
    scale_by_adashift,
    scale_by_adashift_factored,
    state_bytes,
)

# Bytes per parameter, and the settings that have them, with n = 10: slots, m and v.
BYTES = [
    (48, scale_by_adashift, {}),
    (48, scale_by_adashift, {"phi": "mean", "block_axes": (0,)}),
    (26, scale_by_adashift, {"queue_dtype": "bfloat16"}),
    (52, scale_by_adashift, {"phi": "none"}),
    (0, scale_by_adashift, {"b1": 0}),
    (0, scale_by_adashift, {"n": 1}),
    (12, scale_by_adashift, {"phi": "none", "n": 1}),
    (4, scale_by_adashift_factored, {}),
    (2, scale_by_adashift_factored, {"mu_dtype": "bfloat16"}),
    (0, scale_by_adashift_factored, {"b1": 0}),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_of_state(dtype):
    """Beside them a few numbers per leaf, or per row and column. Whatever the parameters are."""
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), dtype) for i in range(8)}
    params |= {f"b{i}": jax.ShapeDtypeStruct((1024,), dtype) for i in range(8)}
    size = sum(p.size for p in params.values())
    for wanted, make, kwargs in BYTES:
        found = state_bytes(make(**kwargs), params) / size
        assert wanted <= found <= wanted + 0.1, kwargs
    of_adam = {"float32": 8, "bfloat16": 4}[dtype]  # it holds all in the dtype of the parameters
    assert state_bytes(optax.scale_by_adam(), params) == of_adam * size + 4
    real = {"w": jnp.ones((3, 4))}
    held = sum(x.nbytes for x in jax.tree.leaves(scale_by_adashift(n=3).init(real)))
    assert state_bytes(scale_by_adashift(n=3), real) == held


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype.name), tree)


def test_fields_of_the_paper_as_documented():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}
    state = scale_by_adashift(n=5).init(params)
    assert isinstance(state, ScaleByAdashiftState)
    assert shapes((state.count, state.slot)) == (((), "int32"), ((), "int32"))
    assert shapes(state.nu) == (((2,), "float32"),)
    assert shapes(state.nu_queue) == (((6, 2), "float32"),)
    assert shapes(state.mu) == {"a": ((2, 3), "float32"), "b": ((4,), "float32")}
    assert shapes(state.queue) == {"a": ((6, 2, 3), "float32"), "b": ((6, 4), "float32")}
    state = scale_by_adashift(n=5, block_axes=(-1,), b1=0).init(params)
    assert (state.mu, state.queue) == (None, None)
    assert shapes(state.nu) == {"a": ((2, 1), "float32"), "b": ((1,), "float32")}
    assert shapes(state.nu_queue)["a"] == ((6, 2, 1), "float32")
    state = scale_by_adashift(n=1, phi="none", queue_dtype="bfloat16").init(params)
    assert (state.mu, state.nu_queue) == (None, None)
    assert shapes(state.nu)["a"] == ((2, 3), "float32")
    assert [x.dtype for x in jax.tree.leaves(state.queue)] == [jnp.uint16] * 2
    # The numbers of 10 leaves are two vectors.
    many = scale_by_adashift(b1=0).init([np.ones(2, np.float16)] * 10)
    assert shapes(many.nu) == (((8,), "float32"), ((2,), "float32"))


def test_fields_of_the_factored_rule_as_documented():
    params = {"a": jnp.ones((5, 2, 3)), "b": jnp.ones(4), "c": jnp.ones(())}
    state = scale_by_adashift_factored().init(params)
    assert isinstance(state, ScaleByAdashiftFactoredState)
    assert shapes(state.rows) == {
        "a": ((5, 2, 1), "float32"),
        "b": ((4,), "float32"),
        "c": ((), "float32"),
    }
    of_others = dict.fromkeys("bc", ((), "float32"))
    assert shapes(state.columns) == {"a": ((5, 1, 3), "float32"), **of_others}
    assert shapes(state.means) == {"a": ((5, 1, 1), "float32"), **of_others}
    assert scale_by_adashift_factored(b1=0, mu_dtype="bfloat16").init(params).mu is None
    narrow = scale_by_adashift_factored(mu_dtype=jnp.bfloat16).init(params).mu
    assert {m.dtype.name for m in jax.tree.leaves(narrow)} == {"bfloat16"}


@pytest.mark.parametrize("name", settings.LAYOUTS)
def test_one_compilation(name):
    """From init on no type of the state changes; and no two arrays of it share a buffer.

    Of a shared buffer the donation would fail.
    """
    tx = settings.optimizer(name)
    params = {leaf: jnp.ones(shape) for leaf, shape in (("w", (3, 2)), ("x", (2, 2)))}
    state = tx.init(params)
    types, places = (jax.tree.map(f, state) for f in (jax.typeof, lambda x: x.sharding))
    chex.clear_trace_counter()  # it counts by the name of the function

    @functools.partial(jax.jit, donate_argnums=1)
    @chex.assert_max_traces(n=1)
    def step(grads, state):
        return tx.update(grads, state, params)

    for _ in range(3):
        _, state = step(params, state)
        assert jax.tree.map(jax.typeof, state) == types
    assert not any(jax.typeof(x).weak_type for x in jax.tree.leaves(state))
    assert jax.tree.map(lambda x: x.sharding, state) == places
    chex.assert_tree_all_finite(state)


@pytest.mark.parametrize(("make", "static"), [(adashift, STATIC_ARGS), (adashift_factored, ())])
def test_nothing_of_a_trace_outlives_it(make, static):
    """Also where b1, b2 and eps are traced, each time anew."""
    tx = optax.inject_hyperparams(make, static_args=static)(0.1)
    params = {"w": jnp.ones((3, 2))}
    with jax.checking_leaks(), jax.numpy_dtype_promotion("standard"):
        state = jax.jit(tx.init)(params)
        for _ in range(2):
            _, state = jax.jit(lambda g, state: tx.update(g, state, params))(params, state)
    assert state.count == 2


PAIRS = [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]
PAIRS += [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float64")]
PAIRS += [("float32", "float64"), ("float64", "float16")]


OTHERS = [name for name in settings.SETTINGS if name not in settings.LAYOUTS]


@pytest.mark.parametrize(
    "name", [*settings.LAYOUTS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_types_never_change(name):
    """For each dtype of parameters beside each of gradients. The state is float32 or wider."""
    tx = settings.optimizer(name)
    for param_dtype, grad_dtype in PAIRS:
        with in_64_bits("float64" in (param_dtype, grad_dtype)):
            with jax.numpy_dtype_promotion("standard"):
                wider = jnp.promote_types(param_dtype, grad_dtype)
                p, g = (
                    {"matrix": jax.ShapeDtypeStruct((3, 4), dtype)}
                    for dtype in (param_dtype, grad_dtype)
                )
                state = jax.eval_shape(tx.init, p)
                updates, new = jax.eval_shape(tx.update, g, state, p)
                alone, _ = jax.eval_shape(tx.update, g, state)
            chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
            assert updates["matrix"].dtype == wider
            assert alone["matrix"].dtype == grad_dtype
            narrow = {"mu_dtype", "queue_dtype"} & settings.SETTINGS[name].keys()
            least = 2 if narrow else 8 if param_dtype == "float64" else 4
            for x in jax.tree.leaves(state):
                assert x.dtype.itemsize >= (4 if x.dtype == jnp.int32 else least)


@pytest.mark.slow
def test_trees_without_numbers():
    """None is a tree of no parameters; a leaf of size 0 is updated by one of size 0."""
    empty = np.ones((0, 3), np.float32)
    for params in (None, {}, {"a": None}, empty, [empty, None]):
        for name in ("max", "none", "b1=0", "bfloat16", "factored", "factored b1=0"):
            tx = settings.scale_by(name)
            state = tx.init(params)
            updates, new = jax.eval_shape(tx.update, params, state)
            assert jax.tree.structure(updates) == jax.tree.structure(params)
            assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
