"""The candidates of the study, their controls, and the text that its tasks are made of."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("tokenizers")

from common import make_grads, run

from adashift_optax import scale_by_adashift_factored, state_bytes
from benchmarks.evidence import larger, text
from benchmarks.evidence.candidates import Candidate
from benchmarks.evidence.optimizers import LIBRARY, NARROW, OURS, recipe

pytestmark = pytest.mark.all_only
SHAPES = {"table": (5, 3), "conv": (2, 2, 3, 4), "bias": (4,), "scalar": ()}


def by_loops(grads, candidate, delayed=True, clipped=False, last=False):
    """A candidate on one matrix, element by element, in float64."""
    r, c, m, b1 = np.zeros(len(grads[0])), np.zeros(grads[0].shape[1]), 0.0, candidate.b1
    for t, g in enumerate(np.asarray(grads, np.float64), 1):
        a = max(0.001, t**-0.8) if candidate.growing else 0.001 / (1 - 0.999**t)
        today = (1 - a) * r + a * (g**2).mean(1), (1 - a) * c + a * (g**2).mean(0)
        (rows, columns), (r, c) = (r, c) if delayed else today, today
        over = np.zeros(g.shape)
        for i, j in np.ndindex(g.shape):
            whole = rows[i] * columns[j] / rows.mean() if rows.any() else 0
            v = (1 - a) * whole + candidate.kappa * a * g[i, j] ** 2
            over[i, j] = 1 / (np.sqrt(v) + 1e-10) if v else 0
        s = g * over / (max(1, np.sqrt(np.mean((g * over) ** 2))) if clipped else 1)
        x, behind = (g, over) if last else (s, 1)
        m = b1 * m + (1 - b1) * x
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * x / (1 - b1**t)
        yield behind * (ahead if candidate.nesterov else m / (1 - b1**t))


CANDIDATES = [LIBRARY, Candidate(False, 0.5, 2.0, False), Candidate(True, 0.0, 4.0)]
HOW = [{}, {"delayed": False}, {"clipped": True}, {"last": True}]
CASES = [*itertools.product(CANDIDATES, HOW), (LIBRARY._replace(kappa=0.0), {})]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("candidate", "how"), CASES, ids=str)
def test_a_candidate_is_what_it_says(candidate, how):
    grads = make_grads(12, {"matrix": (3, 4)}, np.float32)
    wanted = by_loops([g["matrix"] for g in grads], candidate, **how)
    for u, want in zip(run(candidate.make(**how), grads), wanted, strict=True):
        np.testing.assert_allclose(u["matrix"], want, rtol=3e-5, atol=2e-6)


@pytest.mark.parametrize("b1", [0.0, LIBRARY.b1])
def test_the_library_has_the_chosen_rule(b1):
    grads = make_grads(30, SHAPES, np.float32)
    ours, same = scale_by_adashift_factored(b1), LIBRARY._replace(b1=b1).make()
    chex.assert_trees_all_close(run(ours, grads), run(same, grads), rtol=2e-5, atol=2e-6)


def test_the_delay_changes_matrices_only():
    grads = make_grads(5, SHAPES, np.float32)
    u, v = (run(LIBRARY.make(delayed), grads)[-1] for delayed in (True, False))
    assert [np.array_equal(u[name], v[name]) for name in SHAPES] == [False, False, True, True]


def test_bytes_of_state():
    narrow = [recipe(0.9, nesterov, "bfloat16") for nesterov in (True, False)]
    rows = [(OURS, 4), (recipe(0.9, True), 4), (recipe(0), 0), *((x, 2) for x in (NARROW, *narrow))]
    for row, wanted in rows:
        size = state_bytes(row.make(), {"matrix": jnp.zeros((256, 256))}) / 256**2
        assert size == pytest.approx(wanted, abs=0.05), row.name


def test_near_repeats_go_and_every_file_is_on_one_side():
    def lines(start, end):
        return b"\n".join(b"a line with the number %d" % i for i in range(start, end))

    files = {"a": lines(0, 9), "b": lines(5, 14), "c": lines(8, 20), "d": b"short\n" * 9}
    assert list(text.distinct(files)) == ["a", "c", "d"]
    many = {f"{i}.py": b"%d" % i for i in range(100)}
    train, held_out = (part.split(b"\n") for part in text.split(many))
    assert (sorted(train + held_out), len(held_out)) == (sorted(many.values()), 7)


def test_prose_is_docstrings_without_repeated_paragraphs():
    source = b'"""One.\n\nTwo."""\ndef f():\n    """Three."""\n    return """four"""\n'
    assert [*map(larger.docstrings, (source, b"print 1"))] == [b"One.\n\nTwo.\n\nThree.", b""]
    again = {"a": b"One.\n\nTwo.", "b": b"Two.\n\n Three.\n\nOne."}
    assert larger.without_repeats(again) == {"a": b"One.\n\nTwo.", "b": b" Three."}
