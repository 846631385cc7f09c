# %% [markdown]
# # Choosing phi, n, the window and the learning rate
#
# Does AdaShift pay? Seven small tasks, eleven optimizers, five learning rates for each, the same
# seeds. The learning rate of each is chosen on tuning seeds; what is reported comes from other
# seeds, on data that was not trained on. Wins and losses against Adam are marked where the paired
# difference over the seeds exceeds two standard errors.

# %%
import itertools
import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import optax.contrib
from common import COLORS, QUICK, budget, table
from sklearn.datasets import load_digits

from adashift_optax import scale_by_adashift, state_bytes

STEPS = budget(300, 30)
TUNING, REPORTED = budget(3, 1), budget(6, 2)  # seeds
FACTORS = jnp.array([1.0, 3.0, 10.0, 30.0, 100.0]) if not QUICK else jnp.array([1.0, 10.0])

# %% [markdown]
# ## The tasks
#
# A task makes parameters and has a loss of a batch and a loss to report.


# %%
class Task(NamedTuple):
    init: callable  # key -> parameters
    loss: callable  # parameters, key -> loss of a random batch
    report: callable  # parameters -> loss on what was not trained on


def layers(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (i, o)) * (2 / i) ** 0.5, jnp.zeros(o)) for k, i, o in shapes]


def apply(net, x):
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = net[-1]
    return x @ w + b


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


digits, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(digits))
digits = jnp.asarray(digits[order] / 16, jnp.float32)
labels = jnp.asarray(labels[order])


def on_digits(init, loss):
    def batch_loss(params, key):
        i = jax.random.randint(key, (64,), 0, 1300)
        return loss(params, digits[i], labels[i])

    return Task(init, batch_loss, lambda params: loss(params, digits[1300:], labels[1300:]))


def convolve(params, x, y):
    kernels, net = params
    x = x.reshape(-1, 8, 8, 1)
    for kernel in kernels:
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x)
    return cross_entropy(apply(net, x.reshape(len(x), -1)), y)


def convolution_init(key):
    k1, k2, k3 = jax.random.split(key, 3)
    kernels = [
        jax.random.normal(k1, (3, 3, 1, 8)) * 0.4,
        jax.random.normal(k2, (3, 3, 8, 16)) * 0.15,
    ]
    return kernels, layers(k3, 64, 10)


paths = sorted(Path(sysconfig.get_path("stdlib")).glob("a*.py"))
text = np.frombuffer(b"".join(path.read_bytes() for path in paths)[:200_000], np.uint8)
text = jnp.asarray(text % 128, jnp.int32)
CONTEXT = 8


def next_byte(params, starts):
    table, net = params
    x = table[text[starts[:, None] + jnp.arange(CONTEXT)]]
    return cross_entropy(apply(net, x.reshape(len(starts), -1)), text[starts + CONTEXT])


def language_init(key):
    k1, k2 = jax.random.split(key)
    return jax.random.normal(k1, (128, 12)) * 0.3, layers(k2, 12 * CONTEXT, 48, 128)


LAST = len(text) * 9 // 10
language = Task(
    language_init,
    lambda p, key: next_byte(p, jax.random.randint(key, (64,), 0, LAST - CONTEXT)),
    lambda p: next_byte(p, jnp.arange(LAST, len(text) - CONTEXT, 7)),
)

# Ratings of 300 x 300, half of them seen: each batch touches few rows of either table.
truth = np.random.default_rng(1).standard_normal((2, 300, 4))
ratings = jnp.asarray(truth[0] @ truth[1].T / 2, jnp.float32)
seen = jnp.asarray(np.random.default_rng(2).random((300, 300)) < 0.5)


def factorize(params, i, j, weight):
    users, items = params
    error = (users[i] * items[j]).sum(-1) - ratings[i, j]
    return (weight * error**2).sum() / weight.sum()


def factors_batch(params, key):
    i, j = jax.random.randint(key, (2, 128), 0, 300)
    return factorize(params, i, j, seen[i, j].astype(jnp.float32))


rows, columns = jnp.meshgrid(jnp.arange(300), jnp.arange(300), indexing="ij")
embeddings = Task(
    lambda key: tuple(jax.random.normal(key, (2, 300, 8)) * 0.5),
    factors_batch,
    lambda p: factorize(p, rows, columns, 1.0 - seen),
)

# A linear model whose noise has no variance: rare gradients are huge.
target = jnp.asarray(np.random.default_rng(3).standard_normal(50), jnp.float32)


def heavy(params, key):
    k1, k2 = jax.random.split(key)
    x = jax.random.normal(k1, (16, 50))
    noise = jax.random.t(k2, 1.5, (16,))
    return jnp.mean((x @ params - x @ target - noise) ** 2)


tasks = {
    "logistic regression": on_digits(
        lambda key: layers(key, 64, 10), lambda p, x, y: cross_entropy(apply(p, x), y)
    ),
    "perceptron": on_digits(
        lambda key: layers(key, 64, 64, 64, 10), lambda p, x, y: cross_entropy(apply(p, x), y)
    ),
    "convolutions": on_digits(convolution_init, convolve),
    "autoencoder": on_digits(
        lambda key: layers(key, 64, 32, 6, 32, 64),
        lambda p, x, y: jnp.mean((apply(p, x) - x) ** 2),
    ),
    "next byte": language,
    "embeddings": embeddings,
    "heavy-tailed noise": Task(
        lambda key: jnp.zeros(50), heavy, lambda p: jnp.mean((p - target) ** 2)
    ),
}

# %% [markdown]
# ## The optimizers
#
# Each with the smallest learning rate of its grid: 3e-3, and ten times that for one v per array.
# The grid goes up to 100 times it. All follow the same cosine to 0 after 20 steps of warm-up.

# %%
NONE = {"phi": "none", "clip_value": 1.0}
FACTORED = {"phi": "factored", "clip_value": 1.0}


def rms():
    """Adam with b1 = 0."""
    return optax.scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True)


optimizers = {
    "Adam": (optax.scale_by_adam, 3e-3),
    "Adam, b1=0.5": (lambda: optax.scale_by_adam(b1=0.5), 3e-3),
    "AdamW": (lambda: optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-2)), 3e-3),
    "AMSGrad": (optax.scale_by_amsgrad, 3e-3),
    "ADOPT": (optax.contrib.scale_by_adopt, 3e-3),
    "max, n=10": (scale_by_adashift, 3e-2),
    "max, hopping, n=10": (lambda: scale_by_adashift(window="hopping"), 3e-2),
    "none, n=3, clipped": (lambda: scale_by_adashift(3, **NONE), 3e-3),
    "none, n=1, b1=0, clipped": (lambda: scale_by_adashift(1, 0.0, **NONE), 3e-3),
    "factored, n=1, b1=0, clipped, ema": (
        lambda: optax.chain(scale_by_adashift(1, 0.0, **FACTORED), optax.ema(0.5)),
        3e-3,
    ),
    "RMSProp, ema": (lambda: optax.chain(rms(), optax.ema(0.5)), 3e-3),
}


def train(task, make, rate, key):
    """The reported loss after training; both `rate` and `key` may be batched."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, 20 if not QUICK else 5, STEPS)
    tx = optax.chain(optax.clip_by_global_norm(10.0), make(), optax.scale_by_schedule(schedule))
    init_key, data_key = jax.random.split(key)
    params = task.init(init_key)

    def step(carry, t):
        params, state = carry
        grads = jax.grad(task.loss)(params, jax.random.fold_in(data_key, t))
        updates, state = tx.update(grads, state, params)
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))
    return task.report(params)


if QUICK:
    tasks = {name: tasks[name] for name in ("logistic regression", "embeddings")}
    optimizers = {name: optimizers[name] for name in ("Adam", "max, n=10", "none, n=3, clipped")}


def tuned(pair):
    """The best factor of the learning rate, and the losses reported with it."""
    task_name, name = pair
    make, base = optimizers[name]

    def run(rate, key):
        return train(tasks[task_name], make, rate, key)

    several = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    found = several(base * FACTORS, jax.random.split(jax.random.key(0), TUNING + REPORTED))
    found = np.where(np.isfinite(found), found, np.inf)
    best = found[:, :TUNING].mean(1).argmin()
    return float(FACTORS[best]), found[best, TUNING:]


pairs = list(itertools.product(tasks, optimizers))
with ThreadPoolExecutor(os.cpu_count()) as pool:  # the programs are too small for all cores
    rates, losses = (
        dict(zip(pairs, values, strict=True))
        for values in zip(*pool.map(tuned, pairs), strict=True)
    )

# %% [markdown]
# ## Losses relative to Adam's
#
# Below 1 is better than Adam. Bold: the difference exceeds two standard errors.

# %%
# Figure: Loss divided by Adam's loss, each optimizer at the best of its five learning rates. Below
# 1 (blue) an optimizer is better than Adam. A bold number differs from 1 by more than two standard
# errors.
# Alt: A table of colors with seven rows, the tasks, and ten columns, the optimizers. Each field
# holds a ratio, blue below 1 and red above 1.
names = [name for name in optimizers if name != "Adam"]
ratio = np.array([[losses[t, n].mean() / losses[t, "Adam"].mean() for n in names] for t in tasks])


def beyond_noise(task, name):
    difference = losses[task, name] - losses[task, "Adam"]
    return abs(difference.mean()) > 2 * difference.std(ddof=1) / REPORTED**0.5


clear = np.array([[beyond_noise(t, n) for n in names] for t in tasks])
figure, ax = plt.subplots(figsize=(9, 4.8))
limit = np.log(1.5)
ax.imshow(
    np.clip(np.log(ratio), -limit, limit), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"
)
for i, j in np.ndindex(ratio.shape):
    strong = abs(np.log(ratio[i, j])) > 0.7 * limit
    ax.text(
        j,
        i,
        f"{ratio[i, j]:.2f}" if ratio[i, j] < 10 else "> 10",
        ha="center",
        va="center",
        color="white" if strong else "black",
        weight="bold" if clear[i, j] else "normal",
    )
ax.set_yticks(range(len(tasks)), tasks)
ax.set_xticks(range(len(names)), [n.replace(", ", ",\n") for n in names], fontsize=9)
ax.set_title("loss / Adam's loss, each at its best of five learning rates")
ax.grid(visible=False)
plt.show()

# %%
rows = []
for t in tasks:
    for n in optimizers:
        runs = losses[t, n]
        error = 2 * runs.std(ddof=1) / REPORTED**0.5
        mark = ""
        if n != "Adam" and beyond_noise(t, n):
            mark = "win" if runs.mean() < losses[t, "Adam"].mean() else "loss"
        rows.append([t, n, f"{runs.mean():.4f}", f"± {error:.4f}", f"x {rates[t, n]:g}", mark])
table(["task", "optimizer", "loss", "2 std. errors", "best rate", "against Adam"], rows)

# %% [markdown]
# ## What it costs, and how far it is from Adam at worst
#
# The aim: one setting that needs no more memory than Adam and is within 1 % of it everywhere.

# %%
# Figure: The range over the seven tasks of the loss divided by Adam's, and the geometric mean
# (point). The number of bytes is the state per float32 parameter; Adam has 8.
# Alt: A horizontal line with a point for each of ten optimizers, over the loss divided by Adam's
# on a logarithmic scale from 0.5 to 3, with a vertical line at 1.
shape = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
held = {n: state_bytes(make(), shape) / 1024**2 for n, (make, _) in optimizers.items()}
worst = {n: float(ratio[:, j].max()) for j, n in enumerate(names)}
typical = {n: float(np.exp(np.log(ratio[:, j]).mean())) for j, n in enumerate(names)}
figure, ax = plt.subplots(figsize=(8, 4))
y = np.arange(len(names))
colors = [COLORS["AdaShift"] if "n=" in n else COLORS.get(n, COLORS["Adam"]) for n in names]
ax.hlines(y, ratio.min(0), np.minimum(ratio.max(0), 3), color=colors, linewidth=2)
ax.scatter(list(typical.values()), y, color=colors, zorder=3)
ax.axvline(1, color="black", linewidth=0.8)
labels_y = [f"{n}  ({held[n]:.0f} B)" for n in names]
ax.set_yticks(y, labels_y, fontsize=9)
ax.set(xscale="log", xlabel="loss / Adam's: best task, geometric mean, worst")
ax.set_xticks([0.5, 0.7, 1, 1.5, 2, 3], ["0.5", "0.7", "1", "1.5", "2", "3"])
ax.minorticks_off()
ax.invert_yaxis()
plt.show()
rows = [
    [n, f"{held[n]:.0f}", f"{typical[n]:.3f}", f"{worst[n]:.2f}", clear[:, j].sum()]
    for j, n in enumerate(names)
]
table(["", "bytes per parameter", "mean ratio", "worst ratio", "clear differences"], rows)

# %% [markdown]
# ## What was shown
#
# - No AdaShift setting that fits in Adam's memory is within 1 % of tuned Adam on every task: the
#   aim is missed. On average over the tasks `phi="none"` with a short delay and a clip is level
#   with Adam, in Adam's memory with n = 1 and b1 = 0.
# - The best on average, in half of Adam's memory: `phi="factored", n=1, b1=0`, clipped, and the
#   momentum after the scaling, by `optax.ema(0.5)`, as ADOPT has it. It is ahead of Adam, level
#   with Adam at b1 = 0.5, and behind both on the embeddings. It was the best of some twenty that
#   were tried on these very tasks and seeds: expect less elsewhere.
# - The same momentum after RMSProp, which is Adam without b1 and does not shift, is ahead of Adam
#   too, and so is Adam itself with b1 = 0.5, ahead of all other AdaShift settings. Some of what a
#   short window gains is a shorter momentum, not the shift.
# - Clear wins: the autoencoder, and noise with a heavy tail, where even the paper's "max" is far
#   ahead. There rare large gradients are noise: one v per array keeps them from moving much.
# - Clear losses: "max" on logistic regression, perceptron and convolutions; one v for a whole
#   array is too coarse. The hopping window does as the sliding one.
# - Start with `phi="none", n=3, clip_value=1.0` at Adam's learning rate, or with the factored
#   setting if memory counts and there are no embeddings; take "max" where gradients are rare and
#   large, with ten times the learning rate.
# - Seven small tasks of 300 steps: the losses in a row of the figure are close, and logistic
#   regression wants the largest learning rate of the grid.

# %%
if not QUICK:
    small = [n for n in names if "n=" in n and held[n] < 8.2]
    assert len(small) == 3
    assert min(worst[n] for n in small) > 1.01
    best = "factored, n=1, b1=0, clipped, ema"
    leaders = (best, "Adam, b1=0.5", "RMSProp, ema")
    others = [name for name in names if "n=" in name and name != best]
    assert max(typical[name] for name in leaders) < min(1, *(typical[name] for name in others))
    assert abs(typical[best] - typical["Adam, b1=0.5"]) < 0.05
    assert held[best] < 4.1
    for name in ("Adam", "Adam, b1=0.5"):
        assert losses["embeddings", best].mean() > losses["embeddings", name].mean()
    for name in ("none, n=3, clipped", "none, n=1, b1=0, clipped", best):
        assert name == best or 0.9 < typical[name] < 1.05
        for task in ("autoencoder", "heavy-tailed noise"):
            assert beyond_noise(task, name)
            assert losses[task, name].mean() < 0.9 * losses[task, "Adam"].mean()
    for name in ("max, n=10", "max, hopping, n=10"):
        assert (
            losses["heavy-tailed noise", name].mean()
            < 0.8 * losses["heavy-tailed noise", "Adam"].mean()
        )
        for task in ("logistic regression", "perceptron", "convolutions"):
            assert losses[task, name].mean() > 1.2 * losses[task, "Adam"].mean()
    both = ratio[:, [names.index("max, n=10"), names.index("max, hopping, n=10")]]
    assert np.all(np.abs(both[:, 0] / both[:, 1] - 1) < 0.1)
