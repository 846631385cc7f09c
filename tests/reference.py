"""Algorithm 1 of AdaShift in NumPy float64: slow, direct, and independent of the library.

Every gradient is kept, the window is summed afresh at every step, and nothing is shared with
`adashift_optax`. One call handles one leaf. Steps are counted from t = 1. What m is the mean of is
in `reference_windows.py`, what v is made of in `reference_v.py`.
"""

import numpy as np
from reference_v import PHIS, phi_blocks, v_and_vhat
from reference_windows import (
    WINDOWS,
    ema_weights,
    last_before_previous_segment,
    sliding_weights,
    support_m,
    support_v,
)

__all__ = [
    "FAULTS",
    "PHIS",
    "WINDOWS",
    "adashift",
    "last_before_previous_segment",
    "phi_blocks",
    "support_m",
    "support_v",
]


def _weighted_sum(w, history):
    """sum_i w_i x_{t-i}; what is outside the window is not touched (0 * inf is NaN)."""
    total = np.zeros_like(history[-1])
    for i, w_i in enumerate(w):
        if w_i != 0:
            total = total + w_i * history[-1 - i]
    return np.asarray(total)


def _clip(u, limit):
    """Every element of u limited to magnitude `limit`."""
    if not np.iscomplexobj(u):
        return np.clip(u, -limit, limit)
    size = np.abs(u)
    return np.where(size > limit, u / np.where(size > limit, size, 1.0) * limit, u)


def _scaled(x, size, v, vhat, eps, limit, guard=True):
    """clip(x / (sqrt(vhat) + eps)), and the same of `size` without clip.

    Both are 0 where v is still exactly 0: there is no scale yet.
    """
    denominator = np.sqrt(vhat) + eps
    u = x / denominator
    if limit is not None:
        u = _clip(u, limit)
    if guard:
        u = np.where(v == 0, 0, u)
    return np.asarray(u), np.asarray(np.where(v == 0, 0, size / denominator))


def _wide(grads):
    return [np.asarray(g, np.complex128 if np.iscomplexobj(g) else np.float64) for g in grads]


def _run(
    grads, n, b1, b2, eps, phi, axes=None, clip=None, window="sliding", of=None, warm=False,
    early=0, lag=0, guard=True, seeded=False,
):  # fmt: skip
    """Algorithm 1. Faults: v reads g_{t-n+early}; exponent t-n-lag; no guard: m/eps at v = 0.

    Seeded: the queue starts with g_1, gets g_1 again, and is read once it has n entries: at call
    n - 1 (n = 1: at the first), where the exponent t - n is -1.
    """
    first = max(n - 1, 1) if seeded else n + 1
    lag += n + 1 - first  # so that the exponent is t - n whatever the first step is
    grads = _wide(grads)
    of = grads if of is None else _wide(of)
    sizes = [np.abs(g) for g in grads]
    updates, scales, scaled = [], [], []
    with np.errstate(all="ignore"):
        pairs = v_and_vhat(of, n, b2, phi, axes, window, warm, early, lag, first)
        for t, g in enumerate(grads, 1):
            limit = clip(t - 1) if callable(clip) else clip
            pair = np.zeros_like(g), np.zeros(g.shape)  # u_t = 0 for t <= n
            if window == "ema":  # u_t = sum_i w_i s_{t-i}, s = clip(g / (sqrt(vhat) + eps))
                if t in pairs:
                    pair = _scaled(g, sizes[t - 1], *pairs[t], eps, limit)
                scaled.append(pair)
                w = ema_weights(0 if warm else n, b1, t)
                pair = tuple(_weighted_sum(w, history) for history in zip(*scaled, strict=True))
            elif t in pairs:  # u_t = clip(m_t / (sqrt(vhat_t) + eps)), m_t = sum_i w_i g_{t-i}
                w = (WINDOWS.get(window) or window)(n, b1, t)
                m, size = (_weighted_sum(w, history[:t]) for history in (grads, sizes))
                pair = _scaled(m, size, *pairs[t], eps, limit, guard)
            updates.append(pair[0])
            scales.append(pair[1])
    return updates, scales


def adashift(
    grads: list, n: int, b1: float, b2, eps: float, phi, axes=None, clip=None,
    window="sliding", of=None, warm=False,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """The updates u_t of one leaf, and what their rounding error is to be measured against.

    `scales[t-1]` is u_t with every g replaced by |g| and no clip: it does not shrink where the
    terms of m cancel. It is 0 where there is no scale. `clip`: a number, or a function of t - 1;
    it limits u, with the window 'ema' s.
    `b2`: a number, or a function of k = 1, 2, ... for the k-th square that enters v.
    `phi`: 'max', 'mean', 'none', 'factored' (a leaf of rank < 2: 'none', delayed by exactly n under
    either window) or a function of a block. `axes` is for a phi that reduces blocks.
    `window`: 'sliding', 'hopping', 'ema', or weights (n, b1, t) -> w of other sums of gradients
    than m.
    `of`: the gradients that v is made of, if they are others than those of m (by rounding).
    `warm`: up to t = n, v is made of g_1 .. g_t, and m is the mean of all gradients so far, with
    the weights b1^i; for 'ema' m is the mean of all s so far, and stays so after t = n.
    """
    if window not in WINDOWS and not callable(window):
        names = ", ".join(map(repr, WINDOWS))
        raise ValueError(f"window must be one of {names} or a function, got {window!r}")
    return _run(grads, n, b1, b2, eps, phi, axes, clip, window, of, warm)


def _reversed_weights(n, b1, t):
    """FAULT: the oldest gradient of the window gets b1^0 and the latest b1^(n-1)."""
    return np.concatenate([sliding_weights(n, b1, n)[::-1], np.zeros(t - n)])


def _late_weights(n, b1, t):
    """FAULT: S_t = b1 S_{t-1} + g_t - b1^n g_{t-n} entered with S_n = 0: lacks b1^(t-n) S_n."""
    w = sliding_weights(n, b1, t)
    for i in range(n):
        w[t - n + i] -= b1 ** (t - n) * b1**i / sum(b1**j for j in range(n))
    return w


def _fault(**switch):
    return lambda grads, n, b1, b2, eps, phi: _run(grads, n, b1, b2, eps, phi, **switch)[0]


# One for each row of 'From other code' in docs/deviations.md: wrong in that point and no other.
FAULTS = {
    "momentum_starts_late": _fault(window=_late_weights),  # no fault at b1 = 0
    "delay_n_minus_1": _fault(early=1),
    "queue_seeded_twice": _fault(seeded=True, early=1),  # NaN at call n - 1; n = 1: v holds g_t
    "bias_exponent_short": _fault(lag=1),  # v/0 = inf at the first real step: an update of 0
    "weights_reversed": _fault(window=_reversed_weights),  # no fault at n = 1
    "divides_by_eps": _fault(guard=False),  # seen only where v is still exactly 0
}
