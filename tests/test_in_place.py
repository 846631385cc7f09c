"""What the compiled step does with memory, on CPU: the state is updated in place."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
import settings
from common import compile_donated, train_step
from settings import LEAF

LEAF_BYTES = 4 * LEAF[0] * LEAF[1]


def temporary_bytes(compiled):
    return compiled.memory_analysis().temp_size_in_bytes


CASES = [
    pytest.param(name, marks=() if name in settings.LAYOUTS else pytest.mark.slow)
    for name in settings.SETTINGS
]


@pytest.mark.parametrize("name", CASES)
def test_donated_step_is_in_place(name):
    """Less than a tenth of a leaf is temporary: no copy of the queue, nor of one leaf."""
    assert temporary_bytes(settings.step(name)) < LEAF_BYTES / 10


# Of what is compiled many times over, the others are for `make test-all`.
FEW = ("max", "none bfloat16", "factored")
FIRST = [
    pytest.param(name, marks=pytest.mark.slow if name in FEW else pytest.mark.all_only)
    for name in settings.LAYOUTS
]


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("params", ["bfloat16", "float32"])
def test_a_donated_step_widens_no_whole_gradient(name, params):
    """Of bfloat16 gradients, through the public names, nothing as large as a leaf is stored."""
    assert temporary_bytes(settings.step(name, params, "bfloat16")) < LEAF_BYTES / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_float16_gradients(name):
    """A sum or maximum of XLA on CPU reads no float16: it stores a gradient in float32."""
    least = 0 if name == "none bfloat16" else LEAF_BYTES
    found = temporary_bytes(settings.step(name, "float32", "float16"))
    assert least <= found < least + LEAF_BYTES / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max", "factored"])
@pytest.mark.parametrize("grads", ["float32", "bfloat16"])
def test_with_weight_decay(name, grads):
    assert temporary_bytes(settings.step(name, "float32", grads, 0.1)) < LEAF_BYTES / 10


def tree():
    return {"w": jnp.ones(LEAF), "b": jnp.ones(LEAF[1:])}


def test_the_assertion_on_temporaries_can_fail():
    """Reading the oldest slot before overwriting it is the form that XLA copies."""

    def read_then_write(ring, mu, g):
        slot = g[0, 0].astype(jnp.int32)
        old = jax.lax.dynamic_index_in_dim(ring, slot, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(ring, g, slot, 0), mu + g - old

    g = tree()["w"]
    compiled = compile_donated(read_then_write, jnp.zeros((10, *LEAF)), g, g)
    assert temporary_bytes(compiled) > 5 * LEAF_BYTES


def loop_of(tx):
    """A donated loop of steps, compiled."""
    step, params = train_step(tx), tree()

    def loop(params, state, grads):
        def body(carry, x):  # other gradients in each step, so that nothing moves out of the loop
            return step(*carry, jax.tree.map(lambda g: g + x, grads)), None

        return jax.lax.scan(body, (params, state), jnp.arange(25.0))[0]

    return compile_donated(loop, params, tx.init(params), params)


def step_of(tx):
    params = tree()
    return compile_donated(train_step(tx), params, tx.init(params), params)


WRAPPERS = {
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False}),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(
        lambda scale: optax.chain(tx, optax.scale(scale))
    )(0.1),
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
}


@functools.cache
def of_adam(program, wrapper="chain"):
    adam = optax.scale_by_adam()
    return temporary_bytes(program(adam if program is loop_of else WRAPPERS[wrapper](adam)))


@pytest.mark.parametrize("name", [case for case in FIRST if case.values != ("axes",)])
def test_scan_needs_no_more_than_around_adam(name, standard_promotion):
    """Beside what Adam's loop needs only the gradient, which a reduction reads as well as the
    update, and a few numbers of each row and column. Never the queue."""
    compiled = loop_of(settings.scale_by(name))
    assert temporary_bytes(compiled) <= of_adam(loop_of) + 1.02 * LEAF_BYTES


@pytest.mark.all_only
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", [name for name in settings.LAYOUTS if name != "axes"])
def test_wrappers_add_no_more_than_they_add_to_adam(name, wrapper, standard_promotion):
    compiled = step_of(WRAPPERS[wrapper](settings.scale_by(name)))
    assert temporary_bytes(compiled) <= of_adam(step_of, wrapper) + 2 * LEAF_BYTES
