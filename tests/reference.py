"""Algorithm 1 of AdaShift in NumPy float64: slow, direct, and independent of the library.

Every gradient is kept, the window is summed afresh at every step, and nothing is shared with
`adashift_optax`. One call handles one leaf. Steps are counted from t = 1.
"""

import numpy as np

PHIS = {"max": np.max, "mean": np.mean}


def phi_blocks(g2, phi, axes: tuple[int, ...] | None) -> np.ndarray:
    """phi(g^2[B]) for every block B: `axes` (None: all) reduced together and kept as size 1."""
    g2 = np.asarray(g2, np.float64)
    if isinstance(phi, str) and phi == "none":
        return g2
    reduce = phi if callable(phi) else PHIS[phi]
    dims = range(g2.ndim)
    reduced = set(dims) if axes is None else {dims[a] for a in axes}
    out = np.zeros([1 if d in reduced else g2.shape[d] for d in dims])
    if g2.size:
        for kept in np.ndindex(out.shape):
            block = g2[tuple(slice(None) if d in reduced else kept[d] for d in dims)]
            out[kept] = reduce(np.asarray(block))
    return out


# Windows: the weights w_i of g_{t-i}, i = 0 .. t-1, so that m_t = sum_i w_i g_{t-i}.


def sliding_weights(n: int, b1: float, t: int) -> np.ndarray:
    """m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i."""
    w = np.zeros(t)
    for i in range(min(n, t)):
        w[i] = b1**i
    return w / sum(b1**i for i in range(n))


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


def _reversed_weights(n, b1, t):
    """FAULT: the oldest gradient of the window gets b1^0 and the latest b1^(n-1)."""
    return np.concatenate([sliding_weights(n, b1, n)[::-1], np.zeros(t - n)])


def _late_weights(n, b1, t):
    """FAULT: S_t = b1 S_{t-1} + g_t - b1^n g_{t-n} entered with S_n = 0: lacks b1^(t-n) S_n."""
    w = sliding_weights(n, b1, t)
    for i in range(n):
        w[t - n + i] -= b1 ** (t - n) * b1**i / sum(b1**j for j in range(n))
    return w


WINDOWS = {
    "sliding": sliding_weights,
    "hopping": hopping_weights,
    "reversed": _reversed_weights,
    "late": _late_weights,
}


def _weighted_sum(w, history):
    """sum_i w_i g_{t-i}; a gradient outside the window is not touched (0 * inf is NaN)."""
    total = np.zeros_like(history[-1])
    for i, w_i in enumerate(w):
        if w_i != 0:
            total = total + w_i * history[-1 - i]
    return total


def _clip(u, limit):
    """Every element of u limited to magnitude `limit`."""
    if not np.iscomplexobj(u):
        return np.clip(u, -limit, limit)
    size = np.abs(u)
    return np.where(size > limit, u / np.where(size > limit, size, 1.0) * limit, u)


# Scales: the pair (v_t, vhat_t) of every step t > n.


def _weight(b2, k):
    """1 - b2^k, the sum of the weights in v. The difference would lose digits for b2 near 1."""
    return np.float64((1 - b2) * sum(b2**j for j in range(k)))


def _delayed(terms, b2, lag=0):
    """v_t = b2 v_{t-1} + (1-b2) x_{t-n}, v_n = 0, and vhat_t = v_t / (1 - b2^(t-n)); k is t-n.

    Where x is not finite vhat stays as it was (0 if there is none yet).
    """
    pairs = []
    v = vhat = 0.0
    for k, x in enumerate(terms, 1):
        v = b2 * v + (1 - b2) * np.where(np.isfinite(x), x, vhat)
        vhat = v / _weight(b2, k - lag)
        pairs.append((v, vhat))
    return pairs


def _factored(terms, b2):
    """v = R_i C_j / mean_i(R), R and C delayed averages of the row and of the column means of g^2.

    Rows are axis -2, columns axis -1; each index of the leading axes has its own R and C.
    """
    rows = _delayed([phi_blocks(x, "mean", (-1,)) for x in terms], b2)
    columns = _delayed([phi_blocks(x, "mean", (-2,)) for x in terms], b2)
    vs = []
    for (r, _), (c, _) in zip(rows, columns, strict=True):
        mean = phi_blocks(r, "mean", (-2,))
        vs.append(np.where(mean == 0, 0, r / mean * c))
    return [(v, v / _weight(b2, k)) for k, v in enumerate(vs, 1)]


def last_before_previous_segment(n: int, t: int) -> int:
    """K (<= 0: none), where a segment of the hopping window begins at each phase 0 and n//2."""
    phase, h = (t - 1) % n, n // 2
    return t - 1 - phase if phase >= h else t - 1 - phase - (n - h)


def _segments(squares, n, b2):
    """v_t = sum_{j<=K} (1-b2) b2^(K-j) g_j^2 and vhat_t = v_t / (1 - b2^K).

    Where g_j^2 is not finite it counts as 0 (for n = 1 as vhat, as with the sliding window).
    """
    pairs, kept = [], []
    for t, square in enumerate(squares, 1):
        k = last_before_previous_segment(n, t)
        v = np.zeros_like(square)
        for j in range(1, k + 1):
            v = v + (1 - b2) * b2 ** (k - j) * kept[j - 1]
        vhat = v / _weight(b2, k) if k > 0 else v
        kept.append(np.where(np.isfinite(square), square, vhat if n == 1 else 0))
        pairs.append((v, vhat))
    return pairs[n:]


def support_m(n: int, b1: float, t: int, window: str = "sliding") -> set[int]:
    """The steps whose gradients are in m_t."""
    return {t - i for i, w_i in enumerate(WINDOWS[window](n, b1, t)) if w_i != 0}


def support_v(n: int, phi_elementwise: bool, window: str, t: int) -> set[int]:
    """The steps whose gradients are in v_t; phi='factored' is not `phi_elementwise`."""
    if phi_elementwise and window == "hopping":
        return set(range(1, last_before_previous_segment(n, t) + 1))
    return set(range(1, t - n + 1))


def _wide(grads):
    return [np.asarray(g, np.complex128 if np.iscomplexobj(g) else np.float64) for g in grads]


def _run(grads, n, b1, b2, eps, phi, axes=None, clip=None, window="sliding", of=None, **fault):
    """Algorithm 1. Faults: v reads g_{t-n+early}; exponent t-n-lag; no guard: m/eps at v = 0."""
    early, lag, guard = (fault.get(*pair) for pair in (("early", 0), ("lag", 0), ("guard", True)))
    grads, of = _wide(grads), _wide(grads if of is None else of)
    with np.errstate(all="ignore"):
        squares = [np.asarray(g.real**2 + g.imag**2) for g in of]
        delayed = [squares[t - n + early - 1] for t in range(n + 1, len(grads) + 1)]
        if phi == "none" and window == "hopping":
            pairs = _segments(squares, n, b2)
        elif phi == "factored" and grads and grads[0].ndim >= 2:
            pairs = _factored(delayed, b2)
        else:
            phi = "none" if phi == "factored" else phi
            pairs = _delayed([phi_blocks(x, phi, axes) for x in delayed], b2, lag)

    updates, scales = [], []
    for t, g in enumerate(grads, 1):
        if t <= n:  # u_t = 0 for t <= n
            updates.append(np.zeros_like(g))
            scales.append(np.zeros(g.shape))
            continue
        with np.errstate(all="ignore"):
            # m_t = sum_i w_i g_{t-i}, and the same sum of |g_{t-i}|
            w = (WINDOWS.get(window) or window)(n, b1, t)
            m = _weighted_sum(w, grads[:t])
            size = _weighted_sum(w, [np.abs(g) for g in grads[:t]])

            v, vhat = pairs[t - n - 1]
            denominator = np.sqrt(vhat) + eps
            u = m / denominator  # u_t = m_t / (sqrt(vhat_t) + eps)
            if clip is not None:
                u = _clip(u, clip(t - 1) if callable(clip) else clip)
            if guard:  # v still exactly 0: no scale yet, so no update
                u = np.where(v == 0, 0, u)
            updates.append(np.asarray(u))
            scales.append(np.asarray(np.where(v == 0, 0, size / denominator)))
    return updates, scales


def adashift(
    grads: list, n: int, b1: float, b2: float, eps: float, phi, axes=None, clip=None,
    window="sliding", of=None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """The updates u_t of one leaf, and what their rounding error is to be measured against.

    `scales[t-1]` is u_t with every g replaced by |g| and no clip: it does not shrink where the
    terms of m cancel. It is 0 where there is no scale. `clip`: a number, or a function of t - 1.
    `phi`: 'max', 'mean', 'none', 'factored' (a leaf of rank < 2: 'none', delayed by exactly n under
    either window) or a function of a block. `axes` is for a phi that reduces blocks.
    `window`: 'sliding', 'hopping' or weights (n, b1, t) -> w of other sums of gradients than m.
    `of`: the gradients that v is made of, if they are others than those of m (by rounding).
    """
    if window not in ("sliding", "hopping") and not callable(window):
        raise ValueError(f"window must be 'sliding', 'hopping' or weights, got {window!r}")
    return _run(grads, n, b1, b2, eps, phi, axes, clip, window, of)


def _fault(**switch):
    return lambda grads, n, b1, b2, eps, phi: _run(grads, n, b1, b2, eps, phi, **switch)[0]


# One entry for each row of 'Where published code goes wrong': wrong in that point and no other.
FAULTS = {
    "momentum_starts_late": _fault(window="late"),  # no fault at b1 = 0
    "delay_n_minus_1": _fault(early=1),
    "bias_exponent_short": _fault(lag=1),  # v/0 = inf at the first real step: an update of 0
    "weights_reversed": _fault(window="reversed"),  # no fault at n = 1
    "divides_by_eps": _fault(guard=False),  # seen only where v is still exactly 0
}
