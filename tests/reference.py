"""Both optimizers in NumPy float64: slow, direct, and independent of the library.

`adashift` is Algorithm 1 by its definition: every gradient is kept, and the window and v are summed
afresh at every step. `factored` goes through a leaf element by element. One call handles one leaf;
steps are counted from t = 1.

Both return the updates of every step and what their rounding error is to be measured against: the
same sums of magnitudes, which do not shrink where the terms of m cancel. It is 0 where there is no
scale.
"""

import numpy as np

LARGEST = np.finfo(float).max
PHIS = {"max": np.max, "mean": np.mean}


def phi_blocks(g2, phi, axes=None):
    """phi(g^2[B]) for every block B: `axes` (None: all) reduced together and kept as size 1."""
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


def latest(n, b1, t):
    """The weights of g_t, g_{t-1} .. g_{t-n+1} in m_t: b1^i over their sum."""
    weights = np.array([b1**i for i in range(n)])
    return weights / weights.sum()


def adashift(
    grads, n=10, b1=0.9, b2=0.999, eps=1e-10, phi="max", axes=None, *,
    of=None, limit=LARGEST, window=latest,
):  # fmt: skip
    """The updates u_t of one leaf by Algorithm 1, and their scales.

    `phi`: 'max', 'mean', 'none' or a function of a block; `axes`: those of one block.
    `of`: the gradients that v is made of, if a queue rounds those of m.
    `limit`: a statistic above it does not join v.
    `window`: (n, b1, t) -> weights of the latest gradients, of another sum than m.
    """
    grads = _wide(grads)
    squares = [np.abs(g) ** 2 for g in (grads if of is None else _wide(of))]
    updates, scales, joined, v = [], [], [], 0.0
    for t, g in enumerate(grads, 1):
        if t <= n:
            updates.append(np.zeros_like(g))
            scales.append(np.zeros(g.shape))
            continue
        # v_t = sum_{j<=k} (1-b2) b2^(k-j) x_j with x_j = phi(g_j^2) and k = t - n
        x = phi_blocks(squares[t - n - 1], phi, axes)
        joined.append(np.where(x <= limit, x, v))
        weights = (1 - b2) * float(b2) ** np.arange(t - n)[::-1]
        v = _sum(zip(weights, joined, strict=True))
        vhat = v / weights.sum()
        # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
        terms = list(zip(window(n, b1, t), grads[t - 1 :: -1], strict=False))
        m, size = _sum(terms), _sum((w, np.abs(g)) for w, g in terms)
        denominator = np.where(v > 0, np.sqrt(vhat) + eps, np.inf)
        updates.append(np.where(v > 0, m / denominator, 0))
        scales.append(size / denominator)
    return updates, scales


def factored(grads, b1=0.8, b2=0.999, eps=1e-10, *, limit=LARGEST, kept=lambda m: m):
    """The updates u_t of one leaf of `adashift_factored`, and their scales.

    `limit`: a mean above it does not join, and an element whose share of v is above twice that
    makes a step of 0. `kept`: what the state makes of m.
    """
    grads = _wide(grads)
    zeros = np.zeros(grads[0].shape)
    old = _means(zeros)
    m, size = np.zeros_like(grads[0]), zeros
    updates, scales = [], []
    for t, g in enumerate(grads, 1):
        a = (1 - b2) / (1 - b2**t)
        g2 = np.abs(g) ** 2
        v = np.zeros(g.shape)
        for index in np.ndindex(g.shape):
            v[index] = (1 - a) * _product(old, index) + a * g2[index]
        s = np.where((v > 0) & (a * g2 / 2 <= limit), g / (np.where(v > 0, np.sqrt(v), 1) + eps), 0)
        m = kept(b1 * m + (1 - b1) * s)
        size = b1 * size + (1 - b1) * np.abs(s)
        of_m, of_s = b1 / (1 - b1 ** (t + 1)), (1 - b1) / (1 - b1**t)
        updates.append(of_m * m + of_s * s)
        scales.append(of_m * size + of_s * np.abs(s))
        old = [
            np.where(x <= limit, (1 - a) * before + a * x, before)
            for before, x in zip(old, _means(g2), strict=True)
        ]
    return updates, scales


def ema_of_scaled(grads, b1=0.9, b2=0.999, eps=1e-10, phi="max"):
    """`optax.ema(b1)` behind AdaShift with b1 = 0 and n = 1, and the scales.

    The bias correction counts all t steps, also the first, whose scaled gradient is 0.
    """
    both = adashift(grads, 1, 0, b2, eps, phi)
    steps = range(1, len(grads) + 1)
    weights = [(1 - b1) * b1 ** np.arange(t)[::-1] / (1 - b1**t) for t in steps]
    return tuple([_sum(zip(w, s, strict=False)) for w in weights] for s in both)


def _wide(grads):
    return [np.asarray(g, np.complex128 if np.iscomplexobj(g) else np.float64) for g in grads]


def _sum(terms):
    """The sum of w x. What has no weight is not touched, because 0 * inf is NaN."""
    total = 0.0
    for w, x in terms:
        total = total + (w * x if w != 0 else np.zeros_like(x))
    return np.asarray(total)


def _means(g2):
    """The means of squares over each row and over each column.

    Of a leaf of rank 0 or 1 the squares themselves.
    """
    if g2.ndim < 2:
        return [g2]
    *lead, m, n = g2.shape
    rows, columns = np.zeros((*lead, m)), np.zeros((*lead, n))
    for *index, i, j in np.ndindex(g2.shape):
        rows[(*index, i)] += g2[(*index, i, j)] / n
        columns[(*index, j)] += g2[(*index, i, j)] / m
    return [rows, columns]


def _product(old, index):
    """R_{t-1}[i] C_{t-1}[j] / mean(R_{t-1}) of one element; of a leaf without rows, its own v."""
    if len(old) == 1:
        return old[0][index]
    rows, columns = old
    *lead, i, j = index
    mean = rows[tuple(lead)].mean()
    return rows[(*lead, i)] / mean * columns[(*lead, j)] if mean > 0 else 0.0
