# %% [markdown]
# # A first look
#
# You train a Flax network with `optax.adam(1e-3)`. **What do you type instead, which learning rate
# do you take, and what do you get?** This notebook is for you if you know Optax and have not used
# this library. It changes the optimizer of a small training program, in Flax NNX and in Flax linen,
# then tries many learning rates, and at the end counts the memory.
#
# The library has two optimizers. `adashift_factored` is the one to train with. It is like Adam in
# half of Adam's memory: instead of one second moment v for each element it keeps one number for
# each row and each column of a kernel. `adashift` is the optimizer of the paper, and it is there to
# study the method.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import QUICK, band, budget, color, table
from flax import linen, nnx
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

from adashift_optax import adashift, adashift_factored, state_bytes

pixels, labels = load_digits(return_X_y=True)  # 1797 images of handwritten digits, 8 x 8
pixels, labels = jnp.asarray(pixels / 16, jnp.float32), jnp.asarray(labels)
train, test = slice(0, 1400), slice(1400, None)
STEPS = budget(500, 100)
batches = jnp.asarray(np.random.default_rng(0).integers(0, 1400, (STEPS, 64)))

# %% [markdown]
# ## Which line changes in Flax NNX?
#
# The network, its loss and the training step are the same for every optimizer. Only the line that
# makes the optimizer changes:
#
# | optimizer | line |
# |---|---|
# | Adam | `tx = optax.adam(1e-3)` |
# | the one to train with | `tx = adashift_factored(1e-3)` |
# | the paper's | `tx = adashift(1e-2)` |


# %%
class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_of(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit(donate_argnames=("model", "optimizer"))  # both are updated in place
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
    optimizer.update(model, grads)
    return loss


optimizers = {
    "Adam": optax.adam(1e-3),
    "adashift_factored": adashift_factored(1e-3),
    "AdaShift (max, n=10)": adashift(1e-2),
}
losses = {}
for name, tx in optimizers.items():
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses[name] = [float(train_step(model, optimizer, pixels[i], labels[i])) for i in batches]
    accuracy = jnp.mean(model(pixels[test]).argmax(-1) == labels[test])
    print(f"{name:20}  test accuracy {accuracy:.1%}")

# %%
# Figure: All three train the network. In the shaded steps the parameters of the paper's optimizer
# do not change, and its loss varies only because each batch is another one. This is one run of each
# at a learning rate that was not tuned, so it does not show which is better.
# Alt: Two panels. Left: training loss of three optimizers on a logarithmic scale over 500 steps;
# all three curves fall. Right: the first 30 steps, with the first 11 losses shaded;
# adashift_factored and Adam fall from the first step on, and the paper's optimizer begins to fall
# at step 12.
figure, (whole, start) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[3, 2])
for name, curve in losses.items():
    smooth = np.convolve(curve, np.ones(10) / 10, "valid")
    whole.plot(np.arange(10, STEPS + 1), smooth, color=color(name), label=name)
    start.plot(np.arange(1, 31), curve[:30], ".-", color=color(name), label=name)
whole.set(xlabel="step", ylabel="training loss (mean of 10 steps)", yscale="log")
whole.set_title("All three train the network")
whole.legend()
start.axvspan(0.5, 11.5, color=color("AdaShift"), alpha=0.12, linewidth=0)
start.set(xlabel="step", ylabel="training loss", title="Only the paper's begins with idle steps")
plt.show()

# %% [markdown]
# The paper's optimizer computes v only from gradients that are at least n = 10 steps old. Before
# step 11 there is no such gradient, so the first 10 updates are exactly zero, and the first 11
# losses are those of the initial parameters. `adashift_factored` has no idle step.
#
# ## Which line changes in Flax linen?
#
# Again only the one that makes the optimizer.


# %%
class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(linen.relu(linen.Dense(64)(x)))


@jax.jit(donate_argnames="state")
def linen_step(state, x, y):
    def loss_fn(params):
        logits = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


network = LinenNetwork()
params = network.init(jax.random.key(0), pixels[:1])["params"]
state = TrainState.create(apply_fn=network.apply, params=params, tx=adashift_factored(1e-3))
for i in batches:
    state, linen_loss = linen_step(state, pixels[i], labels[i])
print(f"loss of the last batch {linen_loss:.3f}")

# %% [markdown]
# ## Which learning rate?
#
# We train the NNX network at 17 learning rates, a quarter of a decade apart, with each optimizer
# and with five seeds, and look at the loss on the test images. For one seed all optimizers start
# from the same parameters and see the same batches.

# %%
RATES = jnp.asarray(10.0 ** np.arange(-4, 0.1, budget(25, 100) / 100), jnp.float32)
SEEDS = budget(5, 2)
graph = nnx.graphdef(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))


def loss_fn(params, x, y):
    return loss_of(nnx.merge(graph, params), x, y)


def test_loss(make, rate, key):
    tx = make(rate)
    params = nnx.state(Network(nnx.Rngs(key)), nnx.Param)

    def step(carry, i):
        params, state = carry
        grads = jax.grad(loss_fn)(params, pixels[i], labels[i])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    drawn = jax.random.randint(jax.random.fold_in(key, 1), (STEPS, 64), 0, 1400)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), drawn)
    return loss_fn(params, pixels[test], labels[test])


def sweep(make):
    """Test losses, [seeds, rates]."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    over_rates = jax.vmap(lambda rate, key: test_loss(make, rate, key), (0, None))
    return np.asarray(jax.jit(lambda: jax.lax.map(lambda key: over_rates(RATES, key), keys))())


makers = {"Adam": optax.adam, "adashift_factored": adashift_factored}
makers |= {"AdaShift (max, n=10)": adashift}
swept = {name: sweep(make) for name, make in makers.items()}
best = {name: found.mean(0).argmin() for name, found in swept.items()}
rows = []
for name, found in swept.items():
    at = [found[:, min(best[name] + i, len(RATES) - 1)] for i in (0, budget(4, 1))]
    shown = [f"{losses.mean():.3f} ± {losses.std(ddof=1):.3f}" for losses in at]
    rows.append([name, f"{RATES[best[name]]:.2g}", *shown])
table(["test loss", "best rate", "at the best rate", "at ten times that"], rows)

# %%
# Figure: `adashift_factored` has its lowest test loss at Adam's learning rate. The paper's
# optimizer needs a far larger rate. Lines are medians over the seeds, and bands reach from quartile
# to quartile.
# Alt: Test loss over the learning rate, from 0.0001 to 1, on logarithmic scales. The curves of Adam
# and adashift_factored have their lowest points at about the same rate, and that of the paper's
# optimizer lies further to the right.
fig, ax = plt.subplots(figsize=(7, 3.8))
for name, found in swept.items():
    band(ax, RATES, found, name, marker="o", ms=4)
ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="test loss")
ax.set_yticks(ticks := [0.3, 0.5, 1, 2], [f"{tick:g}" for tick in ticks])
ax.minorticks_off()
ax.set_title("adashift_factored takes Adam's learning rate")
ax.legend()
plt.show()

# %% [markdown]
# ## How much memory does the state take?
#
# `state_bytes` counts the state of any Optax optimizer without allocating it, here for a kernel of
# 1024 x 1024 parameters. The second number is for bfloat16 parameters. Optax's Adam then keeps both
# of its moments in bfloat16. This library keeps every statistic in float32, unless `mu_dtype` or
# `queue_dtype` says otherwise.

# %%
settings = {
    "Adam": optax.adam(1e-3),
    "adashift_factored": adashift_factored(1e-3),
    "adashift_factored (mu_dtype=bfloat16)": adashift_factored(1e-3, mu_dtype=jnp.bfloat16),
    "adashift_factored (b1=0)": adashift_factored(1e-3, b1=0.0),
    "AdaShift (max, n=10)": adashift(1e-2),
    "AdaShift (max, n=10, queue_dtype=bfloat16)": adashift(1e-2, queue_dtype=jnp.bfloat16),
    "AdaShift (max, b1=0)": adashift(1e-2, b1=0.0),
}
kept = {
    name: [
        state_bytes(tx, jax.ShapeDtypeStruct((1024, 1024), dtype)) / 1024**2
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    for name, tx in settings.items()
}

# %%
# Figure: For float32 parameters `adashift_factored` takes half of Adam's memory. For bfloat16
# parameters it takes as much as Adam, and half as much with `mu_dtype=bfloat16`. The paper's
# optimizer keeps a queue of gradients, and has six times Adam's memory.
# Alt: Seven pairs of horizontal bars with the bytes of state for each parameter, float32 and
# bfloat16: Adam 8 and 4, adashift_factored 4 and 4, with mu_dtype bfloat16 2 and 2, with b1=0 0 and
# 0, AdaShift (max, n=10) 48 and 48, with a bfloat16 queue 26 and 26, with b1=0 0 and 0.
fig, ax = plt.subplots(figsize=(9, 4.2))
shades = [color(name) for name in kept]
for column, (dtype, alpha) in enumerate((("float32", 1.0), ("bfloat16", 0.45))):
    sizes = [of[column] for of in kept.values()]
    bars = ax.barh(np.arange(len(kept)) + 0.4 * column, sizes, 0.36, color=shades, alpha=alpha)
    ax.bar_label(bars, [f"{size:.0f} ({dtype})" for size in sizes], padding=3, fontsize=9)
ax.set_yticks(np.arange(len(kept)) + 0.2, kept)
ax.set(xlabel="bytes of state for each parameter", xlim=(0, 57))
ax.set_title("float32 parameters: half of Adam's memory; bfloat16: as much as Adam")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()

# %% [markdown]
# ## The answer
#
# You type `adashift_factored(1e-3)` in the place of `optax.adam(1e-3)`, in NNX and in linen, and
# keep the learning rate. On this small network its best learning rate is Adam's, and at that rate
# five seeds cannot tell the two test losses apart (0.321 and 0.323), nor can they at ten times that
# rate (0.49 and 0.46). What you get is memory: 4 bytes of state for each parameter, while Adam
# takes 8 for float32 parameters. If your parameters are bfloat16, Adam takes 4 as well, and you
# save only with `mu_dtype=jnp.bfloat16`, with which the state takes 2.
#
# The paper's `adashift` needs about 30 times Adam's learning rate here, begins with n idle steps
# and takes 48 bytes for each parameter. Its lowest test loss, 0.330, cannot be told apart from
# Adam's either. [Notebook 5](05_language_model.ipynb) compares on a transformer.

# %%
unchanged = [float(loss_of(Network(nnx.Rngs(0)), pixels[i], labels[i])) for i in batches[:12]]
paper = losses["AdaShift (max, n=10)"]
np.testing.assert_allclose(paper[:11], unchanged[:11], rtol=1e-5)
assert abs(paper[11] - unchanged[11]) > 1e-4
assert abs(losses["adashift_factored"][1] - unchanged[1]) > 1e-4
assert linen_loss < 1.5
assert [[round(size, 1) for size in of] for of in kept.values()][:2] == [[8, 4], [4, 4]]
if not QUICK:
    adam, ours, _ = (swept[name] for name in makers)
    assert len({best["Adam"], best["adashift_factored"]}) == 1
    assert RATES[best["AdaShift (max, n=10)"]] > 25 * RATES[best["Adam"]]
    lowest = [swept[name][:, best[name]] for name in makers]
    assert [round(float(losses.mean()), 3) for losses in lowest] == [0.323, 0.321, 0.330]
    assert all(abs((losses - lowest[0]).mean()) < lowest[2].std(ddof=1) for losses in lowest[1:])
    ten_times = ours[:, best["Adam"] + 4] - adam[:, best["Adam"] + 4]
    assert abs(ten_times.mean()) < ten_times.std(ddof=1)
