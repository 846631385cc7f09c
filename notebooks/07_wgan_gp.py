# %% [markdown]
# # WGAN-GP: a fixed generator, and a whole GAN
#
# The paper trains the critic of a Wasserstein GAN against a generator that does not learn, with
# AdaShift at 20 times Adam's learning rate. An independent reproduction trained both networks, and
# found AdaShift behind Adam. Here are both experiments in the small, and every optimizer may choose
# its learning rate from as many trials.
#
# Data: 8 narrow Gaussians on a circle in the plane. As in the paper, the penalty is 0.1 times the
# largest squared slope of the critic between a batch of data and a batch of samples ("MaxGP"),
# batches have 64 points, and there is no momentum (b1 = 0), so that n = 1 will do.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from common import COLORS, QUICK, band, budget, table
from scipy.optimize import linear_sum_assignment

from adashift_optax import adashift

BATCH, LATENT, PENALTY = 64, 8, 0.1


def network(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    layers = zip(keys, sizes, sizes[1:], strict=False)
    return [(jax.random.normal(k, (i, o)) * jnp.sqrt(2 / i), jnp.zeros(o)) for k, i, o in layers]


def apply(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def data(key, size=BATCH):
    which, noise = jax.random.split(key)
    angle = 2 * jnp.pi * jax.random.randint(which, (size,), 0, 8) / 8
    centers = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    return centers + 0.05 * jax.random.normal(noise, (size, 2))


def generate(generator, key, size=BATCH):
    return apply(generator, jax.random.normal(key, (size, LATENT)))


def critic_loss(critic, real, fake, key):
    mix = jax.random.uniform(key, (len(real), 1))
    value = lambda x: apply(critic, x)[..., 0]  # noqa: E731
    slopes = jax.vmap(jax.grad(value))(mix * real + (1 - mix) * fake)
    penalty = PENALTY * jnp.max(jnp.sum(slopes**2, 1))
    return jnp.mean(value(fake)) - jnp.mean(value(real)) + penalty


# %% [markdown]
# Every optimizer gets the same budget, in both experiments: five learning rates, two seeds each;
# the rate with the lowest mean over the last third of the training is run again on ten other seeds,
# and only those are compared. Without momentum a hopping window has nothing to hop over, so
# that variant has b1 = 0.5, which the others have not. `phi="none"` is clipped at 1, as the
# README advises.

# %%
OPTIMIZERS = {
    "Adam": lambda rate: optax.adam(rate, b1=0.0),
    "AMSGrad": lambda rate: optax.amsgrad(rate, b1=0.0),
    "AdaShift": lambda rate: adashift(rate, n=1, b1=0),
    "AdaShift, none": lambda rate: adashift(rate, n=1, b1=0, phi="none", clip_value=1.0),
    "AdaShift, hopping": lambda rate: adashift(rate, n=10, b1=0.5, window="hopping"),
}
RUNS, RECORDS = budget(10, 4), budget(25, 6)
OPTIMIZERS = {name: OPTIMIZERS[name] for name in [*OPTIMIZERS][: budget(5, 3)]}
TUNING, FRESH = jnp.array([0, 1]), jnp.arange(2, 2 + RUNS)


def tune(run, rates):
    """Scores of all rates, the best one, and what `run` records with it on fresh seeds."""
    options = {"xla_backend_optimization_level": 0} if QUICK else None  # compiles faster
    run = jax.jit(jax.vmap(run), compiler_options=options)
    curves = run(jnp.repeat(rates, len(TUNING)), jnp.tile(TUNING, len(rates)))[0]
    last = curves[:, -(RECORDS // 3) :].reshape(len(rates), -1)
    scores = np.nan_to_num(np.mean(np.asarray(last), 1), nan=np.inf)
    best = rates[np.argmin(scores)]
    return scores, best, jax.tree.map(np.asarray, run(jnp.full(len(FRESH), best), FRESH))


def train(step, record, carry, steps):
    """`steps` steps in RECORDS pieces, and what `record` says after each."""

    def piece(carry, steps):
        carry = jax.lax.scan(lambda carry, t: (step(carry, t), None), carry, steps)[0]
        return carry, record(carry)

    return jax.lax.scan(piece, carry, jnp.arange(steps).reshape(RECORDS, -1))


# %% [markdown]
# ## The critic alone
#
# The generator is an untrained network, so the critic's task never changes. On 512 points of both
# kinds an assignment gives the exact Wasserstein distance W, and with it the best loss of a critic
# whose slope is penalized everywhere: -W² / (4 · 0.1).

# %%
STEPS, RATES = budget(1000, 30), 10 ** jnp.linspace(-3, -1, RUNS // 2)
FIXED = network(jax.random.key(100), LATENT, 64, 64, 2)
REAL, FAKE = data(jax.random.key(101), 512), generate(FIXED, jax.random.key(102), 512)
cost = np.linalg.norm(np.asarray(REAL)[:, None] - np.asarray(FAKE), axis=2)
W = cost[linear_sum_assignment(cost)].mean()
OPTIMUM = -(W**2) / (4 * PENALTY)


def train_critic(make, rate, seed):
    tx, key = make(rate), jax.random.key(seed)
    critic = network(key, 2, 64, 64, 1)

    def step(carry, t):
        critic, state = carry
        keys = jax.random.split(jax.random.fold_in(key, t), 3)
        grads = jax.grad(critic_loss)(critic, data(keys[0]), generate(FIXED, keys[1]), keys[2])
        updates, state = tx.update(grads, state, critic)
        return optax.apply_updates(critic, updates), state

    def record(carry):
        return critic_loss(carry[0], REAL, FAKE, jax.random.key(103))

    carry, losses = train(step, record, (critic, tx.init(critic)), STEPS)
    gap = jnp.mean(apply(carry[0], REAL)) - jnp.mean(apply(carry[0], FAKE))
    slope = jnp.sqrt((losses[-1] + gap) / PENALTY)  # what the penalty was of
    return losses, gap / slope


fixed = {}
for name, make in OPTIMIZERS.items():
    fixed[name] = tune(lambda rate, seed, make=make: train_critic(make, rate, seed), RATES)


# %%
# Figure: Fixed generator. At the best learning rate of each (left) Adam, AMSGrad and AdaShift with
# `phi="max"` end close to each other; `phi="none"` ends higher. Lower is better. Bands are
# quartiles.
# Alt: Two panels with the loss of the critic. Left: five curves over 1000 steps, which fall
# towards a dotted line, the best possible loss. Right: the loss at the end over the learning rate,
# with a dot at the chosen one.
def plot(results, rates, steps, labels):
    """Left: over time at the best rate, many seeds. Right: the mean at the end for all rates."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), sharey=True)
    for name, (scores, best, (curves, _)) in results.items():
        style = {"color": COLORS[name]} if name in COLORS else MIXED_STYLE
        band(left, np.arange(1, RECORDS + 1) * steps // RECORDS, curves, name, **style)
        right.plot(rates, np.where(np.isfinite(scores), scores, 1e9), **style)
        right.plot(best, scores.min(), "o", color=style["color"])
    left.set(xlabel=labels[0], ylabel=labels[1], title=f"at the chosen rate, {RUNS} seeds")
    right.set(xlabel="learning rate", xscale="log", title="the choice (dots), 2 other seeds")
    return left, right


MIXED = "AdaShift critic, Adam generator"
MIXED_STYLE = {"color": COLORS["AdaShift"], "linestyle": "--"}
left, right = plot(fixed, RATES, STEPS, ("steps", "critic loss"))
left.axhline(OPTIMUM, color="gray", linestyle=":")
right.axhline(OPTIMUM, color="gray", linestyle=":")
left.text(STEPS, OPTIMUM - 0.01, "best possible", color="gray", va="top", ha="right")
left.set_ylim(OPTIMUM - 0.2, -1.5)
left.legend()
plt.show()

# %%
header = ["rate", "loss, median (quartiles)", "W, estimated", "below Adam"]


def last(curves):
    """One number per seed: the mean over the last third."""
    return curves[:, -(RECORDS // 3) :].mean(1)


def quartiles(runs):
    low, middle, high = np.quantile(runs, [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def wins(results, name):
    """On how many seeds it ends below Adam."""
    return int(np.sum(last(results[name][2][0]) < last(results["Adam"][2][0])))


rows = []
for name, (_, best, (curves, estimate)) in fixed.items():
    row = [name, f"{best:.2g}", quartiles(last(curves)), f"{np.median(estimate):.2f}"]
    rows.append([*row, "" if name == "Adam" else f"{wins(fixed, name)} of {RUNS}"])
table(["fixed generator", *header], rows)
print(f"exact: best loss {OPTIMUM:.3f}, W = {W:.2f}")

# %% [markdown]
# ## Both networks
#
# Now the generator learns too, one step after every three of the critic. What counts is how far
# its samples are from the data: the energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|, which is 0
# for equal distributions; the dotted line is that of fresh data. Both networks have the same
# optimizer and learning rate; in one combination AdaShift is for the critic alone, at three times
# the rate of the generator's Adam (about the ratio of the best rates above).

# %%
GAN_STEPS, CRITIC_STEPS = budget(1500, 12), 3
GAN_RATES = 10 ** jnp.linspace(-3.5, -1.5, RUNS // 2)
TEST = data(jax.random.key(104), 512)
GANS = {k: (OPTIMIZERS[k],) * 2 for k in ("Adam", "AdaShift", "AdaShift, none")[: budget(3, 1)]}
GANS[MIXED] = (lambda rate: OPTIMIZERS["AdaShift"](3 * rate)), OPTIMIZERS["Adam"]


def mean_distance(x, y):
    return jnp.mean(jnp.sqrt(jnp.maximum(jnp.sum((x[:, None] - y) ** 2, 2), 1e-12)))


SPREAD = mean_distance(TEST, TEST)


def energy_distance(x):
    x = jnp.clip(jnp.nan_to_num(x, nan=1e3), -1e3, 1e3)  # of a run that diverged: large
    return 2 * mean_distance(x, TEST) - mean_distance(x, x) - SPREAD


def train_gan(makers, rate, seed):
    critic_tx, generator_tx = (make(rate) for make in makers)
    key = jax.random.key(seed)
    critic = network(jax.random.fold_in(key, 0), 2, 64, 64, 1)
    generator = network(jax.random.fold_in(key, 1), LATENT, 64, 64, 2)

    def step(carry, t):
        (critic, critic_state), (generator, generator_state) = carry
        fresh = jax.random.fold_in(jax.random.fold_in(key, 2), t)

        def critic_step(carry, key):
            critic, state = carry
            keys = jax.random.split(key, 3)
            fake = generate(generator, keys[1])
            grads = jax.grad(critic_loss)(critic, data(keys[0]), fake, keys[2])
            updates, state = critic_tx.update(grads, state, critic)
            return (optax.apply_updates(critic, updates), state), None

        keys = jax.random.split(fresh, CRITIC_STEPS + 1)
        critic, critic_state = jax.lax.scan(critic_step, (critic, critic_state), keys[1:])[0]
        grads = jax.grad(lambda g: -jnp.mean(apply(critic, generate(g, keys[0]))))(generator)
        updates, generator_state = generator_tx.update(grads, generator_state, generator)
        generator = optax.apply_updates(generator, updates)
        return (critic, critic_state), (generator, generator_state)

    def record(carry):
        return energy_distance(generate(carry[1][0], jax.random.key(105), 512))

    start = (critic, critic_tx.init(critic)), (generator, generator_tx.init(generator))
    carry, distances = train(step, record, start, GAN_STEPS)
    return distances, generate(carry[1][0], jax.random.key(106), 500)


gans = {}
for name, makers in GANS.items():
    gans[name] = tune(lambda rate, seed, makers=makers: train_gan(makers, rate, seed), GAN_RATES)
FLOOR = float(energy_distance(data(jax.random.key(107), 512)))

# %%
# Figure: Both networks trained. The four combinations end at about the same distance from the data
# (left), and all stay above the distance of fresh data (dotted). Lower is better. Bands are
# quartiles.
# Alt: Two panels with the energy distance to the data on a logarithmic scale. Left: four curves
# over 1500 generator steps. Right: the distance at the end over the learning rate, with a dot at
# the chosen one.
left, right = plot(gans, GAN_RATES, GAN_STEPS, ("generator steps", "energy distance to the data"))
left.axhline(FLOOR, color="gray", linestyle=":")
right.axhline(FLOOR, color="gray", linestyle=":")
left.set(yscale="log", ylim=(FLOOR / 1.5, 1))
left.legend()
plt.show()

# %%
rows = []
for name, (_, best, (distances, _)) in gans.items():
    row = [name, f"{best:.2g}", quartiles(last(distances))]
    rows.append([*row, "" if name == "Adam" else f"{wins(gans, name)} of {RUNS}"])
table(["both networks", "rate", "energy distance, median (quartiles)", "below Adam"], rows)

# %% [markdown]
# Samples after training, of the run that is the median of its ten, over the data (gray).

# %%
# Figure: Samples of the four trained generators (colored) over the data (gray). Good samples lie
# on the gray clusters and not between them.
# Alt: Four scatter plots in the plane, one for each combination of optimizers: colored points on a
# ring over eight gray clusters.
_, axes = plt.subplots(1, len(GANS), figsize=(9.0, 2.7), sharex=True, sharey=True)
for ax, (name, (_, _, (distances, samples))) in zip(axes, gans.items(), strict=True):
    x, y = samples[np.argsort(last(distances))[RUNS // 2]].T
    ax.scatter(*TEST.T, s=4, color="#cccccc")
    ax.scatter(x, y, s=4, color=COLORS.get(name, COLORS["AdaShift"]))
    title = name if name in COLORS else MIXED.replace(", ", ",\n")
    ax.set(title=title, xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xlabel="x")
axes[0].set_ylabel("y")
plt.show()

# %% [markdown]
# ## What was shown
#
# - Fixed generator: with the best rate of each, Adam's critic ends lower than AMSGrad's, AdaShift's
#   and that of `phi="none"`, on most seeds, by small margins. The hopping variant with its
#   momentum ends like Adam. All estimate W within 10 %.
# - AdaShift wants about three times Adam's rate. With Adam at a tenth of its own best rate AdaShift
#   is far ahead: a comparison of one pair of rates shows the rates.
# - Both networks: AdaShift ends as near to the data as Adam or a little farther, and better on only
#   a part of the seeds. AdaShift for the critic alone is as good as Adam. Ten seeds do not separate
#   these three, and no GAN gets as near to the data as fresh data are.
# - Nor can two seeds choose a rate for `phi="none"`. Training amplifies rounding, so this notebook
#   prints other numbers on another processor, Adam's too: on one the choice was 0.032, half as far
#   again from the data as Adam and behind on all ten seeds; on another 0.01, level with Adam.
# - So neither the gain of the paper nor a clear loss like the reproduction's: in the small, with
#   Adam tuned as well, nothing speaks for AdaShift in a GAN.

# %%
ends = {name: np.median(last(result[2][0])) for name, result in fixed.items()}
far = {name: np.median(last(result[2][0])) for name, result in gans.items()}
if not QUICK:
    for name in ("AMSGrad", "AdaShift", "AdaShift, none"):
        assert ends["Adam"] < ends[name] < ends["Adam"] + 0.2
        assert wins(fixed, name) <= 3
    assert abs(ends["AdaShift, hopping"] - ends["Adam"]) < 0.05
    assert all(abs(np.median(result[2][1]) - W) < 0.1 * W for result in fixed.values())
    assert 2 < fixed["AdaShift"][1] / fixed["Adam"][1] < 5
    assert fixed["AdaShift"][0].min() < fixed["Adam"][0][0] - 0.2  # Adam at a tenth of its rate
    assert 0.85 < far["AdaShift"] / far["Adam"] < 1.35
    assert 0.75 < far[MIXED] / far["Adam"] < 1.25
    assert 2 <= wins(gans, "AdaShift") <= 7
    assert 3 <= wins(gans, MIXED) <= 8
    assert 0.8 < far["AdaShift, none"] / far["Adam"] < 1.8
    assert wins(gans, "AdaShift, none") <= 8
    assert min(far.values()) > 3 * FLOOR
