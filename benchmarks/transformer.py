"""A small byte-level transformer on the text of Python's own standard library, in flax NNX."""

import sysconfig
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx

from adashift_optax import scale_by_adashift
from benchmarks.cases import PROGRAMS, TRAINING, Case, beside_adam
from benchmarks.programs import Make, compilation, random_like
from benchmarks.timing import Program, Run
from benchmarks.variants import ADAM_MOVES, adashift

BATCH_SIZE, CONTEXT = 32, 64
VOCABULARY = 256
TEXT_BYTES = 4_000_000


class Block(nnx.Module):
    """Attention and a perceptron, each on normalized input and added to it."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Return the activations after this layer."""
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Predicts the next byte. By default 2 layers of width 128: 0.47 million parameters."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 2, width: int = 128) -> None:
        self.tokens = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the logits of the byte after each of `tokens`, (batch, context, 256)."""
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[-1]))
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


def parameter_shapes(layers: int, width: int) -> Any:
    """The shapes of the parameters of a transformer, as a tree of nested dicts."""
    model = nnx.eval_shape(lambda: Transformer(nnx.Rngs(0), layers, width))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


@cache
def text() -> jax.Array:
    """The first megabytes of the standard library's source, file by file, as bytes."""
    size, parts = 0, []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts.append(path.read_bytes())
        size += len(parts[-1])
        if size >= TEXT_BYTES:
            break
    return jnp.asarray(np.frombuffer(b"".join(parts), np.uint8))


def training(optimizer: optax.GradientTransformation) -> Program:
    """The training step on random excerpts of the text, parameters and state donated."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimizer, optax.scale(-1e-3))
    graphdef, params, rest = nnx.split(Transformer(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params: Any, rest: Any, excerpts: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, params, rest)(excerpts[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, excerpts[:, 1:])
        return losses.mean()

    def step(carry: Any, text: jax.Array, rest: Any) -> Any:
        params, state, key, _ = carry
        key, subkey = jax.random.split(key)
        starts = jax.random.randint(subkey, (BATCH_SIZE, 1), 0, len(text) - CONTEXT)
        excerpts = text[starts + jnp.arange(CONTEXT + 1)].astype(jnp.int32)
        loss, grads = jax.value_and_grad(loss_fn)(params, rest, excerpts)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, key, loss

    carry = params, jax.jit(tx.init)(params), jax.random.key(0), jnp.zeros([])
    return Program(step, carry, text(), rest)


def many_leaves() -> list[Case]:
    """A step of the optimizer alone on the parameters of a deeper transformer; compiling it."""
    ours = adashift("max")
    shapes = parameter_shapes(layers=18, width=144)
    leaves = jax.tree.leaves(shapes)
    size = sum(leaf.size for leaf in leaves)
    step = beside_adam(
        PROGRAMS,
        f"{len(leaves)} leaves of a transformer",
        ours,
        grads=partial(random_like, shapes),
        reach=1.3,
        stretch=1.1,
        moved=ADAM_MOVES,
        parameters=size,
    )

    def compilations() -> list[Run]:
        return [compilation(make, shapes) for make in (optax.scale_by_adam, ours)]

    compiling = Case(
        group=PROGRAMS,
        name=f"compiling the step of {len(leaves)} leaves",
        build=compilations,
        compiles=True,
        reach=2.0,
        stretch=1.3,
    )
    return [step, compiling]


def end_to_end() -> list[Case]:
    """Training the transformer."""
    optimizers = {
        "max, n=10": adashift("max"),
        "max, hopping, n=20": adashift("max, hopping", 20),
        "none, n=3, clipped to 1": partial(scale_by_adashift, 3, phi="none", clip_value=1.0),
        "factored, n=3": adashift("factored", 3),
        "AMSGrad": optax.scale_by_amsgrad,
        "ADOPT": optax.contrib.scale_by_adopt,
    }

    @cache
    def adam() -> Program:
        return training(optax.scale_by_adam())

    def build(make: Make) -> list[Run]:
        return [adam(), training(make())]

    return [
        Case(group=TRAINING, name=name, build=partial(build, make), speed=True)
        for name, make in optimizers.items()
    ]
