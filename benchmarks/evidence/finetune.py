"""The large transformer on half b, and going on from where it ended on text of another kind."""

import fcntl
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence import language, text
from benchmarks.evidence.optimizers import adam
from benchmarks.evidence.task import Params, Task
from benchmarks.evidence.train import train

LARGE = partial(language.transformer_init, 2, 256)  # 1.73 million parameters
BATCH = 4
CACHE = Path("runs/evidence")
# What the checkpoint is trained with: Adam's defaults, and a seed that no other run has.
ROW, RATE, SEED = adam(0.9), 1e-3, 1


def large(name: str) -> Task:
    """Predicting the next byte of half b."""
    tokens = text.as_bytes("b")
    return language.language(name, LARGE, language.transformer, tokens, 1500, BATCH)


def finetune(name: str) -> Task:
    """Predicting the next byte of C headers, from the checkpoint on."""
    leaves = checkpoint()

    def init(key: jax.Array) -> Params:
        treedef = jax.tree.structure(jax.eval_shape(LARGE, key))
        return jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves])

    return language.language(name, init, language.transformer, text.as_bytes("headers"), 300, BATCH)


def checkpoint() -> list[np.ndarray]:
    """The parameters of the large transformer after its training, made once on a machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "checkpoint.npz"
    with (CACHE / "checkpoint.lock").open("w") as lock:  # another process may be making it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _, params = train(large("language_b"), ROW, RATE, SEED)
            part = path.with_suffix(".part.npz")
            np.savez(part, *map(np.asarray, jax.tree.leaves(params)))
            part.rename(path)
    with np.load(path) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]
