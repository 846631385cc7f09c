"""The tasks by name: A to choose, B and D to report."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from benchmarks.evidence import finetune, images, language, larger, sparse, text
from benchmarks.evidence.task import Init, Model, Task

SMALL = partial(language.transformer_init, 2, 128)  # 0.47 million parameters


def of_bytes(init: Init, model: Model, part: str, name: str, batch: int = 8) -> Task:
    """Predicting the next byte of a part of the sources."""
    return language.language(name, init, model, text.as_bytes(part), 600, batch)


small = partial(of_bytes, SMALL, language.transformer)
lstm = partial(of_bytes, language.lstm_init, language.lstm)


cifar = partial(images.images, dataset="cifar10", net=images.RESIDUAL, batch=128, augment=True)
# Word vectors of comments and docstrings, and counts of the words of whole sources, whose
# gradients are rarely large.
vectors = partial(sparse.factorization, steps=3000, loss_of=sparse.of_logarithms)
heavy = partial(sparse.factorization, steps=3000, loss_of=sparse.of_counts, prose=False, clip=10.0)

MAKERS: dict[str, Callable[[str], Task]] = {
    "language_a": partial(small, "a"),
    "images_a": partial(images.images, dataset="mnist", net=images.SMALL, epochs=2, batch=64),
    "sparse_a": partial(sparse.skip_gram, part="a", steps=3000),
    "language_b": finetune.large,
    "lstm_b": partial(lstm, "b"),
    "finetune_b": finetune.finetune,
    "images_b": partial(cifar, epochs=5),
    "sparse_b": partial(vectors, part="b"),
    "heavy_b": partial(heavy, part="b"),
    "language_d": partial(small, text.SYMPY),
    "lstm_d": partial(lstm, text.SYMPY),
    "sparse_d": partial(vectors, part=text.SYMPY),
    "heavy_d": partial(heavy, part=text.SYMPY),
    "images_d": partial(cifar, epochs=10),
    "decay_d": lambda name: replace(small(text.SYMPY, name), decay=0.1),
    "batch2_d": partial(small, text.SYMPY, batch=2),
    "batch32_d": partial(small, text.SYMPY, batch=32),
    "larger_d": larger.larger,
}


@cache
def task(name: str) -> Task:
    """The task of a name, with its data."""
    return MAKERS[name](name)
