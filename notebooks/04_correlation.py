# %% [markdown]
# # Is v correlated with the gradient in a real network?
#
# **Is Adam's second moment $v_t$ correlated with the square of the gradient that it scales, and
# does a delay remove this correlation?** AdaShift assumes that both answers are yes. This notebook
# is for you if you want to check these premises, or if you choose the delay n. At its end you know
# both correlations for every layer of a small network.
#
# Adam's $v_t$ contains $g_t^2$, so the two are correlated. For independent gradients the
# correlation is $\sqrt{1 - \beta_2^2}$ with $\beta_2$ = `b2`: 0.436 for b2 = 0.9 and 0.045 for b2 =
# 0.999. AdaShift's $v_t$ contains only gradients that are at least n steps old. It is uncorrelated
# with $g_t^2$ if gradients n steps apart are nearly independent.
#
# The authors compared Adam at b2 = 0.9 with AdaShift at b2 = 0.999. Such a comparison mixes the
# effect of the delay with the effect of b2. We compare at equal b2, and show the authors'
# comparison beside ours.

# %% [markdown]
# ## What is recorded?
#
# A Flax network with three layers learns scikit-learn's handwritten digits with Adam. We record the
# gradients of its kernels, once with batches of 32, as in common training, and once with batches of
# 512, which have much less noise. Each run has 200 steps of warm-up and 400 steps that are
# measured.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import QUICK, band, budget, color, table
from flax import nnx
from sklearn.datasets import load_digits

from adashift_optax import adashift
from adashift_optax.analysis import correlation, lagged_correlation, second_moments

SEEDS = budget(5, 2)
WARM_UP = budget(200, 150)
RECORDED = budget(400, 150)
B2 = (0.9, 0.99, 0.999)
LAYERS = ("first", "second", "last")

pixels, labels = load_digits(return_X_y=True)
pixels, labels = jnp.asarray(pixels / 16, jnp.float32), jnp.asarray(labels)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 32, rngs=rngs)
        self.second = nnx.Linear(32, 32, rngs=rngs)
        self.last = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.second(nnx.relu(self.first(x)))))


GRAPH = nnx.graphdef(Net(nnx.Rngs(0)))
STARTS = jax.tree.map(
    lambda *leaves: jnp.stack(leaves),
    *[nnx.to_pure_dict(nnx.state(Net(nnx.Rngs(seed)))) for seed in range(SEEDS)],
)


def epochs(seed, batch):
    """Rows of the examples of each step: every epoch in a new order."""
    rng = np.random.default_rng(seed)
    per_epoch = len(pixels) // batch
    count = -(-(WARM_UP + RECORDED) // per_epoch)
    rows = [rng.permutation(len(pixels))[: per_epoch * batch] for _ in range(count)]
    return np.concatenate(rows).reshape(-1, batch)[: WARM_UP + RECORDED]


def loss_fn(params, x, y):
    logits = nnx.merge(GRAPH, params)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
@jax.vmap
def recorded(rows, params):
    """Train with Adam: the losses and the gradients of the kernels, [steps, ...]."""
    tx = optax.adam(1e-3)

    def step(carry, rows):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, pixels[rows], labels[rows])
        updates, state = tx.update(grads, state, params)
        kernels = {layer: grads[layer]["kernel"] for layer in LAYERS}
        return (optax.apply_updates(params, updates), state), (loss, kernels)

    return jax.lax.scan(step, (params, tx.init(params)), rows)[1]


def layer_mean(values, grads):
    """Mean over the weights whose gradient varies: dark corner pixels' never does."""
    live = jnp.max(jnp.abs(grads), 0) > 0
    return jnp.sum(jnp.where(live, values, 0), (-2, -1)) / jnp.sum(live)


batches = {batch: np.stack([epochs(s, batch) for s in range(SEEDS)]) for batch in (32, 512)}
runs = {batch: recorded(rows, STARTS) for batch, rows in batches.items()}
moments = slice(WARM_UP - 20, WARM_UP), slice(-20, None)
table(
    ["training loss", f"step {WARM_UP}", f"step {WARM_UP + RECORDED}"],
    [
        [f"batch {batch}", *(f"{losses[:, steps].mean():.3f}" for steps in moments)]
        for batch, (losses, _) in runs.items()
    ],
)

# %% [markdown]
# ## How fast do gradients become independent?
#
# For each weight we correlate $g_t$ with $g_{t-k}$ over the measured steps, and $g_t^2$ with
# $g_{t-k}^2$. Then we average over the weights of a layer. The *lag* k is a number of steps.

# %%
LAGS = tuple(k for k in (1, 2, 3, 5, 7, 10, 14, 20, 30, 40) if k < RECORDED // 2)


@jax.jit
@jax.vmap
def forgetting(grads):
    """[gradient or square, layer, lag]."""
    late = [grads[layer][WARM_UP:] for layer in LAYERS]
    return jnp.array(
        [[layer_mean(lagged_correlation(g**p, LAGS), g) for g in late] for p in (1, 2)]
    )


forget = {batch: np.asarray(forgetting(grads)) for batch, (_, grads) in runs.items()}

# %%
# Figure: With batches of 32 (solid) gradients are nearly uncorrelated from lag 1 on, and so are
# their squares. With batches of 512 (dashed) gradients one step apart are correlated by about
# -0.12, and squares by about 0.06 at all lags. Bands reach from quartile to quartile over the
# seeds.
# Alt: Two panels over the lag from 1 to 40, with one curve for each of three layers and two batch
# sizes. Left: correlation of gradients, between -0.13 and 0.07. Right: correlation of their
# squares, near 0 for batches of 32 and between 0.04 and 0.08 for batches of 512.
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(9, 4.4))
titles = "$g_t$ with $g_{t-k}$", "$g_t^2$ with $g_{t-k}^2$"
SHADES = dict(zip(LAYERS, ("#440154", "#21918c", "#b5a200"), strict=True))
for power, (ax, title) in enumerate(zip(axes, titles, strict=True)):
    for i, (layer, shade) in enumerate(SHADES.items()):
        for batch, style in ((32, "-"), (512, "--")):
            label = f"{layer} layer, batch {batch}"
            band(ax, LAGS, forget[batch][:, power, i], label, color=shade, linestyle=style)
    ax.axhline(0, color="gray", linewidth=0.8)
    ax.set(title=title, xscale="log", xlabel="lag k (steps)")
    ax.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    ax.minorticks_off()
axes[0].set_ylabel("correlation over time")
fig.suptitle("With batches of 32, gradients are nearly independent from one step to the next")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# With batches of 512 an epoch has only three batches. An example in one batch cannot be in the next
# one of the same epoch, which explains the negative correlation at lag 1. The squares stay
# correlated over 40 steps, so a delay of this length cannot remove their correlation.
#
# ## How strongly is $g_t^2$ correlated with $v_t$ at equal b2?
#
# The recorded gradients of batches of 32 go through Adam and through AdaShift with different n, so
# that only $v$ differs. `phi="max"` has one $v$ for each *leaf*, which is one array of the
# parameter tree, and `phi="none"` has one $v$ for each element. We correlate $g_t^2$ with the
# bias-corrected $v_t$ that scales the update of step t. `phi="factored"` is left out, because its
# state has no $v$, but the factors of one.
#
# **For n = 1 the state's `nu` is the $v$ of the next step.** For n > 1 the state after step t holds
# the $v_t$ that scaled update t, as Adam's does. For n = 1 the update of step t is scaled with the
# `nu` that step t - 1 left, and then $g_t^2$ joins `nu`. So for n = 1 we read `nu` from the state
# before the update (see the docstring of `analysis.second_moments`).
#
# We also put the same gradients into a random order. Then they are independent, so Adam should have
# the correlation of the formula, and AdaShift should have 0.

# %%
DELAYS = budget((1, 3, 10, 30), (1, 10))
ORDER = np.random.default_rng(0).permutation(RECORDED)
kernels = runs[32][1]
shuffled = jax.tree.map(lambda g: g.at[:, WARM_UP:].set(g[:, WARM_UP + ORDER]), kernels)
both = jax.tree.map(lambda *g: jnp.stack(g), kernels, shuffled)


def measured(make, n):
    """[b2, real or shuffled, seed, layer]: the mean correlation of g_t^2 with v_t."""
    t = 1 + jnp.arange(WARM_UP, WARM_UP + RECORDED)[:, None, None]

    def one(b2, grads):
        tx = make(b2)
        params = jax.tree.map(lambda g: g[0], grads)

        def step(before, grads):
            after = tx.update(grads, before, params)[1]
            # With n = 1 the state after the update holds the v of the next step.
            return after, second_moments(before if n == 1 else after, params)

        v = jax.lax.scan(step, tx.init(params), grads)[1]
        v, late = (jax.tree.map(lambda x: x[WARM_UP:], tree) for tree in (v, grads))
        v = jax.tree.map(lambda v: v / (1 - b2 ** (t - n)), v)
        return jnp.array([layer_mean(correlation(late[k] ** 2, v[k]), late[k]) for k in LAYERS])

    @jax.jit
    def all_runs(grads):
        over_runs = jax.vmap(jax.vmap(one, (None, 0)), (None, 0))
        return jax.lax.map(lambda b2: over_runs(b2, grads), jnp.array(B2))

    return np.asarray(all_runs(both))


found = {("Adam", 0): measured(lambda b2: optax.adam(1e-3, b2=b2), 0)}
for n in DELAYS:
    found["AdaShift (max)", n] = measured(lambda b2, n=n: adashift(1e-2, n, b2=b2), n)
    found["AdaShift (none)", n] = measured(lambda b2, n=n: adashift(1e-3, n, b2=b2, phi="none"), n)

# %%
# Figure: At b2 = 0.9 Adam's correlation is 0.44, and a delay of one step removes nearly all of it.
# At b2 = 0.999 Adam's is small too. Open markers are the same gradients in random order.
# Alt: Three panels, for b2 = 0.9, 0.99 and 0.999: the correlation for Adam and for AdaShift with
# max and none at n = 1, 3, 10 and 30, with one marker for each layer. Adam is near 0.44, 0.15 and
# 0.08; AdaShift lies between -0.05 and 0.07. A dashed line shows the formula for Adam.
OFFSETS = {"AdaShift (max)": -0.15, "AdaShift (none)": 0.15}
TICKS = ["Adam", *(f"n = {n}" for n in DELAYS)]
fig, axes = plt.subplots(1, len(B2), sharey=True, figsize=(9, 4.8))
for i, (ax, b2) in enumerate(zip(axes, B2, strict=True)):
    for (name, n), values in found.items():
        x = (DELAYS.index(n) + 1 if n else 0) + OFFSETS.get(name, 0)
        for j, marker in enumerate("os^"):
            real, independent = np.median(values[i, :, :, j], axis=-1)
            style = {"color": color(name), "marker": marker, "linestyle": "none", "markersize": 5}
            label = name if not j and n in (0, DELAYS[0]) else None
            ax.plot(x, real, label=label, **style)
            ax.plot(x + 0.1, independent, fillstyle="none", alpha=0.6, **style)
    closed = np.sqrt(1 - b2**2)
    ax.plot([-0.5, 0.5], [closed] * 2, "--", color="gray", label="Adam, formula")
    ax.axhline(0, color="gray", linewidth=0.8)
    ax.set(title=f"b2 = {b2}", xlim=(-0.6, len(TICKS) - 0.4))
    ax.set_xticks(range(len(TICKS)), TICKS, rotation=60)
    ax.grid(axis="x", visible=False)
axes[0].set_ylabel("correlation of $g_t^2$ with $v_t$")
handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
for marker, layer in zip("os^", LAYERS, strict=True):
    handles[f"{layer} layer"] = plt.Line2D([], [], color="gray", marker=marker, linestyle="none")
handles["in random order"] = plt.Line2D(
    [], [], color="gray", marker="o", linestyle="none", fillstyle="none", alpha=0.6
)
fig.suptitle("At b2 = 0.9 a delay of one step removes nearly all of Adam's correlation")
fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# At b2 = 0.99 and 0.999 Adam's correlation is somewhat above that of the same gradients in random
# order. This part comes from the slow change of the gradients over time. With `phi="max"` a little
# of it is left in AdaShift too. A delay longer than one step gains little here.
#
# ## How much of the authors' contrast comes from the delay?
#
# We take n = 10 and average over the layers. The left group is the authors' comparison, the other
# two are ours.

# %%
# Figure: Left: the authors' comparison. Middle and right: the comparison at equal b2. Adam at b2 =
# 0.999 is far lower than at 0.9, so most of the contrast on the left comes from b2.
# Alt: Three groups of three bars, for Adam, AdaShift (max, n=10) and AdaShift (none, n=10). Adam at
# 0.9 and AdaShift at 0.999: 0.44, 0.01, -0.01. Both at 0.9: 0.44, 0.05, 0.02. Both at 0.999: 0.08,
# 0.01, -0.01.
GROUPS = {"Adam 0.9,\nAdaShift 0.999": (0, 2), "both 0.9": (0, 0), "both 0.999": (2, 2)}
N = 10
SHOWN = {
    "Adam": found["Adam", 0],
    f"AdaShift (max, n={N})": found["AdaShift (max)", N],
    f"AdaShift (none, n={N})": found["AdaShift (none)", N],
}
fig, ax = plt.subplots(figsize=(8, 3.8))
for i, (name, values) in enumerate(SHOWN.items()):
    chosen = [values[b2[bool(i)], 0].mean(-1) for b2 in GROUPS.values()]
    low, middle, high = np.quantile(chosen, [0.25, 0.5, 0.75], axis=1)
    x = np.arange(len(GROUPS)) + 0.25 * (i - 1)
    ax.bar(x, middle, 0.22, color=color(name), label=name, yerr=(middle - low, high - middle))
    for at, height in zip(x, middle, strict=True):
        ax.text(at, max(height, 0) + 0.012, f"{height:.2f}", ha="center", fontsize=9)
ax.set_xticks(range(len(GROUPS)), GROUPS)
ax.set(xlabel="b2", ylabel="correlation of $g_t^2$ with $v_t$")
ax.set_title("The contrast is large at b2 = 0.9 and small at b2 = 0.999")
ax.axhline(0, color="gray", linewidth=0.8)
ax.margins(y=0.1)
ax.grid(axis="x", visible=False)
ax.legend()
plt.show()

# %% [markdown]
# ## The answer
#
# In this network Adam's $v_t$ is correlated with $g_t^2$ about as the formula for independent
# gradients says: by 0.44 at b2 = 0.9, but by only 0.08 at b2 = 0.999, which is Adam's usual value.
# With batches of 32 a delay of one step removes nearly all of the correlation at b2 = 0.9 and, on
# average over the layers, more than half at 0.99 and 0.999, and a longer delay gains little. These
# correlations do not say which optimizer trains better; see
# [Choosing the arguments](../docs/choosing.md) for that.

# %%
adam = found["Adam", 0].mean((2, 3))  # [b2, real or shuffled]
delayed = np.array([values.mean(2)[:, 0] for (name, _), values in found.items() if name != "Adam"])
assert adam[0, 0] > 0.3
assert np.all(delayed[:, 0] < adam[0, 0])  # at b2 = 0.9
if not QUICK:
    assert adam[0, 0] > adam[1, 0] > adam[2, 0]
    iid = np.sqrt(1 - np.array(B2) ** 2)
    assert np.all(np.abs(adam[:, 1] - iid) < 0.05)
    assert abs(adam[0, 0] - iid[0]) < 0.03
    assert np.all(adam[1:, 0] > adam[1:, 1])
    assert np.all(delayed.mean(-1) < 0.5 * adam[:, 0])
    assert np.abs(delayed).max() < 0.1
    assert np.abs(delayed.mean(-1)).max() < 0.07
    assert adam[2, 0] < 0.12
    gradients, squares = forget[32].mean(0)
    assert np.abs(gradients).max() < 0.1
    assert np.abs(squares).max() < 0.03
    gradients, squares = forget[512].mean(0)
    assert np.all((gradients[:, 0] < -0.08) & (gradients[:, 0] > -0.2))
    assert 0.03 < squares.mean() < 0.1
