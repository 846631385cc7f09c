"""block_axes="outputs": one v for each output of a layer, in models of Flax and Equinox."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import run, worst_error
from flax import nnx

from adashift_optax import adashift, scale_by_adashift

# For each array of a model its axes over which an output sums, and so the shape of its v.
D, HEADS, HEAD, OUT, L = 6, 2, 3, 5, 4


class Linen(linen.Module):
    """One layer of each kind, and a stack of two that scan makes."""

    @linen.compact
    def __call__(self, tokens, image):
        x = linen.Embed(11, D, name="embed")(tokens)
        x = linen.MultiHeadDotProductAttention(HEADS, name="attention")(x, x)
        x = linen.LayerNorm(name="norm")(x)
        stack = linen.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=L
        )
        x, _ = stack(name="stack")(x, None)
        x = linen.Dense(OUT, name="head")(x)
        y = linen.Conv(OUT, (3, 2), name="conv")(image)
        return jnp.sum(x) + jnp.sum(linen.BatchNorm(use_running_average=False, name="bn")(y))


class Layer(linen.Module):
    """Attention and a dense layer, as scan wants them."""

    @linen.compact
    def __call__(self, x, _):
        x = linen.MultiHeadDotProductAttention(HEADS, name="attention")(x, x)
        return linen.Dense(D, name="dense")(x), None


WANTED = {  # of Linen; those of a stack have the L layers in front
    "embed/embedding": (11, 1),
    "attention/query/kernel": (1, HEADS, HEAD),
    "attention/key/kernel": (1, HEADS, HEAD),
    "attention/value/kernel": (1, HEADS, HEAD),
    "attention/query/bias": (1, 1),
    "attention/out/kernel": (1, 1, D),
    "attention/out/bias": (1,),
    "norm/scale": (1,),
    "norm/bias": (1,),
    "stack/attention/query/kernel": (L, 1, HEADS, HEAD),
    "stack/attention/value/bias": (L, 1, 1),
    "stack/attention/out/kernel": (L, 1, 1, D),
    "stack/attention/out/bias": (L, 1),
    "stack/dense/kernel": (L, 1, D),
    "stack/dense/bias": (L, 1),
    "head/kernel": (1, OUT),
    "head/bias": (1,),
    "conv/kernel": (1, 1, 1, OUT),
    "conv/bias": (1,),
    "bn/scale": (1,),
}


def shapes(tx, params):
    """The shape of v for each array of `params`, by its path."""
    nu = optax.tree.get(tx.init(params), "nu")
    leaves = jax.tree_util.tree_leaves_with_path(nu)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in leaves}


def test_linen():
    model = Linen()
    params = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 7), int), jnp.zeros((1, 8, 8, 3))
    )["params"]
    found = shapes(outputs(), jax.tree.map(lambda p: jnp.zeros(p.shape), params))
    assert {name: found[name] for name in WANTED} == WANTED


class Nnx(nnx.Module):
    """The same in nnx, whose scan stacks what vmap has made."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, D, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, D, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(D, rngs=rngs)
        make = nnx.vmap(lambda rngs: nnx.Linear(D, D, rngs=rngs))
        self.experts = make(rngs.split(L))
        self.conv = nnx.Conv(3, OUT, (3, 2), rngs=rngs)


def test_nnx():
    optimizer = nnx.Optimizer(Nnx(nnx.Rngs(0)), outputs(), wrt=nnx.Param)
    nu = nnx.to_pure_dict(nnx.state(optimizer.opt_state))
    nu = optax.tree.get_all_with_path(nu, "nu")[0][1]
    found = {
        jax.tree_util.keystr(k, simple=True, separator="/"): np.shape(v)
        for k, v in jax.tree_util.tree_leaves_with_path(nu)
    }
    for name in ("embed/embedding", "attention/query/kernel", "attention/out/kernel", "norm/scale"):
        assert found[name] == WANTED[name]
    assert found["attention/key/bias"] == (1, 1)
    assert found["experts/kernel"] == (L, 1, D)
    assert found["experts/bias"] == (L, 1)
    assert found["conv/kernel"] == (1, 1, 1, OUT)


def test_equinox():
    """Its weights are [out, in, ...]."""
    keys = jax.random.split(jax.random.key(0), 3)
    model = {
        "linear": eqx.nn.Linear(D, OUT, key=keys[0]),
        "conv": eqx.nn.Conv2d(3, OUT, 2, key=keys[1]),
        "embedding": eqx.nn.Embedding(11, D, key=keys[2]),
    }
    found = shapes(outputs(), eqx.filter(model, eqx.is_array))
    assert found["linear/weight"] == (OUT, 1)
    assert found["linear/bias"] == (1,)
    assert found["conv/weight"] == (OUT, 1, 1, 1)
    assert found["embedding/weight"] == (11, 1)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), None), ((4,), None), ((3, 4), (0,)), ((2, 3, 4), (1,)), ((2, 3, 2, 4), (0, 1, 2))],
)
def test_arrays_without_names_equal_reference(shape, axes, x64):
    rng = np.random.default_rng(0)
    grads = [{"x": rng.standard_normal(shape)} for _ in range(9)]
    updates = run(outputs(n=2), grads)
    assert worst_error(updates, grads, "x", 2, 0.9, 0.999, 1e-10, "mean", axes=axes) < 1e-12


def outputs(n=1):
    return scale_by_adashift(n, phi="mean", block_axes="outputs")


def test_it_is_the_mean_of_adam_mini(x64):
    """Without the delay: v of a step is that of Adam-mini's rows after the step before."""
    rng = np.random.default_rng(0)
    grads = [{"kernel": rng.standard_normal((3, 4))} for _ in range(6)]
    tx = adashift(1.0, 1, 0, 0.9, 0.0, phi="mean", block_axes="outputs")
    v = np.zeros(4)
    for t, u in enumerate(run(tx, grads)):
        if t:
            want = -grads[t]["kernel"] / np.sqrt(v / (1 - 0.9**t))
            np.testing.assert_allclose(u["kernel"], want, rtol=1e-12)
        v = 0.9 * v + 0.1 * np.mean(grads[t]["kernel"] ** 2, 0)
