"""What v_t and vhat_t are of every step, in NumPy, for `reference.py`.

The k-th square that enters v (k = 1, 2, ...) has the weight 1 - b2(k), and all before it fade by
b2(k): v = b2(k) v + (1 - b2(k)) x_k. vhat is v over the sum of the weights in it. Where x_k is not
finite, vhat stays as it was (0 if there is none yet).
"""

import functools

import numpy as np
from reference_windows import last_before_previous_segment

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


def _schedule(b2):
    """The function b2(k), also of a number."""
    return functools.cache(lambda k: float(b2(k) if callable(b2) else b2))


def _weights(b2, k):
    """The weights in v of its first k squares: (1 - b2(j)) b2(j+1) .. b2(k) for j = 1 .. k."""
    w, fade = np.zeros(max(k, 0)), 1.0
    for j in range(k, 0, -1):
        w[j - 1] = (1 - b2(j)) * fade
        fade *= b2(j)
    return w


def _weight(b2, k):
    """The sum of the weights. 1 - b2(1) .. b2(k) would lose digits for b2 near 1.

    k < 0 is for the fault of a queue that is seeded: 1 - b2^k of a constant.
    """
    return _weights(b2, k).sum() if k >= 0 else np.float64(1 - b2(1) ** k)


def _blocks(terms, b2, lag):
    """(v, vhat) after each of `terms`."""
    pairs = []
    v = vhat = 0.0
    for k, x in enumerate(terms, 1):
        v = b2(k) * v + (1 - b2(k)) * np.where(np.isfinite(x), x, vhat)
        vhat = v / _weight(b2, k - lag)
        pairs.append((v, vhat))
    return pairs


def _factored(squares, b2):
    """v = R_i C_j / mean_i(R), R and C the v of the row means and of the column means of g^2.

    Rows are axis -2, columns axis -1; each index of the leading axes has its own R and C.
    """
    rows = _blocks([phi_blocks(x, "mean", (-1,)) for x in squares], b2, 0)
    columns = _blocks([phi_blocks(x, "mean", (-2,)) for x in squares], b2, 0)
    pairs = []
    for k, ((r, _), (c, _)) in enumerate(zip(rows, columns, strict=True), 1):
        mean = phi_blocks(r, "mean", (-2,))
        v = np.where(mean == 0, 0, r / mean * c)
        pairs.append((v, v / _weight(b2, k)))
    return pairs


def _entered(squares, b2, phi, axes, lag=0):
    """(v, vhat) after each of `squares`, of which each enters v, in this order."""
    if phi == "factored" and squares and squares[0].ndim >= 2:
        return _factored(squares, b2)
    phi = "none" if phi == "factored" else phi
    return _blocks([phi_blocks(x, phi, axes) for x in squares], b2, lag)


def _segments(squares, n, b2):
    """v_t = sum_{j<=K} (1 - b2(j)) b2(j+1) .. b2(K) g_j^2, and vhat_t, of every step t > n.

    Where g_j^2 is not finite it counts as 0 (for n = 1 as vhat, as with the sliding window).
    """
    pairs, kept = [], []
    for t, square in enumerate(squares, 1):
        k = last_before_previous_segment(n, t)
        v = np.zeros_like(square)
        for w_j, x in zip(_weights(b2, k), kept, strict=False):  # `kept` goes on beyond K
            v = v + w_j * x
        vhat = v / _weight(b2, k) if k > 0 else v
        kept.append(np.where(np.isfinite(square), square, vhat if n == 1 else 0))
        pairs.append((v, vhat))
    return pairs[n:]


def v_and_vhat(grads, n, b2, phi, axes, window, warm, early=0, lag=0, first=None):
    """{t: (v_t, vhat_t)} for all steps t > n; with `warm` for those up to n too.

    At t > n the squares of g_{t-n} and older have entered, each once, or with phi='none' under the
    hopping window those up to K. Up to t = n, the squares of g_1 .. g_t have, and v starts anew
    after that. The last three arguments are for faults: see `reference.py`.
    """
    b2 = _schedule(b2)
    squares = [np.asarray(g.real**2 + g.imag**2) for g in grads]
    steps = range(n + 1 if first is None else first, len(squares) + 1)
    if phi == "none" and window == "hopping":
        pairs = _segments(squares, n, b2)
    else:
        delayed = [squares[max(t - n + early, 1) - 1] for t in steps]
        pairs = _entered(delayed, b2, phi, axes, lag)
    until_n = _entered(squares[:n], b2, phi, axes) if warm else []
    return dict(enumerate(until_n, 1)) | dict(zip(steps, pairs, strict=True))
