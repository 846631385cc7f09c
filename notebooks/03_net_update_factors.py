# %% [markdown]
# # Net update factors: what an optimizer makes of each gradient
#
# A gradient enters the momentum and with it every later update. Divide all that it contributes by
# the gradient itself: that is its *net update factor*, for Adam
#
# $$k(g_t) = \sum_{i \ge t} \frac{\alpha_i}{\sqrt{v_i}} (1 - \beta_1) \beta_1^{i-t}.$$
#
# In SGD every gradient has the same k. An optimizer whose k is small for large gradients and
# large for small ones does not descend along the gradients it was given, but along others. Here
# we measure k, for any Optax optimizer, with `adashift_optax.analysis.net_update_factors`: turn
# the sign of one recorded gradient, so that all v stay, and see where the parameter ends.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import COLORS, QUICK, budget, table

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
        "AdaShift": adashift(1.0, n=n, b1=b1, b2=b2),
        "AdaShift, hopping": adashift(1.0, n=2 * n, b1=b1, b2=b2, window="hopping"),
        "AdaShift, ema": adashift(1.0, n=1, b1=b1, b2=b2, window="ema"),
    }


# %% [markdown]
# ## One cycle of the sequential problem
#
# Gradients $101, -1, \ldots, -1$, over and over ($\beta_1 = 0.9$, $\beta_2 = 0.99$, $n = 10$):
# they add up to $+1$ a cycle, so x should fall. Adam's v jumps with the large gradient and decays
# until the next one, so that the large gradient gets the smallest k of all; Adam's dots are
# measured, its lines the closed forms of the limits. In AdaShift the jump comes $n$ steps late:
# no gradient meets its own square. But this sequence is not random: v is smallest right *before*
# its jump, just when the large gradient comes, so that it gets a larger k than the others.
# So x falls here, but not because the factors are equal. With `window="ema"` (scale first, then
# average; here $n = 1$) each gradient has a v of its own, so the large one gains the most: its v
# holds nothing but small gradients and what is left of the last large one. AMSGrad's factors are
# equal, at steps ten times as small. ADOPT's clip at $t^{1/4}$ still cuts the large gradient; it
# opens as t grows.

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
v = {name: mean_cycle(v_over_time(settings[name])) for name in ("Adam", "AdaShift")}
limit_v = sequential_second_moment(C, CYCLE, B2)
limit_k = sequential_net_update_factors(C, CYCLE, B1, B2)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
i = np.arange(1, CYCLE + 1)
left.plot(i, limit_v, color=COLORS["Adam"], label="Adam, closed form")
left.plot(i[::4], v["Adam"][::4], "o", ms=4, color=COLORS["Adam"], label="Adam, measured")
left.plot(i, v["AdaShift"], color=COLORS["AdaShift"], label="AdaShift, measured")
left.set(
    xlabel="step of the cycle (1: the large gradient)",
    ylabel="v that scales the step",
    ylim=(0, None),
)
left.legend()
right.plot(i, limit_k, color=COLORS["Adam"])
for name, k in sequence.items():
    right.plot(i[1:], k[1:], "o" if name == "Adam" else "-", ms=3, color=COLORS[name])
    right.plot(1, k[0], "*", ms=13, mec="white", color=COLORS[name], label=name, zorder=3)
right.set(xlabel="step of the cycle (star: the large gradient)", ylabel="k", ylim=(0, None))
right.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.1))
plt.show()

# %%
# What a cycle does to x: minus the sum of k(g) g. Only its sign matters; the best x is below.
step_of_x = {name: -(k * np.asarray(one_cycle)).sum() for name, k in sequence.items()}
ratio = {name: k[0] / k[1:].mean() for name, k in sequence.items()}
rows = [[n, f"{ratio[n]:.3f}", f"{step_of_x[n]:+.4f}"] for n in sequence]
table(["", "k(large) / mean k(small)", "change of x per cycle"], rows)

# %% [markdown]
# ## Independent gradients: Theorem 5
#
# The theorem: if $v_t$ is independent of $g_t$, then $E[k(g)]$ is the same for every gradient.
# Its proof is for $\beta_1 = 0$ and a finite set of costs, drawn independently: here the slopes
# $\{16, -8, 4, -2, 1\}$, all equally likely, $\beta_2 = 0.9$. We record sequences, measure every
# k and average per slope. The right panel repeats it with momentum ($\beta_1 = 0.9$, $n = 10$;
# $n = 1$ for `window="ema"`), which the proof does not cover. Bars are two standard errors over
# the sequences; the points are set apart a little.

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
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for ax, measured in zip(axes, (theorem, with_momentum), strict=True):
    for place, (name, k) in enumerate(measured.items()):
        x = np.abs(SLOPES) * 2 ** (0.06 * (place - 2.5))
        error = 2 * k.std(0) / SEEDS**0.5
        ax.errorbar(x, k.mean(0), error, fmt="o", ms=4, capsize=2, label=name, color=COLORS[name])
    ax.axhline(1, color="gray", ls=":")
    ax.set_xscale("log", base=2)
    ax.set_xticks(np.abs(SLOPES), [f"{abs(s):g}" for s in SLOPES])
    ax.set(xlabel="|g|")
axes[0].set(ylabel="E[k | g] / mean", title=r"$\beta_1 = 0$, $n = 1$ (Theorem 5)")
axes[1].set(title=r"$\beta_1 = 0.9$, $n = 10$ (not in the proof)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
plt.show()

# %% [markdown]
# ## How the decays matter
#
# The unbalance, k of the large gradient over the mean k of the small ones, against $1 - \beta_2$.
# Above the dotted line (0.99) x falls on the sequential problem, below it rises. Lines are Adam's
# closed form, dots measurements. A longer memory of v brings both towards balance, and so does a
# long momentum in Adam; in AdaShift $\beta_1$ hardly matters.

# %%
MOMENTA = {0.0: ":", 0.9: "-", 0.99: "--"}
DECAYS = jnp.array([0.5, 0.9, 0.97, 0.99, 0.997, 0.999])
short = jnp.tile(one_cycle, 12)


def unbalance(k):
    """[..., cycle]: k(large) / mean k(small)."""
    return np.asarray(k[..., 0] / k[..., 1:].mean(-1))


def measured_unbalance(make):
    k = jax.lax.map(lambda b2: net_update_factors(make(b2), short), DECAYS)
    return unbalance(k.reshape(len(DECAYS), -1, CYCLE)[:, 8:-2].mean(1))


fine = 1 - jnp.geomspace(1e-4, 0.5, budget(60, 12))
closed, adam, shifted = {}, {}, {}
for b1 in MOMENTA:
    formula = jax.vmap(lambda b2, b1=b1: sequential_net_update_factors(C, CYCLE, b1, b2))
    closed[b1] = unbalance(formula(fine)), unbalance(formula(DECAYS))
    adam[b1] = measured_unbalance(lambda b2, b1=b1: optax.adam(1.0, b1=b1, b2=b2))
    shifted[b1] = measured_unbalance(lambda b2, b1=b1: adashift(1.0, b1=b1, b2=b2))

# %%
fig, ax = plt.subplots(figsize=(8, 3.8))
for b1, style in MOMENTA.items():
    label = rf"$\beta_1 = {b1:g}$"
    ax.loglog(1 - fine, closed[b1][0], style, color=COLORS["Adam"], label=f"Adam, {label}")
    ax.loglog(1 - DECAYS, adam[b1], "o", color=COLORS["Adam"], ms=4)
for b1, style in MOMENTA.items():
    label = rf"$\beta_1 = {b1:g}$"
    color = COLORS["AdaShift"]
    ax.loglog(1 - DECAYS, shifted[b1], "o" + style, ms=4, color=color, label=f"AdaShift, {label}")
ax.axhline((CYCLE - 1) / C, color="gray", ls=":")
ax.set(xlabel=r"$1 - \beta_2$", ylabel="k(large) / mean k(small)")
ax.set_yticks(ticks := [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], [f"{y:g}" for y in ticks])
ax.minorticks_off()
fig.legend(*ax.get_legend_handles_labels(), loc="outside right center")
plt.show()

# %% [markdown]
# ## What phi changes, and what it does not
#
# One block of six parameters, whose gradients differ in scale by a factor of 32. Each is drawn
# independently: 8 times the scale with probability 0.1, else minus the scale. *Left*:
# `phi="none"` divides each element by its own size, as Adam does; `phi="max"` gives all the same
# k, the one that suits the largest. *Right*: within each element, neither makes a difference
# between large and small gradients; Adam does. Bars are two standard errors.

# %%
SCALES = 2.0 ** jnp.arange(6)
block_optimizers = {
    "Adam": optax.adam(1.0, b1=0.9, b2=0.9),
    "AdaShift, none": adashift(1.0, b1=0.9, b2=0.9, phi="none"),
    "AdaShift": adashift(1.0, b1=0.9, b2=0.9),
    "AdaShift, hopping": adashift(1.0, n=20, b1=0.9, b2=0.9, window="hopping"),
    "AdaShift, ema": adashift(1.0, n=1, b1=0.9, b2=0.9, window="ema"),
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
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
for place, (name, (k, k_large, k_small)) in enumerate(blocks.items()):
    label = name if name != "AdaShift" else "AdaShift, max"
    style = dict(color=COLORS[name], lw=6 - 1.2 * place, marker="o", ms=4)
    left.loglog(SCALES, k.mean(0), base=2, label=label, **style)
    unlike = k_large.mean(0) / k_small.mean(0)
    error = 2 * (k_large / k_small).std(0) / len(block_keys) ** 0.5
    right.errorbar(SCALES, unlike, error, capsize=2, **style)
right.set_xscale("log", base=2)
right.axhline(1, color="gray", ls=":")
left.set(xlabel="scale of the element's gradients", ylabel="mean k")
right.set(xlabel="scale of the element's gradients", ylabel="k(large) / k(small)", ylim=(0, 1.25))
for ax in (left, right):
    ax.set_xticks(SCALES, [f"{s:g}" for s in SCALES])
fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
plt.show()

# %% [markdown]
# ## What was shown
#
# - Adam's v and k on the sequential problem are at their closed-form limits, to 1 %. The large
#   gradient gets too small a k ($\beta = (0.9, 0.99)$), and x goes up although it should fall.
# - AdaShift's k for the large gradient is *above* that of the others there: x falls, but not by
#   balance. AMSGrad is in balance.
# - With independent gradients AdaShift gives all the same k, to 1.5 %, as Theorem 5 says for
#   $\beta_1 = 0$; measured with momentum, with the hopping window and with `window="ema"` too, for
#   which $n = 1$ is enough. Adam gives less to the largest. AMSGrad and ADOPT (whose clip hardly
#   acts here) are as even as AdaShift.
# - Adam's unbalance on the sequential problem shrinks with a larger $\beta_2$ from 0.9 on, and so
#   does AdaShift's.
# - `phi="max"` gives a block one k for all its elements, `phi="none"` one each in inverse
#   proportion to the scale of their gradients. Neither tells large from small gradients.

# %%
np.testing.assert_allclose(v["Adam"], limit_v, rtol=0.01)
np.testing.assert_allclose(sequence["Adam"], limit_k, rtol=0.01)
assert ratio["Adam"] < 0.9
assert step_of_x["Adam"] > 0
assert abs(ratio["AMSGrad"] - 1) < 1e-6
assert step_of_x["AMSGrad"] < 0
for name in ("AdaShift", "AdaShift, hopping", "AdaShift, ema"):
    assert ratio[name] > 1.02
    assert step_of_x[name] < 0
for b1 in MOMENTA:
    np.testing.assert_allclose(adam[b1], closed[b1][1], rtol=0.03)
    assert np.all(shifted[b1] > 1)
for b1 in (0.0, 0.9):
    assert np.all(adam[b1][:4] < 0.9)
    assert np.all(np.diff(adam[b1][1:]) > 0)
    assert np.all(np.diff(shifted[b1][1:]) < 0)
for name in ("AdaShift", "AdaShift, hopping", "AdaShift, ema"):
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
    inverse = blocks["AdaShift, none"][0].mean(0) * np.asarray(SCALES)
    assert inverse.max() / inverse.min() < 1.1
