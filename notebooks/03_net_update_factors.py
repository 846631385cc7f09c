# %% [markdown]
# # Net update factors of each gradient
#
# **Does an optimizer give large and small gradients the same influence?** This notebook is for you
# if you want to know why Adam can move against the sum of its gradients, and whether AdaShift can.
# At its end you know how to measure the influence of each gradient for any Optax optimizer, and
# what it is for Adam, AMSGrad, ADOPT and AdaShift.
#
# A gradient enters the momentum, and through the momentum it contributes to every later update. Add
# up all these contributions and divide the sum by the gradient. The quotient is the gradient's *net
# update factor* k. For Adam it is
#
# $$k(g_t) = \sum_{i \ge t} \frac{\alpha_i}{\sqrt{v_i}} (1 - \beta_1) \beta_1^{i-t}.$$
#
# In SGD every gradient has the same k. If k is small for large gradients and large for small ones,
# the parameter does not follow the sum of the gradients, but a sum with other weights.
#
# `adashift_optax.analysis.net_update_factors` measures k for any Optax optimizer. It reverses the
# sign of one recorded gradient, which leaves every $v$ as it is, and compares where the parameter
# ends.
#
# The labels of AdaShift name its *window*: `sliding` averages the latest n gradients. `hopping`
# averages at most n of them, and at least n/2 rounded down, plus 1. `ema` first divides each
# gradient by the root of its own $v$ and then averages.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import QUICK, budget, color, table

from adashift_optax import adashift
from adashift_optax.analysis import (
    net_update_factors,
    second_moments,
    sequential_net_update_factors,
    sequential_second_moment,
)

jax.config.update("jax_enable_x64", True)  # k is a small difference of long sums

C, CYCLE = 101.0, 101  # the sequential problem in units of its small gradients
one_cycle = jnp.full(CYCLE, -1.0).at[0].set(C)


def optimizers(b1, b2, n):
    return {
        "Adam": optax.adam(1.0, b1=b1, b2=b2),
        "AMSGrad": optax.amsgrad(1.0, b1=b1, b2=b2),
        "ADOPT": optax.contrib.adopt(1.0, b1=b1, b2=b2),
        "AdaShift (sliding)": adashift(1.0, n=n, b1=b1, b2=b2),
        "AdaShift (hopping)": adashift(1.0, n=2 * n, b1=b1, b2=b2, window="hopping"),
        "AdaShift (ema)": adashift(1.0, n=1, b1=b1, b2=b2, window="ema"),
    }


ADASHIFT = [name for name in optimizers(0.9, 0.99, 10) if name.startswith("AdaShift")]


# %% [markdown]
# ## What is the k of the large gradient in a fixed cycle?
#
# The sequential problem of [notebook 2](02_counterexamples.ipynb) repeats the gradients
# $101, -1, \ldots, -1$ in cycles of 101 steps. They add up to $+1$ in each cycle, so x should fall.
# Here $\beta_1 = 0.9$ and $\beta_2 = 0.99$; n is 10 for the sliding window, 20 for the hopping one,
# which has the same mean length, and 1 for `ema`.

# %%
CYCLES = budget(30, 12)
B1, B2, N = 0.9, 0.99, 10
grads = jnp.tile(one_cycle, CYCLES)


def v_over_time(tx):
    def step(state, grad):
        _, state = tx.update(grad, state, jnp.zeros_like(grad))
        return state, second_moments(state, grad).reshape(())

    return jax.lax.scan(step, tx.init(grads[0]), grads)[1]


def mean_cycle(x):
    """The mean cycle, without the start and the cut end."""
    return np.asarray(x).reshape(-1, CYCLE)[8:-2].mean(0)


settings = optimizers(B1, B2, N)
sequence = {name: mean_cycle(net_update_factors(tx, grads)) for name, tx in settings.items()}
v = {name: mean_cycle(v_over_time(settings[name])) for name in ("Adam", "AdaShift (sliding)")}
limit_v = sequential_second_moment(C, CYCLE, B2)
limit_k = sequential_net_update_factors(C, CYCLE, B1, B2)

# %%
# Figure: Adam's v jumps in the step of the large gradient. AdaShift's v jumps n = 10 steps later,
# so the large gradient meets the smallest v of the cycle.
# Alt: v over the 101 steps of a cycle. Adam's starts at 160 and decays to 60, with measured points
# on the line of the closed form. AdaShift's stays near 62 for ten steps, jumps to 160 and decays.
fig, ax = plt.subplots(figsize=(8, 3.6))
i = np.arange(1, CYCLE + 1)
ax.plot(i, limit_v, color=color("Adam"), label="Adam, closed form")
ax.plot(i[::4], v["Adam"][::4], "o", ms=4, color=color("Adam"), label="Adam, measured")
measured_v = v["AdaShift (sliding)"]
ax.plot(i, measured_v, color=color("AdaShift"), label="AdaShift (sliding), measured")
ax.axvline(1, color="gray", ls=":")
ax.text(2, 8, "the large gradient", fontsize=10)
ax.set(xlabel="step of the cycle", ylabel="v that scales the step", ylim=(0, None))
ax.set_title("With AdaShift the large gradient raises v ten steps later")
ax.legend()
plt.show()

# %%
# Figure: k over one cycle, divided by the mean k of the small gradients. The large gradient (the
# diamond, and the number in the title) should be at 1. It is below 1 in Adam and ADOPT, above 1 in
# AdaShift, and at 1 only in AMSGrad.
# Alt: Six panels, one for each optimizer, with a curve for the small gradients, a horizontal line
# at 1 and a diamond at step 1 for the large gradient: Adam 0.81, AMSGrad 1.00, ADOPT 0.62, AdaShift
# sliding 1.24, hopping 1.19, ema 1.27.
ratio = {name: k[0] / k[1:].mean() for name, k in sequence.items()}
fig, axes = plt.subplots(2, 3, figsize=(10, 5.4), sharex=True, sharey=True)
for ax, (name, k) in zip(axes.flat, sequence.items(), strict=True):
    small = k[1:].mean()
    ax.axhline(1, color="gray", ls=":", label="mean of the small gradients")
    ax.plot(i[1:], k[1:] / small, color=color(name), label="small gradients")
    ax.plot(1, ratio[name], "D", ms=9, mec="white", color=color(name), label="the large gradient")
    ax.set(title=f"{name}: {ratio[name]:.2f}", ylim=(0, 1.5))
for ax in axes[1]:
    ax.set_xlabel("step of the cycle")
for ax in axes[:, 0]:
    ax.set_ylabel("k / mean k of the small")
closed = limit_k / limit_k[1:].mean()
axes[0, 0].plot(i[1::8], closed[1::8], "o", ms=4, color=color("Adam"), label="closed form")
axes[0, 0].legend(loc="lower right", fontsize=9)
fig.suptitle("The k of the large gradient, compared with the small ones (1 is right)")
plt.show()

# %%
# A cycle changes x by minus the sum of k(g) g. x should fall, so a minus sign is right.
step_of_x = {name: -(k * np.asarray(one_cycle)).sum() for name, k in sequence.items()}
rows = [[n, f"{ratio[n]:.3f}", f"{step_of_x[n]:+.4f}"] for n in sequence]
table(["", "k(large) / mean k(small)", "change of x per cycle"], rows)

# %% [markdown]
# In Adam the large gradient is divided by the $v$ that it has just raised, so its k is too small,
# and x rises. In AdaShift no gradient meets its own square. But in this cycle $v$ is smallest just
# before it jumps, which is when the large gradient comes. So its k is too large. x falls, as it
# should, but not because all k are equal. With `window="ema"` the k of the large gradient is the
# largest of all, because its $v$ contains only small gradients and the remainder of the previous
# large one. AMSGrad gives all gradients the same k, but its steps are about ten times as small.
# ADOPT clips scaled gradients at $t^{1/4}$, and in these first cycles this clip still cuts the
# large gradient.
#
# ## Do independent gradients have the same k? Theorem 5
#
# The paper's Theorem 5 says: if $v_t$ is independent of $g_t$, then the expected k is the same for
# every gradient. The proof needs $\beta_1 = 0$ and gradients that are drawn independently from a
# finite set. We draw from $\{16, -8, 4, -2, 1\}$ with equal probabilities, set $\beta_2 = 0.9$,
# measure every k and average over each of the five gradients. We repeat this with momentum
# ($\beta_1 = 0.9$), which the proof does not cover. The hopping window has twice the n of the
# sliding one, and `ema` has n = 1.

# %%
SLOPES = jnp.array([16.0, -8.0, 4.0, -2.0, 1.0])
SEEDS = budget(32, 8)
T = budget(1000, 300)
START = 200  # steps until v and the clip of ADOPT have settled
keys = jax.random.split(jax.random.key(0), SEEDS)


def mean_per_slope(tx):
    def one(key):
        which = jax.random.randint(key, (T,), 0, len(SLOPES))
        k = net_update_factors(tx, SLOPES[which])[START : T - 50]
        drawn = which[START : T - 50, None] == jnp.arange(len(SLOPES))
        return (drawn * k[:, None]).sum(0) / drawn.sum(0)

    k = jax.lax.map(one, keys)  # one sequence after the other: each is T + 1 runs
    return np.asarray(1 + (k - k.mean(1, keepdims=True)) / k.mean())


theorem = {name: mean_per_slope(tx) for name, tx in optimizers(0.0, 0.9, 1).items()}
with_momentum = {name: mean_per_slope(tx) for name, tx in optimizers(0.9, 0.9, 10).items()}

# %%
# Figure: The mean k of each gradient, divided by the mean over all. Only Adam gives the largest
# gradient less. Bars are two standard errors over the sequences; points are set apart a little.
# Alt: Two panels, without and with momentum: the relative mean k of five gradients from 1 to 16 for
# six optimizers. Adam's is 1.05 for the smallest and 0.87 for the largest without momentum, 1.02
# and 0.93 with momentum. The others lie at 1.
fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
for ax, measured in zip(axes, (theorem, with_momentum), strict=True):
    for place, (name, k) in enumerate(measured.items()):
        x = np.abs(SLOPES) * 2 ** (0.08 * (place - 2.5))
        error = 2 * k.std(0) / SEEDS**0.5
        ax.errorbar(x, k.mean(0), error, fmt="o", ms=4, capsize=2, label=name, color=color(name))
    ax.axhline(1, color="gray", ls=":")
    ax.set_xscale("log", base=2)
    ax.set_xticks(np.abs(SLOPES), [f"{abs(s):g}" for s in SLOPES])
    ax.set(xlabel="size of the gradient")
axes[0].set(ylabel="mean k / mean over all", title=r"$\beta_1 = 0$, $n = 1$ (Theorem 5)")
axes[1].set(title=r"$\beta_1 = 0.9$, $n = 10$ (not in the proof)")
fig.suptitle("Independent gradients: only Adam gives the largest gradient less")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# ## How do the decays change k?
#
# Again the sequential problem. We divide the k of the large gradient by the mean k of the small
# ones, and vary $\beta_1$ and $\beta_2$. A quotient of 1 gives all gradients the same influence. If
# it is below 100/101, x rises although it should fall.

# %%
MOMENTA = {0.0: ":", 0.9: "-", 0.99: "--"}
DECAYS = jnp.array([0.5, 0.9, 0.97, 0.99, 0.997, 0.999])
short = jnp.tile(one_cycle, 12)


def relative(k):
    """The k of the large gradient / mean k of the small ones, from k [..., cycle]."""
    return np.asarray(k[..., 0] / k[..., 1:].mean(-1))


def measured_relative(make):
    k = jax.lax.map(lambda b2: net_update_factors(make(b2), short), DECAYS)
    return relative(k.reshape(len(DECAYS), -1, CYCLE)[:, 8:-2].mean(1))


fine = 1 - jnp.geomspace(1e-4, 0.5, budget(60, 12))
closed, adam, delayed = {}, {}, {}
for b1 in MOMENTA:
    formula = jax.vmap(lambda b2, b1=b1: sequential_net_update_factors(C, CYCLE, b1, b2))
    closed[b1] = relative(formula(fine)), relative(formula(DECAYS))
    adam[b1] = measured_relative(lambda b2, b1=b1: optax.adam(1.0, b1=b1, b2=b2))
    delayed[b1] = measured_relative(lambda b2, b1=b1: adashift(1.0, b1=b1, b2=b2))

# %%
# Figure: With a larger $\beta_2$, to the left, both optimizers come to 1. AdaShift's curves for the
# three $\beta_1$ nearly coincide, and Adam's do not. Lines of Adam are the closed form, and points
# are measured.
# Alt: The k of the large gradient over the mean k of the small ones, over 1 - b2, on logarithmic
# scales. Adam with b1 = 0 falls from 1 to 0.015, with b1 = 0.9 to 0.12, with b1 = 0.99 to 0.8.
# AdaShift rises from 1 to about 2.
fig, ax = plt.subplots(figsize=(8, 3.8))
for b1, style in MOMENTA.items():
    label = rf"Adam ($\beta_1 = {b1:g}$)"
    ax.loglog(1 - fine, closed[b1][0], style, color=color("Adam"), label=label)
    ax.loglog(1 - DECAYS, adam[b1], "o", color=color("Adam"), ms=4)
for b1, style in MOMENTA.items():
    label = rf"AdaShift (sliding, $\beta_1 = {b1:g}$)"
    ax.loglog(1 - DECAYS, delayed[b1], "o" + style, ms=4, color=color("AdaShift"), label=label)
ax.axhline((CYCLE - 1) / C, color="gray", ls=":")
ax.text(1e-4, 0.7, "below the dotted line x rises", fontsize=9)
ax.set(xlabel=r"$1 - \beta_2$", ylabel="k(large) / mean k(small)")
ax.set_title("Adam's large gradient counts too little, AdaShift's too much")
ax.set_yticks(ticks := [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], [f"{y:g}" for y in ticks])
ax.minorticks_off()
fig.legend(*ax.get_legend_handles_labels(), loc="outside right center")
plt.show()

# %% [markdown]
# ## What does phi change?
#
# A *block* is a set of elements that share one $v$. With `phi="max"` a leaf, which is one array of
# the parameter tree, is one block, and with `phi="none"` every element has its own $v$, as in Adam.
# We take one leaf of six elements. Their gradients differ in scale by up to a factor of 32. Each
# gradient is drawn independently: with probability 0.1 it is 8 times the scale, otherwise minus the
# scale.

# %%
SCALES = 2.0 ** jnp.arange(6)
block_optimizers = {
    "Adam": optax.adam(1.0, b1=0.9, b2=0.9),
    "AdaShift (none, sliding)": adashift(1.0, b1=0.9, b2=0.9, phi="none"),
    "AdaShift (max, sliding)": adashift(1.0, b1=0.9, b2=0.9),
    "AdaShift (max, hopping)": adashift(1.0, n=20, b1=0.9, b2=0.9, window="hopping"),
    "AdaShift (max, ema)": adashift(1.0, n=1, b1=0.9, b2=0.9, window="ema"),
}
block_keys = keys[: budget(16, 8)]


def per_element(tx):
    def one(key):
        large = jax.random.bernoulli(key, 0.1, (T, len(SCALES)))
        k = net_update_factors(tx, jnp.where(large, 8.0, -1.0) * SCALES)[START : T - 50]
        large = large[START : T - 50]
        k_large = (large * k).sum(0) / large.sum(0)
        k_small = (~large * k).sum(0) / (~large).sum(0)
        return k.mean(0), k_large, k_small

    return [np.asarray(x) for x in jax.lax.map(one, block_keys)]


blocks = {name: per_element(tx) for name, tx in block_optimizers.items()}

# %%
# Figure: Left: `phi="none"` and Adam give elements with small gradients a larger k; `phi="max"`
# gives all elements the same. Right: within one element Adam's k is smaller for large gradients,
# and AdaShift's is not. Bars are two standard errors; points are set apart a little.
# Alt: Two panels over the scale of an element's gradients from 1 to 32, for five optimizers. Left:
# mean k on logarithmic scales; Adam and AdaShift with none fall with the scale, the three with max
# are level. Right: k of large gradients over k of small ones; Adam is at 0.77, the others at 1.
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
for place, (name, (k, k_large, k_small)) in enumerate(blocks.items()):
    x = np.asarray(SCALES) * 2 ** (0.09 * (place - 2))
    style = {"color": color(name), "marker": "osDv^"[place], "lw": 1, "ms": 5}
    left.loglog(x, k.mean(0), base=2, label=name, **style)
    error = 2 * (k_large / k_small).std(0) / len(block_keys) ** 0.5
    right.errorbar(x, k_large.mean(0) / k_small.mean(0), error, capsize=2, **style)
right.set_xscale("log", base=2)
right.axhline(1, color="gray", ls=":")
left.set(xlabel="scale of the element's gradients", ylabel="mean k", title="Between elements")
right.set(xlabel="scale of the element's gradients", ylabel="k(large) / k(small)", ylim=(0, 1.25))
right.set_title("Within one element")
for ax in (left, right):
    ax.set_xticks(SCALES, [f"{s:g}" for s in SCALES])
fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# With `phi="max"` one k for all elements means that an element with small gradients moves little.
# With `phi="none"` its k is larger, in inverse proportion to the scale of its gradients.
#
# ## The answer
#
# With independent gradients AdaShift gives large and small gradients the same influence, to 1.5 %,
# with every window, without momentum as Theorem 5 says and with momentum by measurement; AMSGrad
# and ADOPT do so too, and Adam gives the largest gradients less. If the gradients come in a fixed
# cycle, only AMSGrad gives all of them the same influence. Adam then gives the rare large gradient
# too little, so that x moves in the wrong direction, and AdaShift gives it too much. A larger
# $\beta_2$, from 0.9 on, brings both Adam and AdaShift closer to the same influence for all.

# %%
np.testing.assert_allclose(v["Adam"], limit_v, rtol=0.01)
np.testing.assert_allclose(sequence["Adam"], limit_k, rtol=0.01)
assert ratio["Adam"] < 0.9
assert step_of_x["Adam"] > 0
assert abs(ratio["AMSGrad"] - 1) < 1e-6
assert step_of_x["AMSGrad"] < 0
assert ratio["ADOPT"] < 0.9
assert max(ratio, key=ratio.get) == "AdaShift (ema)"
for name in ADASHIFT:
    assert ratio[name] > 1.02
    assert step_of_x[name] < 0
for b1 in MOMENTA:
    np.testing.assert_allclose(adam[b1], closed[b1][1], rtol=0.03)
    assert np.all(delayed[b1] > 1)
for b1 in (0.0, 0.9):
    assert np.all(adam[b1][:4] < 0.9)
    assert np.all(np.diff(adam[b1][1:]) > 0)
    assert np.all(np.diff(delayed[b1][1:]) < 0)
for name in [name for name in blocks if "max" in name]:
    k = blocks[name][0]
    np.testing.assert_allclose(k, np.broadcast_to(k[:, :1], k.shape), rtol=1e-6)
if not QUICK:
    for experiment, small in ((theorem, 0.9), (with_momentum, 0.95)):
        for name, k in experiment.items():
            if name == "Adam":
                assert k.mean(0)[0] < small
                assert np.all(k.mean(0)[2:] > 1.01)
            else:
                assert np.all(np.abs(k.mean(0) - 1) < 0.015)
    for name, (_, k_large, k_small) in blocks.items():
        balance = k_large.mean(0) / k_small.mean(0)
        assert np.all(balance < 0.85) if name == "Adam" else np.all(np.abs(balance - 1) < 0.06)
    inverse = blocks["AdaShift (none, sliding)"][0].mean(0) * np.asarray(SCALES)
    assert inverse.max() / inverse.min() < 1.1
