# %% [markdown]
# # A first look
#
# You train a Flax network with Adam and want to try AdaShift. **Which line do you change, and what
# do you see then?** This notebook is for you if you know Optax and have not used AdaShift. At its
# end you know what the first steps look like, what the arguments `n`, `window`, `phi` and
# `clip_value` change, and how much memory each choice takes.
#
# AdaShift is Adam, but each gradient is scaled by a second moment $v$ that is computed from older
# gradients only. All gradients in $v$ are at least $n$ steps old; $n$ is called the *delay*. In
# Adam a large gradient enters $v$ at once and so shrinks its own step. In AdaShift it cannot.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import QUICK, budget, color
from flax import nnx
from sklearn.datasets import load_digits

from adashift_optax import adashift, scale_by_adashift, state_bytes

images, labels = load_digits(return_X_y=True)
images = jnp.asarray(images / 16, jnp.float32)
labels = jnp.asarray(labels)
train, test = slice(0, 1400), slice(1400, None)

# %% [markdown]
# ## Which line changes?
#
# The network, its loss and the training step are the same for every optimizer. Only the line that
# makes the optimizer changes. We compare three such lines:
#
# - `Adam`.
# - `AdaShift (factored, ema)`, the recommended setting. It takes the learning rate of Adam.
# - `AdaShift (max, n=10)`, the default. These are the settings of the paper. It takes about ten
#   times the learning rate of Adam.


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


recommended = adashift(1e-3, n=1, b1=0.5, phi="factored", window="ema", clip_value=10.0)
optimizers = {
    "Adam": optax.adam(1e-3),
    "AdaShift (factored, ema)": recommended,
    "AdaShift (max, n=10)": adashift(1e-2),
}
steps = budget(500, 150)
losses, accuracies = {}, {}
for name, tx in optimizers.items():
    losses[name], accuracies[name] = train_with(tx, steps)
for name, accuracy in accuracies.items():
    print(f"{name:24}  test accuracy {accuracy:.1%}")

# %%
# Figure: All three settings train the network. In the shaded steps the parameters of
# `AdaShift (max, n=10)` do not change. Its loss varies there, because each batch is another one.
# This is one run of each, and no learning rate was tuned: it does not show which is better.
# Alt: Two panels. Left: training loss of three optimizers on a logarithmic scale over 500 steps;
# all three curves fall. Right: the first 30 steps, with the first 11 losses shaded.
figure, (whole, start) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[3, 2])
for name, curve in losses.items():
    smooth = np.convolve(curve, np.ones(10) / 10, "valid")
    whole.plot(np.arange(10, steps + 1), smooth, color=color(name), label=name)
    start.plot(np.arange(1, 31), curve[:30], ".-", color=color(name), label=name)
whole.set(xlabel="step", ylabel="training loss (mean of 10 steps)", yscale="log")
whole.set_title("All three settings train the network")
whole.legend()
start.axvspan(0.5, 11, color=color("AdaShift"), alpha=0.12, linewidth=0)
start.set(xlabel="step", ylabel="training loss")
start.set_title("With n=10 the first 10 updates are zero")
where = start.get_xaxis_transform()
start.text(5.7, 0.02, "initial\nparameters", transform=where, ha="center", fontsize=9)
plt.show()

# %% [markdown]
# **The first n updates are exactly zero.** Gradients in $v$ must be at least n steps old, and
# before step n + 1 there is no such gradient. The default has n = 10, so the losses of steps 1 to
# 11 are those of the initial parameters. The recommended setting has n = 1, so only its first
# update is zero.
#
# Nothing was tuned here. [Notebook 9](09_choosing.ipynb) compares optimizers at equal effort.
#
# ## Which gradients are in the momentum? `n` and `window`
#
# The momentum is a mean of gradients, and `window` chooses which gradients. To make this visible we
# feed gradients that are 1 in one entry and 0 elsewhere, and every gradient has its 1 in another
# entry. With `phi="max"` $v$ is then 1 at all steps, and entry i of an update is the weight of
# gradient i in the momentum.

# %%
weights = {}
for window, n in {"sliding": 10, "hopping": 10, "ema": 1}.items():
    tx = scale_by_adashift(n=n, b1=0.9, window=window)
    _, rows = jax.lax.scan(
        lambda s, g, tx=tx: tx.update(g, s)[::-1], tx.init(jnp.zeros(40)), jnp.eye(40)
    )
    weights[window, n] = np.asarray(rows)

# %%
# Figure: Each row is one update. Its blue cells are the gradients in its momentum. The sliding and
# the hopping window stop before the dashed line, where $v$ begins; the ema window goes on.
# Alt: Three panels, for the windows sliding, hopping and ema: the weight of each gradient in the
# momentum of each update, in shades of blue. Sliding is a diagonal band of constant width, hopping
# a band in stairs of five steps, ema a band that fades out without an end.
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), sharey=True)
for ax, ((window, n), w) in zip(axes, weights.items(), strict=True):
    picture = ax.imshow(w, cmap="Blues", origin="lower", extent=(0.5, 40.5, 0.5, 40.5), vmax=0.25)
    ax.set(title=f'window="{window}", n={n}', xlabel="gradient of step")
    ax.grid(visible=False)
for ax in axes[:2]:
    ax.plot([1, 30], [11, 40], color="#D55E00", linewidth=1, linestyle="--")
    ax.text(8, 25, "only in v", color="#D55E00", rotation=45, ha="center", va="center", fontsize=9)
axes[0].set(ylabel="update of step")
bar = figure.colorbar(picture, ax=axes, shrink=0.62)
bar.set_label("weight in the momentum", labelpad=-16)
bar.set_ticks([0, 0.1, 0.2, 0.25], labels=["0", "0.1", "0.2", r"$\geq$ 0.25"])
plt.show()

# %% [markdown]
# - `window="sliding"` is the paper's. It averages the latest n gradients, and then divides their
#   mean by the root of $v$. The state keeps these n gradients, in a *queue*.
# - `window="hopping"` is our variant. It also averages first. Its mean holds at most n gradients,
#   and at least n/2 rounded down, plus 1 (6 to 10 here). The state keeps no queue.
# - `window="ema"` first divides each gradient by the root of its own $v$, which is older than the
#   gradient. Then it averages the quotients. So n = 1 is enough, and the state keeps no queue
#   unless `phi="none"` and n > 1.
#
# ## How large are single steps? `phi` and `clip_value`
#
# A *leaf* is one array of the parameter tree, such as the kernel of a layer. `phi` says how the
# squared gradients of a leaf are summarized in $v$:
#
# - `"max"` and `"mean"`: one $v$ for the leaf, from its largest or its mean square.
# - `"factored"`: one number for each row and one for each column, whose product is $v$.
# - `"none"`: every element has its own $v$, as in Adam.
#
# We train with Adam and give every optimizer the same gradients. Then we look at the sizes of all
# elements of the update of the hidden kernel, over 50 steps and with a learning rate of 1.

# %%
with_ema = adashift(1.0, n=1, b1=0.5, phi="factored", window="ema", clip_value=10.0)
forms = {
    "Adam": optax.adam(1.0),
    "AdaShift (factored, ema)": with_ema,
    "AdaShift (max, n=10)": adashift(1.0),
    "AdaShift (mean, n=10)": adashift(1.0, phi="mean"),
    "AdaShift (factored, n=10)": adashift(1.0, phi="factored"),
    "AdaShift (none, n=10)": adashift(1.0, phi="none"),
    "AdaShift (none, n=10, clip_value=1)": adashift(1.0, phi="none", clip_value=1.0),
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

# %%
# Figure: With `phi="max"` nearly all elements of an update are smaller than Adam's. Without a clip
# `phi="none"` makes single elements more than a hundred times as large as Adam's typical ones. Bars
# are cut off at 0.0001.
# Alt: One row for each of seven optimizers, on a logarithmic scale: a thick bar for the middle half
# of the sizes, a thin bar for the middle 90 %, a white dot for the median, a triangle for the
# largest, and a vertical line at 1.
figure, ax = plt.subplots(figsize=(9, 3.8))
for i, (name, q) in enumerate(sizes.items()):
    ax.plot([max(q[1], 1e-4), q[5]], [i, i], color=color(name), linewidth=3)
    ax.plot([max(q[2], 1e-4), q[4]], [i, i], color=color(name), linewidth=11)
    ax.plot(q[3], i, "o", color="white", markersize=5)
    ax.plot(q[6], i, ">", color=color(name), mec="white", markersize=9)
ax.axvline(1, color="gray", linewidth=0.8)
ax.set(xscale="log", xlabel="size of an element of the update, at a learning rate of 1")
ax.set_yticks(range(len(sizes)), sizes)
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
ax.set_title("thick: middle half; thin: middle 90 %; dot: median; triangle: largest", fontsize=10)
plt.show()

# %% [markdown]
# Adam's updates rarely exceed 1. `phi="max"` divides every element by the largest gradient of its
# leaf, so most elements of the update are far smaller than Adam's. This is why it needs a larger
# learning rate. With `phi="none"` or `"factored"` $v$ may come only from tiny old gradients, and
# then one large gradient makes a huge step. Give `clip_value` with them: every element of the
# scaled gradient (of the scaled momentum, unless `window="ema"`) is then clipped to `[-clip_value,
# clip_value]`.
#
# ## How much memory does the state take?
#
# The states of these optimizers for one float32 leaf of 1024 x 1024 parameters:

# %%
params = {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
held = {
    "Adam": optax.adam(1e-3),
    "AdaShift (factored, ema)": recommended,
    "AdaShift (max, n=10)": adashift(1e-2),
    "AdaShift (max, n=10, bfloat16 queue)": adashift(1e-2, queue_dtype=jnp.bfloat16),
    "AdaShift (none, n=10)": adashift(1e-2, phi="none"),
    "AdaShift (none, hopping)": adashift(1e-2, phi="none", window="hopping"),
    "AdaShift (max, hopping)": adashift(1e-2, window="hopping"),
    "AdaShift (factored, hopping)": adashift(1e-2, phi="factored", window="hopping"),
    "AdaShift (max, b1=0)": adashift(1e-2, b1=0.0),
}
held = {name: state_bytes(tx, params) / 1024**2 for name, tx in held.items()}

# %%
# Figure: The recommended setting takes half of Adam's memory. The sliding window with n = 10 takes
# six times Adam's memory, because it keeps ten gradients.
# Alt: Nine horizontal bars with the bytes of optimizer state per float32 parameter: Adam 8,
# AdaShift (factored, ema) 4, (max, n=10) 48, the same with a bfloat16 queue 26, (none, n=10) 52,
# (none, hopping) 20, (max, hopping) 8, (factored, hopping) 8, (max, b1=0) 0.
figure, ax = plt.subplots(figsize=(9, 3.6))
bars = ax.barh(list(held), list(held.values()), color=[color(name) for name in held])
ax.bar_label(bars, [f"{value:.0f}" for value in held.values()], padding=3)
ax.set(xlabel="bytes of optimizer state per float32 parameter")
ax.set_title("A queue of gradients takes the most memory")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()

# %% [markdown]
# ## The answer
#
# You change one line, the one that makes the optimizer: the recommended setting takes Adam's
# learning rate and half of Adam's memory, and the default takes about ten times the rate and six
# times the memory. The first n updates are exactly zero, one update with the recommended setting
# and ten with the default. The momentum depends on `window`, the size of single steps on `phi`, and
# `phi="none"` and `"factored"` need a `clip_value`.

# %%
assert losses["AdaShift (max, n=10)"][10] != losses["Adam"][10]
frozen = train_with(optax.set_to_zero(), 11)[0]
np.testing.assert_array_equal(losses["AdaShift (max, n=10)"][:11], frozen)
small = losses["AdaShift (factored, ema)"]
np.testing.assert_array_equal(small[:2], frozen[:2])
assert small[2] != frozen[2]
held_by = {n_of: w[10:] > 1e-6 for n_of, w in weights.items()}  # except for rounding errors
for rows in (held_by["sliding", 10], held_by["hopping", 10]):
    assert all(np.flatnonzero(row).min() > t - 10 for t, row in enumerate(rows, start=10))
assert set(held_by["sliding", 10].sum(1)) == {10}
assert set(held_by["hopping", 10].sum(1)) == {6, 7, 8, 9, 10}
np.testing.assert_array_equal(held_by["ema", 1].sum(1), np.arange(10, 40))
assert sizes["AdaShift (max, n=10)"][3] < 0.5 * sizes["Adam"][3]
assert sizes["AdaShift (none, n=10)"][6] > 2 * sizes["Adam"][6]
assert sizes["AdaShift (none, n=10, clip_value=1)"][6] <= 1
assert sizes["AdaShift (factored, ema)"][6] <= 10
assert held["AdaShift (max, hopping)"] < 1.01 * held["Adam"]
assert held["AdaShift (factored, ema)"] < 0.51 * held["Adam"]
assert 6 <= held["AdaShift (max, n=10)"] / held["Adam"] < 6.01
if not QUICK:
    assert sizes["AdaShift (max, n=10)"][5] < sizes["Adam"][4]
    assert sizes["AdaShift (none, n=10)"][6] > 100 * sizes["Adam"][3]
    assert all(accuracies[name] > accuracies["Adam"] - 0.01 for name in accuracies)
