"""The large transformer on half b, and going on from where it ended on text of another kind."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence import language, text
from benchmarks.evidence.optimizers import adam
from benchmarks.evidence.task import Params, Task, digest
from benchmarks.evidence.train import Program

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

    task = language.language(name, init, language.transformer, text.as_bytes("headers"), 300, BATCH)
    # The checkpoint is of this machine. As a part of the data it is in their digest, so that runs
    # from other checkpoints, which are 0.5 % apart, are not put beside these.
    return replace(task, data={**task.data, "start": leaves})


def checkpoint() -> list[np.ndarray]:
    """The parameters of the large transformer after its training, made once on a machine."""
    task = large("language_b")
    path = CACHE / f"checkpoint-{digest(task.data)}.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _, params = Program(task, ROW, task.steps).run(RATE, SEED)
        part = CACHE / f"{os.getpid()}.part.npz"  # another process may be making it too
        np.savez(part, *map(np.asarray, jax.tree.leaves(params)))
        part.rename(path)
    with np.load(path) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]
