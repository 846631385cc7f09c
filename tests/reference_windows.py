"""What m_t is the mean of: the weights of each window, in NumPy, for `reference.py`.

Weights w_i, i = 0 .. t-1, so that m_t = sum_i w_i x_{t-i}. x is g; for 'ema' it is the scaled g.
"""

import numpy as np


def sliding_weights(n: int, b1: float, t: int) -> np.ndarray:
    """m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i, over t instead of n gradients for t < n."""
    w = np.zeros(t)
    for i in range(min(n, t)):
        w[i] = b1**i
    return w / sum(b1**i for i in range(min(n, t)))


def hopping_weights(n: int, b1: float, t: int) -> np.ndarray:
    """m_t = the older of two accumulators S <- b1 S + g over the sum of its weights.

    A is emptied just before the steps of phase 0, B just before those of phase n//2; the phase of
    step s is (s - 1) mod n. Both start empty. Followed here as lists of the steps they hold.
    """
    a, b = [], []
    for s in range(1, t + 1):
        phase = (s - 1) % n
        if phase == 0:
            a = []
        if phase == n // 2:
            b = []
        a.append(s)
        b.append(s)
    older = a if len(a) >= len(b) else b
    w = np.zeros(t)
    for s in older:
        w[t - s] = b1 ** (t - s)
    return w / sum(b1**i for i in range(len(older)))


def ema_weights(n: int, b1: float, t: int) -> np.ndarray:
    """m_t = b1 m_{t-1} + (1-b1) s_t, m_n = 0, over 1 - b1^(t-n): the mean of s_{n+1} .. s_t.

    The weight of s_i is (1-b1) b1^(t-i) over the sum of these weights. For t <= n all are 0.
    """
    w = np.zeros(t)
    for i in range(t - n):
        w[i] = (1 - b1) * b1**i
    return w / w.sum() if t > n else w


WINDOWS = {"sliding": sliding_weights, "hopping": hopping_weights, "ema": ema_weights}


def last_before_previous_segment(n: int, t: int) -> int:
    """K (<= 0: none), where a segment of the hopping window begins at each phase 0 and n//2."""
    phase, h = (t - 1) % n, n // 2
    return t - 1 - phase if phase >= h else t - 1 - phase - (n - h)


def support_m(n: int, b1: float, t: int, window: str = "sliding") -> set[int]:
    """The steps whose gradients are in m_t, without warm start."""
    return {t - i for i, w_i in enumerate(WINDOWS[window](n, b1, t)) if w_i != 0}


def support_v(n: int, phi_elementwise: bool, window: str, t: int) -> set[int]:
    """The steps whose gradients are in v_t, t > n; phi='factored' is not `phi_elementwise`.

    No step of `support_m` is among them. With 'ema' this holds of each gradient and its own v: step
    t is not among them, and the steps of `support_m` before t are scaled by the v of their time.
    """
    if phi_elementwise and window == "hopping":
        return set(range(1, last_before_previous_segment(n, t) + 1))
    return set(range(1, t - n + 1))
