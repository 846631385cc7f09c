"""A transformer of 8.2 million parameters on subwords of the docstrings of well-known packages."""

import ast
import re
from functools import cache, partial

import numpy as np
from tokenizers import ByteLevelBPETokenizer

from benchmarks.evidence import language, text
from benchmarks.evidence.task import Task

PACKAGES = (
    "scipy==1.18.1",
    "sympy==1.14.0",
    "pandas==3.1.1",
    "scikit-learn==1.9.1",
    "matplotlib==3.11.2",
    "networkx==3.7",
    "numpy==2.5.5",
    "statsmodels==0.15.0",
    "astropy==8.0.2",
)
VOCABULARY, CONTEXT, WIDTH, LAYERS = 8192, 128, 256, 5
STEPS, BATCH = 3000, 4
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(source: bytes) -> bytes:
    """The docstrings of a file, without what older or newer Pythons cannot read."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return b""
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
    return "\n\n".join(doc for doc in found if doc).encode()


def without_repeats(documents: dict[str, bytes]) -> dict[str, bytes]:
    """Each paragraph stands in the first of the documents only that has it."""
    seen: set[bytes] = set()
    kept = {}
    for name, document in documents.items():
        parts = [p for p in re.split(rb"\n\s*\n", document) if p.strip() not in seen]
        seen |= {part.strip() for part in parts}
        kept[name] = b"\n\n".join(parts)
    return kept


@cache
def prose() -> tuple[bytes, bytes]:
    """Training and held-out prose."""
    found = {}
    for package in PACKAGES:
        files = text.of_folder(text.unpacked(package), "*.py")
        found |= {f"{package}/{name}": docstrings(source) for name, source in files.items()}
    return text.split(without_repeats(found))


def subwords() -> tuple[np.ndarray, np.ndarray]:
    """The prose as numbers: byte pairs that are learned from the training part."""
    train, held_out = (part.decode() for part in prose())
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(train.splitlines(keepends=True), VOCABULARY, show_progress=False)
    numbers = (
        [i for line in tokenizer.encode_batch(part.splitlines(keepends=True)) for i in line.ids]
        for part in (train, held_out)
    )
    train_ids, held_out_ids = (np.array(part, np.uint16) for part in numbers)
    return train_ids, held_out_ids


def larger(name: str) -> Task:
    """Predicting the next subword."""
    init = partial(language.transformer_init, LAYERS, WIDTH, vocabulary=VOCABULARY, context=CONTEXT)
    return language.language(name, init, language.transformer, subwords(), STEPS, BATCH, CONTEXT)
