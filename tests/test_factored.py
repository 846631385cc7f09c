"""phi="factored": delayed means of rows and columns of g^2, as Adafactor factors its v."""

import numpy as np
import pytest
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
