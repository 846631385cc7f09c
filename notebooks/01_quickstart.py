# %% [markdown]
# # A first look
#
# AdaShift is Adam with one change: the second moment $v_t$, which scales the step, is made from
# gradients that are at least $n$ steps old, and the momentum $m_t$ from the $n$ newer ones. The two
# share no gradient, so a large gradient cannot shrink its own step. In a training loop it is one
# line.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import COLORS, QUICK, budget
from flax import nnx
from sklearn.datasets import load_digits

from adashift_optax import adashift, scale_by_adashift, state_bytes

images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images / 16, jnp.float32)
labels = jnp.asarray(labels)
train, test = slice(0, 1400), slice(1400, None)

# %% [markdown]
# ## One line of a Flax loop
#
# A network, its loss, a step: nothing here knows which optimizer it gets.


# %%
class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_fn(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads)
    return loss


def train_with(tx, steps, seed=0):
    model = Network(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    order = np.random.default_rng(seed).integers(0, 1400, (steps, 64))
    losses = [float(train_step(model, optimizer, images[i], labels[i])) for i in order]
    accuracy = float(jnp.mean(model(images[test]).argmax(-1) == labels[test]))
    return np.array(losses), accuracy


steps = budget(500, 150)
losses, accuracies = {}, {}
for name, tx in {"Adam": optax.adam(1e-3), "AdaShift": adashift(1e-2)}.items():
    losses[name], accuracies[name] = train_with(tx, steps)

figure, (whole, start) = plt.subplots(1, 2, width_ratios=[2, 1])
for name, curve in losses.items():
    smooth = np.convolve(curve, np.ones(10) / 10, "valid")
    whole.plot(np.arange(10, steps + 1), smooth, color=COLORS[name], label=name)
    start.plot(np.arange(1, 31), curve[:30], ".-", color=COLORS[name], label=name)
whole.set(xlabel="step", ylabel="training loss (mean of 10 steps)", yscale="log")
whole.legend()
start.axvspan(0.5, 11, color=COLORS["AdaShift"], alpha=0.12, linewidth=0)
start.set(xlabel="step", title="the first 30 steps")
where = start.get_xaxis_transform()
start.text(5.7, 0.02, "no update\nyet", transform=where, ha="center", fontsize=9)
plt.show()
print({name: f"{accuracy:.1%}" for name, accuracy in accuracies.items()})

# %% [markdown]
# **The first n updates are exactly zero** (n = 10 here; the shaded steps see the initial
# parameters): the window of recent gradients fills, and there is no older gradient to make v from.
# Take about 10 times Adam's learning rate for the default `phi="max"`: it divides every element by
# the *largest* gradient of its kernel, which makes smaller steps than dividing each by its own.
# Nothing was tuned here: notebook 9 compares at an equal budget.
#
# ## `n` and `window`: which gradients are in the momentum
#
# Feed it gradients of which each is 1 in an entry of its own. Then the update of step t shows the
# weight of every earlier gradient in $m_t$, and v, the largest square, is 1 throughout.

# %%
weights = {}
for window in ("sliding", "hopping"):
    tx = scale_by_adashift(n=10, b1=0.9, window=window)
    _, rows = jax.lax.scan(
        lambda s, g, tx=tx: tx.update(g, s)[::-1], tx.init(jnp.zeros(40)), jnp.eye(40)
    )
    weights[window] = np.asarray(rows)

figure, axes = plt.subplots(1, 2, sharey=True)
for ax, (window, w) in zip(axes, weights.items(), strict=True):
    picture = ax.imshow(w, cmap="Blues", origin="lower", extent=(0.5, 40.5, 0.5, 40.5))
    ax.plot([1, 30], [11, 40], color="#D55E00", linewidth=1, linestyle="--")
    ax.text(8, 25, "only in v", color="#D55E00", rotation=45, ha="center", va="center", fontsize=9)
    ax.set(title=f'window="{window}"', xlabel="gradient of step")
    ax.grid(visible=False)
axes[0].set(ylabel="update of step")
figure.colorbar(picture, ax=axes, label="weight in the momentum")
plt.show()

# %% [markdown]
# The sliding window (the paper's) holds the latest 10 gradients and must keep them. The hopping
# one, a variant of ours, holds between 6 and 10 of them, and keeps none: it costs as much memory as
# Adam for any n. In both the momentum never reaches beyond the dashed line, where v begins.
#
# ## `phi` and `clip_value`: how large single steps are
#
# `phi` says how the squared gradients of a kernel are summarized. Below: the sizes of all elements
# of the update, before the learning rate, of the hidden kernel over 50 steps of training.

# %%
forms = {
    "Adam": optax.scale_by_adam(),
    'phi="max"': scale_by_adashift(),
    'phi="mean"': scale_by_adashift(phi="mean"),
    'phi="factored"': scale_by_adashift(phi="factored"),
    'phi="none"': scale_by_adashift(phi="none"),
    'phi="none",\nclip_value=1': scale_by_adashift(phi="none", clip_value=1.0),
}
sizes = {}
for name, form in forms.items():
    graph, params = nnx.split(Network(nnx.Rngs(0)))
    driver = optax.adam(1e-3)  # so that all see the same parameters
    state, driver_state, kept = form.init(params), driver.init(params), []
    rng = np.random.default_rng(0)

    @jax.jit
    def step(params, state, driver_state, x, y, form=form, graph=graph, driver=driver):
        grads = jax.grad(lambda p: loss_fn(nnx.merge(graph, p), x, y))(params)
        update, state = form.update(grads, state)
        move, driver_state = driver.update(grads, driver_state)
        return optax.apply_updates(params, move), state, driver_state, update

    for t in range(budget(100, 40)):
        i = rng.integers(0, 1400, 64)
        params, state, driver_state, update = step(
            params, state, driver_state, images[i], labels[i]
        )
        if t >= budget(50, 20):
            kept.append(np.abs(update["hidden"]["kernel"][...]).ravel())
    kept = np.concatenate(kept)
    sizes[name] = np.quantile(kept[kept > 0], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])

figure, ax = plt.subplots()
for i, q in enumerate(sizes.values()):
    ax.plot([i, i], [max(q[1], 1e-4), q[5]], color="#0072B2", linewidth=3)
    ax.plot([i, i], [max(q[2], 1e-4), q[4]], color="#0072B2", linewidth=11)
    ax.plot(i, q[3], "o", color="white", markersize=5)
    ax.plot(i, q[6], "v", color="#D55E00", markersize=6)
ax.axhline(1, color="black", linewidth=0.8)
ax.set(yscale="log", ylabel="size of an element of the update", xticks=range(len(sizes)))
ax.set_xticklabels(sizes, fontsize=9)
ax.set_title("middle half, 90 % (bars), median (dot), largest (triangle)")
plt.show()

# %% [markdown]
# Adam's updates rarely exceed 1. With "max" almost all are far smaller, hence the larger
# learning rate. With "none" v can be far too small for today's gradient, and single steps become
# huge: clip them. "factored" is element-wise too, from row and column means.
#
# ## What it holds in memory

# %%
params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
held = {
    "Adam": optax.adam(1e-3),
    "max, n=10": adashift(1e-2),
    "max, n=10, bfloat16 queue": adashift(1e-2, queue_dtype=jnp.bfloat16),
    "none, n=10": adashift(1e-2, phi="none"),
    "none, hopping": adashift(1e-2, phi="none", window="hopping"),
    "max, hopping, any n": adashift(1e-2, window="hopping"),
    "factored, hopping, any n": adashift(1e-2, phi="factored", window="hopping"),
    "max, b1=0": adashift(1e-2, b1=0.0),
}
held = {name: state_bytes(tx, params) / 1024**2 for name, tx in held.items()}
figure, ax = plt.subplots(figsize=(7, 3.2))
bars = ax.barh(list(held), list(held.values()), color=[COLORS["Adam"]] + [COLORS["AdaShift"]] * 7)
ax.bar_label(bars, [f"{value:.0f}" for value in held.values()], padding=3)
ax.set(xlabel="bytes of optimizer state per float32 parameter")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()

# %% [markdown]
# ## What was shown
#
# - AdaShift replaces Adam in one line and trains this network as well.
# - Its first n updates are exactly zero.
# - The momentum holds at most the n latest gradients, in either window.
# - Unclipped, `phi="none"` makes some steps far larger than Adam ever does.
# - The hopping window needs Adam's memory.

# %%
assert losses["AdaShift"][10] != losses["Adam"][10]
first = train_with(adashift(1e-2), 11)[0]
frozen = train_with(optax.set_to_zero(), 11)[0]
np.testing.assert_array_equal(first, frozen)
held_by = {window: w[10:] > 1e-6 for window, w in weights.items()}  # but for rounding errors
for rows in held_by.values():
    assert all(np.flatnonzero(row).min() > t - 10 for t, row in enumerate(rows, start=10))
assert set(held_by["sliding"].sum(1)) == {10}
assert set(held_by["hopping"].sum(1)) == {6, 7, 8, 9, 10}
assert sizes['phi="max"'][3] < 0.5 * sizes["Adam"][3]
assert sizes['phi="none"'][6] > 2 * sizes["Adam"][6]
assert sizes['phi="none",\nclip_value=1'][6] <= 1
assert held["max, hopping, any n"] < 1.01 * held["Adam"]
if not QUICK:
    assert accuracies["AdaShift"] > accuracies["Adam"] - 0.01
