"""The tasks by name: A to choose, B to report, the delay's batch sizes, C for the clip."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from benchmarks.evidence import finetune, images, language, sparse, text
from benchmarks.evidence.task import Task

SMALL = partial(language.transformer_init, 2, 128)  # 0.47 million parameters


def of_bytes(
    name: str, init: Callable[..., Any], model: language.Model, part: str, steps: int, batch: int
) -> Task:
    """Predicting the next byte of a part of the sources."""
    return language.language(name, init, model, text.sources(part), steps, batch)


def small(steps: int, batch: int, name: str, part: str = "a") -> Task:
    """The small transformer on a part of the sources."""
    return of_bytes(name, SMALL, language.transformer, part, steps, batch)


def residual(epochs: int, name: str) -> Task:
    """The residual network on CIFAR-10."""
    return images.images(
        name, "cifar10", images.residual_init, images.residual, epochs, 128, augment=True
    )


def vectors(part: str, name: str) -> Task:
    """Word vectors of comments and docstrings."""
    return sparse.factorization(name, part, 3000, sparse.of_logarithms)


def heavy(part: str, name: str) -> Task:
    """Counts of the words of whole sources, whose gradients are rarely large."""
    return sparse.factorization(name, part, 3000, sparse.of_counts, prose=False, clip=10.0)


MAKERS: dict[str, Callable[[str], Task]] = {
    "language_a": partial(small, 600, 8),
    "images_a": lambda name: images.images(name, "mnist", images.small_init, images.small, 2, 64),
    "sparse_a": lambda name: sparse.skip_gram(name, "a", 3000),
    "language_b": finetune.large,
    "lstm_b": lambda name: of_bytes(name, language.lstm_init, language.lstm, "b", 600, 8),
    "finetune_b": finetune.finetune,
    "images_b": partial(residual, 5),
    "sparse_b": partial(vectors, "b"),
    "heavy_b": partial(heavy, "b"),
    "delay_2": partial(small, 400, 2),
    "delay_8": partial(small, 400, 8),
    "delay_32": partial(small, 400, 32),
    "language_c": partial(small, 600, 8, part="jax"),
    "images_c": partial(residual, 2),
    "sparse_c": partial(vectors, "jax"),
    "heavy_c": partial(heavy, "jax"),
}


@cache
def task(name: str) -> Task:
    """The task of a name, with its data."""
    return MAKERS[name](name)
