"""The reference alone, without the library: against arithmetic by hand, in fractions.

The five gradients are chosen so that with b2 = 1/2 the first four vhat of their squares
25, 1, 289, 4 (weights 1, 2, 4, 8 over their sum) are squares of integers:
    25 = 5^2                        (25 + 2*1) / 3 = 9 = 3^2
    (27 + 4*289) / 7 = 169 = 13^2   (1183 + 8*4) / 15 = 81 = 9^2
"""

from fractions import Fraction

import numpy as np
import pytest
import reference

F = Fraction
GRADS = [5.0, 1.0, -17.0, 2.0, 27.0]
HALVES = 0.5, 0.5, 0.0  # b1, b2, eps
WINDOWS = ("sliding", "hopping", "ema")
PHIS = ("max", "mean", "none", "factored")


def updates_of(grads, *args, **kwargs):
    return [u.item() for u in reference.adashift([np.array(g) for g in grads], *args, **kwargs)[0]]


def assert_equal(got, want):
    np.testing.assert_allclose(got, [float(w) for w in want], rtol=1e-14, atol=0)


def random_grads(steps, shape=(3, 4)):
    return list(np.random.default_rng(0).standard_normal((steps, *shape)))


def test_ema_by_hand():
    """s_2 .. s_5 = 1/5, -17/3, 2/13, 27/9; they are averaged with the weights 8, 4, 2, 1."""
    want = [
        0,
        F(1, 5),
        (2 * F(-17, 3) + F(1, 5)) / 3,
        (4 * F(2, 13) + 2 * F(-17, 3) + F(1, 5)) / 7,
        (8 * F(27, 9) + 4 * F(2, 13) + 2 * F(-17, 3) + F(1, 5)) / 15,
    ]
    m = F(0)
    for k, s in enumerate([F(1, 5), F(-17, 3), F(2, 13), F(27, 9)], 1):
        m = m / 2 + s / 2  # the recurrence, of which the above is the sum
        assert m / (1 - F(1, 2**k)) == want[k]
    assert_equal(updates_of(GRADS, 1, *HALVES, "none", window="ema"), want)
    of_b1_0 = updates_of(GRADS, 1, 0, *HALVES[1:], "none", window="ema")
    assert_equal(of_b1_0, [0, F(1, 5), F(-17, 3), F(2, 13), F(27, 9)])


def test_ema_clips_the_scaled_gradients():
    """s_3 = -17/3 becomes -1, and s_5 = 3 becomes 1; the measure of errors is not clipped."""
    grads = [np.array(g) for g in GRADS]
    updates, scales = reference.adashift(grads, 1, *HALVES, "none", clip=1.0, window="ema")
    sums = [0, F(1, 5), (-2 + F(1, 5)) / 3, (4 * F(2, 13) - 2 + F(1, 5)) / 7]
    assert_equal(updates, [*sums, (8 + 4 * F(2, 13) - 2 + F(1, 5)) / 15])
    sizes = [0, F(1, 5), (2 * F(17, 3) + F(1, 5)) / 3]
    sizes.append((4 * F(2, 13) + 2 * F(17, 3) + F(1, 5)) / 7)
    assert_equal(scales, [*sizes, (8 * 3 + 4 * F(2, 13) + 2 * F(17, 3) + F(1, 5)) / 15])
    late = updates_of(GRADS, 1, *HALVES, "none", clip=lambda count: count / 2, window="ema")
    # limits at t = 2 .. 5: 1/2, 1, 3/2, 2
    assert_equal(late[2:3], [(-2 + F(1, 5)) / 3])
    assert_equal(late[4:], [(8 * 2 + 4 * F(2, 13) - 2 + F(1, 5)) / 15])


def test_ema_has_no_scaled_gradient_where_there_is_no_scale():
    """v of 0, 0, 5, .. is 0 until the square of the 5, g_3, has entered at t = 5 (n = 2)."""
    got = updates_of([0.0, 0.0, 5.0, 7.0, 10.0, 10.0], 2, 0.5, 0.0, 0.0, "none", window="ema")
    # b2 = 0: vhat is the square of g_{t-2}: 25 at t = 5, 49 at t = 6; s_3 = s_4 = 0.
    assert_equal(got, [0, 0, 0, 0, 4 * F(10, 5) / 7, (8 * F(10, 7) + 4 * F(10, 5)) / 15])


@pytest.mark.parametrize("phi", ["none", "factored"])
def test_ema_delays_every_phi_by_n(phi):
    """Elements too, unlike the hopping window: s_t = g_t / |g_{t-3}| with b2 = 0."""
    grads = [np.full((2, 2), g) for g in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    updates, _ = reference.adashift(grads, 3, 0, 0, 0, phi, window="ema")
    np.testing.assert_array_equal([u[0, 0] for u in updates], [0, 0, 0, 8, 8, 8])


def test_ema_scales_each_gradient_by_a_v_without_it():
    for t in range(4, 9):
        assert reference.support_m(3, 0.9, t, "ema") == set(range(4, t + 1))
        assert reference.support_v(3, True, "ema", t) == set(range(1, t - 2))


# u_1, u_2 = 5/5 and (2*1 + 5)/3 over 3, for v of the gradients so far; then v of delayed ones:
# |5|, 3 and 13 at t = 3, 4, 5.
WARM_BY_HAND = {
    "sliding": [1, F(7, 9), F(2 * -17 + 1, 15), F(2 * 2 - 17, 9), F(2 * 27 + 2, 39)],
    "hopping": [1, F(7, 9), F(2 * -17 + 1, 15), F(2 * 2 - 17, 9), F(2 * 27 + 2, 39)],
    "ema": [  # s = 5/5, 1/3, -17/5, 2/3, 27/13
        1,
        (2 * F(1, 3) + 1) / 3,
        (4 * F(-17, 5) + 2 * F(1, 3) + 1) / 7,
        (8 * F(2, 3) + 4 * F(-17, 5) + 2 * F(1, 3) + 1) / 15,
        (16 * F(27, 13) + 8 * F(2, 3) + 4 * F(-17, 5) + 2 * F(1, 3) + 1) / 31,
    ],
}


@pytest.mark.parametrize("phi", ["max", "none"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_warm_start_by_hand(window, phi):
    """n = 2, where the hopping window is the sliding one."""
    got = updates_of(GRADS, 2, *HALVES, phi, window=window, warm=True)
    assert_equal(got, WARM_BY_HAND[window])


def test_a_warm_start_of_a_window_that_hops_by_hand():
    """n = 3: m_4 is of g_2 .. g_4 and m_5 of g_4, g_5; v_4 is of g_1 and v_5 of g_1 .. g_3."""
    want = [1, F(7, 9), F(4 * -17 + 2 * 1 + 5, 7 * 13)]
    want += [F(4 * 2 + 2 * -17 + 1, 7 * 5), F(2 * 27 + 2, 3 * 13)]
    assert_equal(updates_of(GRADS, 3, *HALVES, "none", window="hopping", warm=True), want)


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("window", WINDOWS[:2])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_warm_start_ends_after_n_steps(n, window, phi):
    grads = random_grads(12)
    cold, warm = (
        reference.adashift(grads, n, 0.9, 0.9, 1e-10, phi, window=window, warm=warm)
        for warm in (False, True)
    )
    for a, b in zip(cold, warm, strict=True):
        np.testing.assert_array_equal(a[n:], b[n:])
        assert not np.any(a[:n])
        assert np.all(b[:n])


def test_what_is_not_finite_in_a_warm_start():
    """g_2 counts as vhat_1 = 25, so vhat_3 = (25 + 2*25 + 4*289) / 7; at t = 4 v starts anew."""
    grads = [5.0, np.inf, -17.0, 2.0]
    args = 3, 0, 0.5, 0.0, "none"
    for window in WINDOWS:
        got = updates_of(grads, *args, window=window, warm=True)
        assert np.isinf(got[1])
        assert_equal(np.square([got[0], *got[2:]]), [1, F(289 * 7, 1231), F(4, 25)])
        # At t = 1 there is no scale yet. Then the NaN counts as 0: vhat_2 = (0 + 2*9) / 3 = 6.
        got = updates_of([np.nan, 3.0], *args, window=window, warm=True)
        assert_equal([got[0], got[1] ** 2], [0, F(9, 6)])


def test_a_schedule_that_starts_with_weight_1():
    """b2(k) = 1 - k^-0.8: the first square is all of v_2, and vhat = v ever after."""
    b, c = 1 - 2**-0.8, 1 - 3**-0.8  # b2(2), b2(3)
    v2 = 25
    v3 = b * 25 + 2**-0.8 * 1
    v4 = c * v3 + 3**-0.8 * 289
    want = [0, 1 / v2**0.5, -17 / v3**0.5, 2 / v4**0.5]
    for window in WINDOWS:
        args = 1, 0, lambda k: 1 - k**-0.8, 0, "none"
        assert_equal(updates_of(GRADS[:4], *args, window=window), want)


def falling(k):
    """Sums of weights: W_1 = 1/2, W_2 = 1/6 + 2/3 = 5/6, W_3 = 1/24 + 1/6 + 3/4 = 23/24.

    So the weights in vhat are 1 after one square, 1 and 4 over 5, and 1, 4 and 18 over 23.
    """
    return 1 / (k + 1)


MEANS = [F(25), F(25 + 4 * 1, 5), F(25 + 4 * 1 + 18 * 289, 23)]  # of one, two, three squares


@pytest.mark.parametrize("phi", PHIS)
def test_the_weights_of_a_schedule_by_hand(phi):
    for window in WINDOWS:
        got = updates_of(GRADS[:4], 1, 0, falling, 0, phi, window=window)
        assert_equal(np.square(got[1:]), np.square([1, -17, 2]) / MEANS)
        warm = updates_of(GRADS[:3], 3, 0, falling, 0, phi, window=window, warm=True)
        assert_equal(np.square(warm), np.square([5, 1, -17]) / MEANS)
    assert not np.any(updates_of(GRADS[:3], 3, 0, falling, 0, phi))


def test_a_schedule_counts_the_squares_that_entered_by_segments():
    """n = 3: v_4 is of one square and v_5 of three."""
    got = updates_of(GRADS, 3, 0, falling, 0, "none", window="hopping")
    assert_equal(np.square(got[3:]), [F(4) / MEANS[0], F(27**2) / MEANS[2]])


def test_a_schedule_of_rows_and_columns():
    """Row and column means of two squares, each with the weights 1 and 4 over 5."""
    first, second = np.array([[1.0, 3.0], [5.0, 1.0]]), np.array([[2.0, 1.0], [0.0, 4.0]])
    # Row means 5, 13 and 5/2, 8; column means 13, 5 and 2, 17/2.
    rows, columns = [F(5 + 10, 5), F(13 + 32, 5)], [F(13 + 8, 5), F(5 + 34, 5)]
    vhat = [[r * c / (sum(rows) / 2) for c in columns] for r in rows]
    grads = [first, second, np.ones((2, 2))]
    u = reference.adashift(grads, 1, 0, falling, 0, "factored")[0][-1]
    np.testing.assert_allclose(u**2, 1 / np.array(vhat, float), rtol=1e-14)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_constant_function_is_the_constant(window, phi, warm):
    args = {"phi": phi, "window": window, "warm": warm}
    grads = random_grads(14)
    by_number, by_function, other = (
        reference.adashift(grads, 3, 0.9, b2, 1e-10, **args)
        for b2 in (0.97, lambda k: 0.97, lambda k: 0.97 if k < 8 else 0.5)
    )
    np.testing.assert_array_equal(by_number, by_function)
    assert not np.allclose(by_number[0][-1], other[0][-1])


def test_an_unknown_window():
    with pytest.raises(ValueError, match=r"'sliding', 'hopping', 'ema' or a function, got 'ring'"):
        reference.adashift(random_grads(2), 1, 0, 0, 0, "max", window="ring")
