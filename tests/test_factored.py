"""phi="factored": delayed means of rows and columns of g^2, as Adafactor factors its v."""

import jax
import numpy as np
import pytest
import reference
from common import SHAPES, make_grads, run, worst_error
from test_exact import N_AND_DTYPE, TOLERANCE

from adashift_optax import scale_by_adashift


@pytest.mark.parametrize("window", ["sliding", "hopping"])
@pytest.mark.parametrize("b1", [0, 0.9])
@pytest.mark.parametrize(("n", "dtype"), N_AND_DTYPE)
def test_equals_reference(n, dtype, b1, window, x64):
    grads = make_grads(4 * n + 5, dtype=dtype)
    updates = run(scale_by_adashift(n, b1, 0.99, phi="factored", window=window), grads)
    for name in SHAPES:
        error = worst_error(updates, grads, name, n, b1, 0.99, 1e-10, "factored", window=window)
        assert error < TOLERANCE[dtype]


def test_exact_for_squares_of_rank_one(x64):
    """Where g^2 is one outer product, always the same but for a factor, nothing is lost."""
    rng = np.random.default_rng(0)
    rows, columns = rng.standard_normal((2, 5, 1)), rng.standard_normal((2, 1, 4))
    grads = [{"w": f * rows * columns} for f in rng.standard_normal(13)]
    updates = run(scale_by_adashift(3, phi="factored"), grads)
    assert worst_error(updates, grads, "w", 3, 0.9, 0.999, 1e-10, "none") < 1e-12
    assert np.all(updates[-1]["w"] != 0)


def test_a_row_and_a_column_without_gradients_do_not_move():
    grads = make_grads(9, {"w": (4, 3)}, np.float32)
    for g in grads:
        g["w"][1], g["w"][:, 2] = 0, 0
    grads[-1]["w"][:] = 1
    u = run(scale_by_adashift(2, phi="factored"), grads)[-1]["w"]
    assert np.all(np.isfinite(u))
    still = np.zeros((4, 3), bool)
    still[1], still[:, 2] = True, True
    np.testing.assert_array_equal(u == 0, still)


def test_tiny_gradients_do_not_underflow():
    """rows * columns of squares near 1e-30 would be 0 in float32."""
    grads = [{"w": np.full((3, 3), 1e-15, np.float32)}] * 4
    u = run(scale_by_adashift(1, 0, eps=0, phi="factored"), grads)[-1]["w"]
    np.testing.assert_allclose(u, 1, rtol=1e-5)


@pytest.mark.parametrize(("n", "b2", "least"), [(1, 0, 0.1), (1, 0.9, 0.86), (3, 0.9, 0.86)])
def test_rows_that_are_out_of_range_for_one_step(n, b2, least):
    """They do not join v. Then v is at most too large, until their step has faded from its mean.

    With b2 = 0.9 the fifth square has a quarter of the weight of v.
    """
    kwargs = {"b1": 0, "b2": b2, "eps": 0, "phi": "factored"}
    cases = {f"{rows} {x}": (rows, x) for rows in (1, 3, 5) for x in (np.inf, np.nan, 3e38)}
    grads = make_grads(12, dict.fromkeys(cases, (5, 3)), np.float32)
    for name, (rows, x) in cases.items():
        grads[4][name][:rows, 0] = x
    updates = run(scale_by_adashift(n, **kwargs), grads)
    for name in cases:
        # The squares of 3e38 are finite in the float64 of the reference.
        seen = [np.where(np.abs(g[name]) < 1e30, g[name], np.nan) for g in grads]
        wanted = reference.adashift(seen, n, **kwargs)[0]
        np.testing.assert_allclose(updates[3][name], wanted[3], rtol=1e-5)
        for t in (*range(n, 4), *range(5, 12)):
            ratio = updates[t][name] / wanted[t]
            assert np.all((ratio > least) & (ratio < 1 + 1e-5)), (name, t)


@pytest.mark.parametrize(("n", "window"), [(1, "ema"), (3, "sliding"), (2, "hopping")])
def test_huge_gradients_have_finite_updates(n, window):
    """Also where each mean of a row is in range, and their sum is not."""
    shapes = [(64, 1), (1, 64), (64, 4), (64, 64)]
    sizes = {f"{x} {shape}": (shape, x) for shape in shapes for x in (1e18, 5e18, 1.2e19, 1e30)}
    grads = make_grads(8, {name: shape for name, (shape, _) in sizes.items()}, np.float32)
    for g in grads[3:]:
        g |= {name: np.clip(g[name], -1, 1) * np.float32(x) for name, (_, x) in sizes.items()}
    for u in run(scale_by_adashift(n, phi="factored", window=window), grads):
        assert all(np.all(np.isfinite(x)) for x in u.values())


def test_fields_as_documented():
    """The third cell of a leaf costs one number, also in each slot of nu_queue."""
    params = {"bias": np.ones(4, np.float32), "stack": np.ones((2, 3, 5), np.float32)}
    state = scale_by_adashift(3, phi="factored").init(params)
    shapes = [{name: x.shape for name, x in cells.items()} for cells in state.nu]
    assert shapes == [
        {"bias": (4,), "stack": (2, 3, 1)},
        {"bias": (1,), "stack": (2, 1, 5)},
        {"bias": (1,), "stack": (2, 1, 1)},
    ]
    rings = jax.tree.map(lambda x: x.shape, state.nu_queue)
    assert rings == jax.tree.map(lambda x: (4, *x.shape), state.nu)
