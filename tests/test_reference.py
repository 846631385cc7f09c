"""The reference itself, against fractions made by hand."""

from fractions import Fraction

import numpy as np
import pytest
import reference

F = Fraction
GRADS = [5.0, 1.0, -17.0, 2.0, 27.0]


def updates_of(grads, *args, **kwargs):
    return [u.item() for u in reference.adashift([np.array(g) for g in grads], *args, **kwargs)[0]]


def assert_equal(got, want):
    np.testing.assert_allclose(got, [float(w) for w in want], rtol=1e-14, atol=0)


def test_delay_and_window_by_hand():
    """n = 2, b1 = b2 = 1/2: v_3 is 25, v_4 of 25 and 1 with the weights 1 and 2 over 3, and so on.

    m_t is (2 g_t + g_{t-1}) / 3.
    """
    want = [0, 0, F(2 * -17 + 1, 3 * 5)]
    v4, v5 = F(25 + 2 * 1, 3), F(25 + 2 * 1 + 4 * 289, 7)
    want += [F(2 * 2 - 17, 3) / F(3), F(2 * 27 + 2, 3) / F(13)]
    assert (v4, v5) == (9, 169)
    assert_equal(updates_of(GRADS, 2, 0.5, 0.5, 0, "none"), want)
    assert_equal(updates_of(GRADS, 1, 0.5, 0, 0, "max"), [0, F(1, 5), -17, F(2, 17), F(27, 2)])
    with_eps = updates_of(GRADS, 1, 0, 0, 2, "none")
    assert_equal(with_eps, [0, F(1, 7), F(-17, 3), F(2, 19), F(27, 4)])


def test_blocks_by_hand():
    """Squares of [[1, 2], [3, 4]]: phi reduces them after squaring."""
    g2 = np.array([[1.0, 4], [9, 16]])
    np.testing.assert_array_equal(reference.phi_blocks(g2, "max"), [[16]])
    np.testing.assert_array_equal(reference.phi_blocks(g2, "mean", (0,)), [[5, 10]])
    np.testing.assert_array_equal(reference.phi_blocks(g2, np.sum, (-1,)), [[5], [25]])
    np.testing.assert_array_equal(reference.phi_blocks(g2, "none"), g2)
    assert reference.phi_blocks(np.zeros((0, 3)), "max").tolist() == [[0]]


def test_what_has_no_scale_does_not_move():
    assert_equal(updates_of([0, 0, 5, 7, 10], 2, 0, 0, 0, "none"), [0, 0, 0, 0, F(10, 5)])
    grads = [np.array(g) for g in (0.0, 0.0, 5.0, 7.0, 10.0)]
    assert [bool(s > 0) for s in reference.adashift(grads, 2, 0, 0, 0)[1]] == [False] * 4 + [True]


def test_a_square_that_is_not_finite():
    """It counts as v was before: with b2 = 1/2 v_2 = 25 / 2, and v_3 is made of that twice."""
    got = updates_of([5.0, np.inf, 3.0, 2.0], 1, 0, 0.5, 0, "none")
    assert np.isinf(got[1])
    v = [F(25, 2), F(25, 2)]
    assert_equal(np.square(got[2:3]), [9 / (v[1] / F(3, 4))])
    assert_equal(np.square(got[3:]), [4 / ((v[1] + 9) / 2 / F(7, 8))])


def test_factored_by_hand():
    """Two steps of a matrix: row means 5, 13, column means 13, 5, their mean 9; a_2 = 2/3."""
    first, second = np.array([[1.0, -3.0], [5.0, 1.0]]), np.array([[2.0, 1.0], [0.0, 4.0]])
    updates, scales = reference.factored([first, second], 0, 0.5, 0)
    np.testing.assert_allclose(updates[0], np.sign(first))
    a = 2 / 3  # (1 - 1/2) / (1 - 1/4)
    v = (1 - a) * np.array([[5 * 13, 5 * 5], [13 * 13, 13 * 5]]) / 9 + a * second**2
    np.testing.assert_allclose(updates[1], second / np.sqrt(v), rtol=1e-14)
    # b1 = 1/2: m_1 = s_1 / 2, u_1 = (1/2) m_1 / (3/4) + (1/2) s_1 / (1/2) = 4/3 s_1
    updates, scales = reference.factored([first, second], 0.5, 0.5, 0)
    np.testing.assert_allclose(updates[0], np.sign(first) * 4 / 3, rtol=1e-14)
    s = [np.sign(first), second / np.sqrt(v)]
    m = s[0] / 4 + s[1] / 2
    np.testing.assert_allclose(updates[1], m / 2 / (7 / 8) + s[1] / 2 / (3 / 4), rtol=1e-14)
    assert np.all(scales[1] >= np.abs(updates[1]))


def test_factored_third_step_and_leaves_without_rows():
    """a_2 = 2/3, a_3 = 4/7 if b2 = 1/2. Of a vector each element keeps v, a stack each matrix."""
    g = np.random.default_rng(0).standard_normal((3, 2, 3, 4))
    a = 2 / 3
    whole = reference.factored(list(g), 0, 0.5, 0)[0]
    for k in range(2):
        mixed = (1 - a) * g[0, k] ** 2 + a * g[1, k] ** 2
        rows, columns = mixed.mean(1), mixed.mean(0)
        v = (3 * rows[:, None] * columns / rows.mean() + 4 * g[2, k] ** 2) / 7
        np.testing.assert_allclose(whole[2][k], g[2, k] / np.sqrt(v), rtol=1e-13)
    vector = reference.factored(list(g[:, 0, 0]), 0, 0.5, 0)[0]
    v = (g[0, 0, 0] ** 2 + 2 * g[1, 0, 0] ** 2 + 4 * g[2, 0, 0] ** 2) / 7
    np.testing.assert_allclose(vector[2], g[2, 0, 0] / np.sqrt(v), rtol=1e-14)


def test_the_average_of_scaled_gradients_by_hand():
    """s = 0, 1/5, -17, ..: with b1 = 1/2 the weights 1, 2, 4 over 7 at t = 3."""
    got = [u.item() for u in reference.ema_of_scaled([np.array(g) for g in GRADS], 0.5, 0, 0)[0]]
    assert_equal(got[:3], [0, F(2, 3) * F(1, 5), F(2 * F(1, 5) + 4 * -17, 7)])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_m_and_v_share_no_gradient(n):
    """A change of g_{t-n+1} .. g_t changes m_t alone, one of older gradients v_t alone."""
    grads = np.random.default_rng(0).standard_normal((12, 3))
    u = reference.adashift(list(grads), n)[0]
    changed = grads.copy()
    changed[-n:] *= 2
    np.testing.assert_allclose(reference.adashift(list(changed), n)[0][-1], 2 * u[-1], rtol=1e-14)
    changed = grads.copy()
    changed[:-n] *= 2
    np.testing.assert_allclose(reference.adashift(list(changed), n)[0][-1], u[-1] / 2, rtol=1e-9)
