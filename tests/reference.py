"""Both optimizers in NumPy float64: slow, direct, and independent of the library.

`adashift` is Algorithm 1 by its definition: every gradient is kept, and the window and v are summed
afresh at every step. `factored` goes through a leaf element by element. One call handles one leaf;
steps are counted from t = 1.

Both return the updates of every step and what their rounding error is to be measured against: the
same sums of magnitudes, which do not shrink where the terms of m cancel. It is 0 where there is no
scale.
"""

import numpy as np

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


def adashift(
    grads, n=10, b1=0.9, b2=0.999, eps=1e-10, phi="max", axes=None, *, of=None, limit=np.inf
):
    """The updates u_t of one leaf by Algorithm 1, and their scales.

    `phi`: 'max', 'mean', 'none' or a function of a block; `axes`: those of one block.
    `of`: the gradients that v is made of, if a queue rounds those of m.
    `limit`: a statistic above it does not join v.
    """
    grads = _wide(grads)
    squares = [np.abs(g) ** 2 for g in (grads if of is None else _wide(of))]
    window = np.array([b1**i for i in range(n)])
    window = window / window.sum()
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
        v = _sum(weights, joined)
        vhat = v / weights.sum()
        # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
        latest = grads[t - n : t][::-1]
        m, size = _sum(window, latest), _sum(window, [np.abs(g) for g in latest])
        denominator = np.where(v > 0, np.sqrt(vhat) + eps, np.inf)
        updates.append(m / denominator)
        scales.append(size / denominator)
    return updates, scales


def factored(grads, b1=0.9, b2=0.999, eps=1e-10, *, limit=np.inf, kept=lambda m: m):
    """The updates u_t of one leaf of `adashift_factored`, and their scales.

    `limit`: an element whose square is above it makes a step of 0, and a mean above it does not
    join. `kept`: what the state makes of m.
    """
    grads = _wide(grads)
    zeros = np.zeros(grads[0].shape)
    old = [zeros] if zeros.ndim < 2 else _means(zeros)
    m, size = np.zeros_like(grads[0]), zeros
    updates, scales = [], []
    for t, g in enumerate(grads, 1):
        a = max(1 - b2, t**-0.8)
        g2 = np.abs(g) ** 2
        v = np.zeros(g.shape)
        for index in np.ndindex(g.shape):
            v[index] = (1 - a) * _product(old, index) + a * g2[index]
        s = np.where((v > 0) & (g2 <= limit), g / (np.where(v > 0, np.sqrt(v), 1) + eps), 0)
        m = kept(b1 * m + (1 - b1) * s)
        size = b1 * size + (1 - b1) * np.abs(s)
        last, now = b1 / (1 - b1 ** (t + 1)), (1 - b1) / (1 - b1**t)
        updates.append(last * m + now * s)
        scales.append(last * size + now * np.abs(s))
        means = [g2] if g.ndim < 2 else _means(g2)
        old = [
            np.where(x <= limit, (1 - a) * before + a * x, before)
            for before, x in zip(old, means, strict=True)
        ]
    return updates, scales


def ema_of_scaled(grads, b1=0.9, b2=0.999, eps=1e-10, phi="max"):
    """`optax.ema(b1)` behind AdaShift with b1 = 0 and n = 1, and the scales.

    The bias correction counts all t steps, also the first, whose scaled gradient is 0.
    """
    both = adashift(grads, 1, 0, b2, eps, phi)
    weights = [
        (1 - b1) * b1 ** np.arange(t + 1)[::-1] / (1 - b1 ** (t + 1)) for t in range(len(grads))
    ]
    return tuple([_sum(w, s[: len(w)]) for w in weights] for s in both)


def _wide(grads):
    return [np.asarray(g, np.complex128 if np.iscomplexobj(g) else np.float64) for g in grads]


def _sum(weights, arrays):
    """The weighted sum. What has no weight is not touched, because 0 * inf is NaN."""
    total = np.zeros_like(arrays[0])
    for w, x in zip(weights, arrays, strict=True):
        if w != 0:
            total = total + w * x
    return np.asarray(total)


def _means(g2):
    """The means of squares over each row, over each column, and over all of each matrix."""
    rows, columns = np.zeros(g2.shape[:-1]), np.zeros((*g2.shape[:-2], g2.shape[-1]))
    for i in range(g2.shape[-2] if g2.size else 0):
        rows[..., i] = sum(g2[..., i, j] for j in range(g2.shape[-1])) / g2.shape[-1]
    for j in range(g2.shape[-1] if g2.size else 0):
        columns[..., j] = sum(g2[..., i, j] for i in range(g2.shape[-2])) / g2.shape[-2]
    whole = sum(rows[..., i] for i in range(g2.shape[-2])) / max(g2.shape[-2], 1)
    return rows, columns, np.asarray(whole)


def _product(old, index):
    """R_{t-1}[i] C_{t-1}[j] / mean(R_{t-1}) of one element; of a leaf without rows, its own v."""
    if len(old) == 1:
        return old[0][index]
    rows, columns, whole = old
    *lead, i, j = index
    mean = whole[tuple(lead)]
    return rows[(*lead, i)] / mean * columns[(*lead, j)] if mean > 0 else 0.0
