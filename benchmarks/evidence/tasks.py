"""The tasks by name: A to choose, B and D to report."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from benchmarks.evidence import finetune, images, language, larger, sparse, text
from benchmarks.evidence.task import Init, Model, Task

SMALL = partial(language.transformer_init, 2, 128)  # 0.47 million parameters


def of_bytes(init: Init, model: Model, part: str, name: str) -> Task:
    """Predicting the next byte of a part of the sources."""
    return language.language(name, init, model, text.as_bytes(part), 600, 8)


small = partial(of_bytes, SMALL, language.transformer)
lstm = partial(of_bytes, language.lstm_init, language.lstm)


def decayed(part: str, name: str) -> Task:
    """The small transformer with a weight decay of 0.1."""
    return replace(small(part, name), decay=0.1)


def residual(epochs: int, name: str) -> Task:
    """The residual network on CIFAR-10."""
    net = images.residual_init, images.residual
    return images.images(name, "cifar10", net, epochs, 128, augment=True)


def digits(name: str) -> Task:
    """The small network on MNIST."""
    return images.images(name, "mnist", (images.small_init, images.small), 2, 64)


def vectors(part: str, name: str) -> Task:
    """Word vectors of comments and docstrings."""
    return sparse.factorization(name, part, 3000, sparse.of_logarithms)


def heavy(part: str, name: str) -> Task:
    """Counts of the words of whole sources, whose gradients are rarely large."""
    return sparse.factorization(name, part, 3000, sparse.of_counts, prose=False, clip=10.0)


MAKERS: dict[str, Callable[[str], Task]] = {
    "language_a": partial(small, "a"),
    "images_a": digits,
    "sparse_a": lambda name: sparse.skip_gram(name, "a", 3000),
    "language_b": finetune.large,
    "lstm_b": partial(lstm, "b"),
    "finetune_b": finetune.finetune,
    "images_b": partial(residual, 5),
    "sparse_b": partial(vectors, "b"),
    "heavy_b": partial(heavy, "b"),
    "language_d": partial(small, text.SYMPY),
    "lstm_d": partial(lstm, text.SYMPY),
    "sparse_d": partial(vectors, text.SYMPY),
    "heavy_d": partial(heavy, text.SYMPY),
    "images_d": partial(residual, 10),
    "decay_d": partial(decayed, text.SYMPY),
    "larger_d": larger.larger,
}


@cache
def task(name: str) -> Task:
    """The task of a name, with its data."""
    return MAKERS[name](name)
