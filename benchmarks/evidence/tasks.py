"""The tasks by name: A to choose, B to report, and one for each batch size of the delay's study."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from benchmarks.evidence import finetune, images, language, sparse, text
from benchmarks.evidence.task import Task

SMALL = partial(language.transformer_init, 2, 128)  # 0.47 million parameters


def of_bytes(
    name: str, init: Callable[..., Any], model: language.Model, half: str, steps: int, batch: int
) -> Task:
    """Predicting the next byte of a half of the sources."""
    return language.language(name, init, model, text.sources(half), steps, batch)


def small(steps: int, batch: int, name: str) -> Task:
    """The small transformer on half a."""
    return of_bytes(name, SMALL, language.transformer, "a", steps, batch)


MAKERS: dict[str, Callable[[str], Task]] = {
    "language_a": partial(small, 600, 8),
    "images_a": lambda name: images.images(name, "mnist", images.small_init, images.small, 2, 64),
    "sparse_a": lambda name: sparse.skip_gram(name, "a", 3000),
    "language_b": finetune.large,
    "lstm_b": lambda name: of_bytes(name, language.lstm_init, language.lstm, "b", 600, 8),
    "finetune_b": finetune.finetune,
    "images_b": lambda name: images.images(
        name, "cifar10", images.residual_init, images.residual, 5, 128, augment=True
    ),
    "sparse_b": lambda name: sparse.factorization(name, "b", 3000, sparse.of_logarithms),
    "heavy_b": lambda name: sparse.factorization(
        name, "b", 3000, sparse.of_counts, prose=False, clip=10.0
    ),
    "delay_2": partial(small, 400, 2),
    "delay_8": partial(small, 400, 8),
    "delay_32": partial(small, 400, 32),
}


@cache
def task(name: str) -> Task:
    """The task of a name, with its data."""
    return MAKERS[name](name)
