"""Optimizers of torch on the same arrays, where torch is installed."""

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.cases import PARAMETERS, TORCH, Case
from benchmarks.programs import Make, matrices, program
from benchmarks.timing import Run
from benchmarks.variants import ADAM_MOVES, VARIANTS, adashift

# Threads that wait sleep instead of spinning: on a machine with other work, spinning makes torch
# 20 times slower, and it slows the JAX program that is timed next. On an idle one it gains 15 %.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported, below

INSTALLED = find_spec("torch") is not None
ADASHIFT_INSTALLED = INSTALLED and find_spec("pytorch_optimizer") is not None


class TorchProgram:
    """An optimizer of torch on copies of JAX arrays; like `timing.Program`."""

    def __init__(self, make: Callable[[list[Any]], Any], params: Any, grads: Any) -> None:
        import torch

        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        device = "cuda" if gpu else "cpu"
        leaves = [
            torch.tensor(np.asarray(p), device=device, requires_grad=True)
            for p in jax.tree.leaves(params)
        ]
        for leaf, grad in zip(leaves, jax.tree.leaves(grads), strict=True):
            leaf.grad = torch.tensor(np.asarray(grad), device=device)
        self._optimizer = make(leaves)
        self._wait = torch.cuda.synchronize if gpu else lambda: None
        self(12)  # fills the queue of AdaShift with n = 10, which does less work before

    def __call__(self, steps: int) -> None:
        """Take `steps` steps and wait for the last."""
        for _ in range(steps):
            self._optimizer.step()
        self._wait()


def adamw_fused(leaves: list[Any]) -> Any:
    """``torch.optim.AdamW(fused=True)``."""
    import torch

    return torch.optim.AdamW(leaves, lr=1.0, weight_decay=0.0, fused=True)


def adashift_max(leaves: list[Any]) -> Any:
    """AdaShift of ``pytorch_optimizer`` as it comes: phi = max, n = 10."""
    from pytorch_optimizer import AdaShift

    return AdaShift(leaves, lr=1.0, foreach=True)


def adashift_none(leaves: list[Any]) -> Any:
    """AdaShift of ``pytorch_optimizer`` with one v per element, n = 10."""
    from pytorch_optimizer import AdaShift

    return AdaShift(leaves, lr=1.0, foreach=True, reduce_func=None)


def cases() -> list[Case]:
    """Optimizers of torch beside optax's Adam; AdaShift beside the one of pytorch_optimizer."""

    def build(base: Make | None, make: Make | None, peer: Callable[..., Any]) -> list[Run]:
        grads = matrices(PARAMETERS)
        theirs = TorchProgram(peer, grads, grads)
        return [program(m, grads) if m else theirs for m in (base, make)]

    rows = []
    if INSTALLED:
        run = partial(build, optax.scale_by_adam, None, adamw_fused)
        rows.append(Case(group=TORCH, name="AdamW, fused", build=run, moved=ADAM_MOVES))
    if ADASHIFT_INSTALLED:
        for phi, peer in (("max", adashift_max), ("none", adashift_none)):
            theirs, ours = f"pytorch_optimizer AdaShift {phi}, foreach", f"{phi}, n=10"
            run = partial(build, optax.scale_by_adam, None, peer)
            rows.append(Case(group=TORCH, name=theirs, build=run, moved=VARIANTS[phi][1]))
            run = partial(build, None, adashift(phi), peer)
            rows.append(Case(group=TORCH, name=ours, build=run, against=theirs, reach=0.1))
    return rows
