# %% [markdown]
# # Scaling out: the state lives where the parameters live
#
# AdaShift keeps a queue of the latest n gradients, so on many devices the first question is where
# that queue lives. Here a small network is sharded over 8 devices (simulated: 8 CPU devices in one
# process) by what Flax NNX offers for it, and its `nnx.Optimizer` gets `adashift` without a change.
# We look at where every array is, what a device holds, what is communicated, whether training is
# that of one device, and whether a run that is saved on one mesh goes on with another.

# %%
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before jax is imported; not needed on real devices

import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from common import COLORS, budget, table
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from adashift_optax import adashift, state_bytes

WIDTH, HIDDEN, BATCH, STEPS = 64, 256, 64, budget(300, 60)

# %% [markdown]
# ## The model
#
# A residual perceptron whose kernels are partitioned over two mesh axes: `fsdp` splits the rows,
# `tensor` the columns. A mesh of 8 x 1 is plain FSDP; one of 4 x 2 cuts both ways. One of 1 x 1 is
# one device, to compare with.


# %%
class Block(nnx.Module):
    def __init__(self, rngs):
        init = nnx.with_partitioning(nnx.initializers.normal(0.1), ("fsdp", "tensor"))
        self.up = nnx.Linear(WIDTH, HIDDEN, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.tanh(self.up(x)))


MESHES = {
    name: jax.make_mesh(shape, ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    for name, shape in {"1 x 1": (1, 1), "8 x 1": (8, 1), "4 x 2": (4, 2)}.items()
}
OPTIMIZERS = {
    "Adam": optax.adam(1e-3),
    "AdaShift, n = 10": adashift(1e-2),
    "AdaShift, n = 10, bfloat16 queue": adashift(1e-2, queue_dtype=jnp.bfloat16),
    "AdaShift, hopping, n = 20": adashift(1e-2, n=20, window="hopping"),
    "AdaShift, b1 = 0": adashift(1e-2, b1=0),
    "AdaShift, none, n = 3": adashift(1e-3, n=3, phi="none", clip_value=1.0),
}


@nnx.jit
def make_model():
    return nnx.Sequential(Block(nnx.Rngs(0)), Block(nnx.Rngs(1)))


def create(mesh, name):
    """The network on a mesh, and its optimizer, as anybody would make them."""
    with jax.set_mesh(MESHES[mesh]):
        model = make_model()
        return model, nnx.Optimizer(model, OPTIMIZERS[name], wrt=nnx.Param)


# %% [markdown]
# ## Where everything is
#
# JAX draws a sharding itself: first a kernel on the mesh of 4 x 2, then one slot of its queue. Both
# are cut into 8 parts, the same part of both on the same device.

# %%
model, optimizer = create("4 x 2", "AdaShift, n = 10")
kernel = model.layers[0].up.kernel[...]
queue = optimizer.opt_state[0].queue["layers"][0]["up"]["kernel"][...]
print("kernel", kernel.shape, kernel.sharding.spec)
jax.debug.visualize_array_sharding(kernel, use_color=False, scale=0.5)
print("queue", queue.shape, queue.sharding.spec, "- one slot of it:")
jax.debug.visualize_array_sharding(queue[0], use_color=False, scale=0.5)

# %% [markdown]
# The same as a picture, for both meshes. Queue: n + 1 slots, one behind the other. With `phi="max"`
# there is one v per tensor, a single number that every device holds; with `phi="none"` v has the
# shape of the kernel.

# %%
# Figure: Where the arrays of one kernel lie. Each slot of the queue, and a v with one number per
# element, lie where the kernel lies; with `phi="max"` every device holds the one number v.
# Alt: Two rows of four drawings, for a mesh of 8 x 1 and of 4 x 2 devices: the kernel, the queue
# as a stack of such kernels, v of phi=max as one small box per device, and v of phi=none, which is
# cut like the kernel. A color and a number name the device of each part.
SHADES = plt.get_cmap("Set3").colors


def draw(ax, array, slots=1):
    """Who holds which part of the last two axes: one color and number per device."""
    spread = 0.03 * (slots - 1)
    for slot in reversed(range(slots)):
        for shard in array.addressable_shards:
            (top, bottom), (left, right) = (
                np.array(part.indices(size)[:2]) / size * (1 - spread) + 0.03 * slot
                for part, size in zip(shard.index[-2:], array.shape[-2:], strict=True)
            )
            place, color = ((left, top), right - left, bottom - top), SHADES[shard.device.id]
            ax.add_patch(plt.Rectangle(*place, facecolor=color, edgecolor="black", linewidth=0.5))
            if slot == 0:
                middle = (left + right) / 2, (top + bottom) / 2
                ax.text(*middle, shard.device.id, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), xticks=[], yticks=[])


def draw_copies(ax, array):
    """A number that every device holds."""
    assert array.sharding.is_fully_replicated
    for shard in array.addressable_shards:
        left = 0.02 + shard.device.id / 8
        color = SHADES[shard.device.id]
        ax.add_patch(plt.Rectangle((left, 0.44), 0.09, 0.12, facecolor=color, edgecolor="black"))
        ax.text(left + 0.045, 0.5, shard.device.id, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), xticks=[], yticks=[])


fig, axes = plt.subplots(2, 4, figsize=(9.0, 4.6))
for row, mesh in zip(axes, ("8 x 1", "4 x 2"), strict=True):
    model, optimizer = create(mesh, "AdaShift, n = 10")
    state, none = optimizer.opt_state[0], create(mesh, "AdaShift, none, n = 3")[1].opt_state[0]
    queue = state.queue["layers"][0]["up"]["kernel"][...]
    draw(row[0], model.layers[0].up.kernel[...])
    draw(row[1], queue, slots=len(queue))
    draw_copies(row[2], state.nu[0][...])
    draw(row[3], none.nu["layers"][0]["up"]["kernel"][...])
    row[0].set_ylabel(f"mesh of {mesh}")
for ax, title in zip(
    axes[0], ("kernel", "queue", 'v, phi = "max"', 'v, phi = "none"'), strict=True
):
    ax.set_title(title)
for ax in axes.flat:
    ax.grid(False)
    ax.spines[:].set_visible(False)
fig.supxlabel("colors and numbers: the device that holds the part", fontsize=11)
plt.show()

# %% [markdown]
# ## What a device holds, and what is communicated
#
# Bytes are counted on the shards themselves, on the fullest device. All-reduces are counted in the
# compiled program of `update` alone (its gradients come sharded like the kernels): for `phi="max"`
# the devices must agree on the largest square of each tensor, and that is all they exchange.


# %%
def fullest(tree):
    """Bytes on the device that holds most."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def communication(model, optimizer):
    """All-reduces in the compiled update, the numbers in them, and all other collectives."""
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    update = jax.jit(optimizer.tx.update, donate_argnums=1)
    text = update.lower(params, nnx.as_pure(optimizer.opt_state), params).compile().as_text()
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    shapes = [shape for result in results for shape in re.findall(r"\w\d+\[([\d,]*)\]", result)]
    numbers = sum(int(np.prod([int(d) for d in shape.split(",") if d])) for shape in shapes)
    others = r" (?:all-gather|all-to-all|collective-permute|reduce-scatter)\S*\("
    return len(results), numbers, len(re.findall(others, text))


on_one, on_eight, exchanged = {}, {}, {}
for name, tx in OPTIMIZERS.items():
    model, optimizer = create("4 x 2", name)
    with jax.set_mesh(MESHES["4 x 2"]):
        exchanged[name] = communication(model, optimizer)
    params = nnx.state(model, nnx.Param)
    on_one[name], on_eight[name] = state_bytes(tx, params), fullest(optimizer.opt_state)
kernels = sum(leaf.ndim == 2 for leaf in jax.tree.leaves(params))
rows = [["(the parameters)", sum(p.nbytes for p in jax.tree.leaves(params)), fullest(params)]]
rows += [[name, on_one[name], on_eight[name]] for name in OPTIMIZERS]
rows = [[a, f"{b:,}", f"{c:,}", *exchanged.get(a, ["", ""])[:2]] for a, b, c in rows]
table(["state of", "bytes, 1 device", "each of 4 x 2", "all-reduces", "numbers in them"], rows)
print(f"The model has {kernels} sharded kernels.")

# %% [markdown]
# Every state shrinks with the number of devices, as the parameters do (biases and counters stay
# whole). The queue keeps its price, six times Adam's state at n = 10, unless it is made smaller or
# done without.
#
# ## The same training on every mesh


# %%
@nnx.jit(donate_argnums=(0, 1))
def train_step(model, optimizer, step):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(2), step), (BATCH, WIDTH))
    x = jax.lax.with_sharding_constraint(x, P("fsdp"))  # every device its part of the batch
    y = jnp.roll(jnp.abs(x), 1, axis=1)
    loss, grads = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, grads)
    return loss


def train(mesh, model, optimizer, steps):
    with jax.set_mesh(MESHES[mesh]):
        return np.array([float(train_step(model, optimizer, step)) for step in steps])


def arrays(*nodes):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(nodes)))]


def same_gradients(mesh, model, optimizer, steps=12):
    """The last update that the optimizer makes of a given sequence of gradients."""
    params, state = nnx.as_pure(nnx.state(model, nnx.Param)), nnx.as_pure(optimizer.opt_state)
    update, rng = jax.jit(optimizer.tx.update), np.random.default_rng(0)
    with jax.set_mesh(MESHES[mesh]):
        for _ in range(steps):
            grads = jax.tree.map(
                lambda p: jax.device_put(rng.standard_normal(p.shape, np.float32), p.sharding),
                params,
            )
            updates, state = update(grads, state, params)
    return [np.asarray(u) for u in jax.tree.leaves(updates)]


HALF, NAME = STEPS // 2, "AdaShift, n = 10"
folder = Path(tempfile.mkdtemp()) / "half"
losses, ends = {}, {}
for mesh in MESHES:
    model, optimizer = create(mesh, NAME)
    losses[mesh] = train(mesh, model, optimizer, range(HALF))
    if mesh == "8 x 1":  # saved in the middle, and on it goes
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, nnx.as_pure(nnx.state((model, optimizer))))
        saved = arrays(model, optimizer)
        wanted = same_gradients(mesh, model, optimizer)
    losses[mesh] = np.append(losses[mesh], train(mesh, model, optimizer, range(HALF, STEPS)))
    ends[mesh] = arrays(model, optimizer)

# %% [markdown]
# The checkpoint of the run on 8 x 1 is now restored by Orbax, once on the same mesh and once on
# 4 x 2: a fresh model and optimizer tell where each array belongs there.

# %%
resumed, restored = {}, {}
for mesh in ("8 x 1", "4 x 2"):
    model, optimizer = create(mesh, NAME)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder, nnx.as_pure(nnx.state((model, optimizer))))
    nnx.update((model, optimizer), state)
    restored[mesh] = arrays(model, optimizer), same_gradients(mesh, model, optimizer)
    resumed[mesh] = train(mesh, model, optimizer, range(HALF, STEPS)), arrays(model, optimizer)


def same_bits(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def apart(a, b):
    """The largest relative difference."""
    return max(np.max(np.abs(x / y - 1)) for x, y in zip(a, b, strict=True))


whole = losses["1 x 1"]
rows = []
for mesh in ("8 x 1", "4 x 2"):
    rows.append([f"trained on {mesh}: losses", f"{apart([losses[mesh]], [whole]):.0e}", ""])
for mesh, (arrived, updates) in restored.items():
    distance = apart([resumed[mesh][0]], [losses["8 x 1"][HALF:]])
    rows += [
        [f"restored on {mesh}: parameters and state", "", same_bits(arrived, saved)],
        ["   12 updates from given gradients", "", same_bits(updates, wanted)],
        ["   losses to the end", f"{distance:.0e}", same_bits(resumed[mesh][1], ends["8 x 1"])],
    ]
table(["against 1 device, or 8 x 1 going on", "relative difference", "bit for bit"], rows)

# %%
# Figure: Left: training on 8 devices, and after a restart on another mesh, follows training on one
# device. Right: on 8 devices each holds about an eighth of the state, except with b1 = 0, where
# the state is a few numbers.
# Alt: Two panels. Left: three coinciding curves of the training loss over 300 steps, with a dotted
# line at the restart in the middle. Right: bars of the state per device in kilobytes on a
# logarithmic scale, for six optimizers on one device and on each of 8.
_, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), width_ratios=(1, 1.1))
left.plot(whole, color="#bbbbbb", linewidth=6, label="1 device")
left.plot(losses["8 x 1"], color=COLORS["AdaShift"], label="8 x 1, saved in the middle")
left.plot(range(HALF, STEPS), resumed["4 x 2"][0], "--", color="#D55E00", label="restored on 4 x 2")
left.axvline(HALF, ymax=0.55, color="gray", linestyle=":")
left.set(xlabel="steps", ylabel="training loss", ylim=0)
left.legend(loc="upper right")
places = np.arange(len(OPTIMIZERS))
kilobytes = np.array([[*on_one.values()], [*on_eight.values()]]) / 1000
right.barh(places - 0.2, kilobytes[0], 0.38, color="#bbbbbb", label="1 device")
right.barh(places + 0.2, kilobytes[1], 0.38, color=COLORS["AdaShift"], label="each of 8")
right.set_yticks(places, [name.replace("AdaShift, ", "") for name in OPTIMIZERS])
right.set(xlabel="state per device, kB", xscale="log", xlim=0.1)
right.invert_yaxis()
right.legend(loc="center", bbox_to_anchor=(0.65, 0.265), ncols=2)
plt.show()

# %% [markdown]
# ## What was shown
#
# - An unmodified `nnx.Optimizer` puts every slot of the queue, the momentum and an element-wise v
#   where the kernel is; the axis of the slots is not cut. A v per tensor is a number that every
#   device has.
# - Each of 8 devices holds less than a seventh of every state that has the size of the parameters
#   (an eighth of the kernels', and biases whole). With a queue of 10 AdaShift's is six times as
#   large as Adam's; with the hopping window it is as large, and without momentum next to nothing.
# - `phi="max"` exchanges one number per sharded kernel and mesh axis, and XLA puts all of them
#   into one all-reduce per axis. `phi="none"` and Adam exchange nothing. Devices simulated on one
#   machine do not show what an all-reduce costs in time.
# - Training on 8 devices is that on one, up to rounding. A checkpoint arrives bit for bit on
#   either mesh, and from the same gradients the optimizer goes on bit for bit. On the mesh that it
#   was saved on, the whole training does. On another mesh it differs by roundings, because the
#   sums in the network's own gradients are cut in other places.

# %%
for leaf in (queue, none.queue["layers"][0]["up"]["kernel"][...]):
    assert leaf.sharding.spec == P(None, "fsdp", "tensor")
for tree in (optimizer.opt_state[0].mu, none.nu):
    assert tree["layers"][0]["up"]["kernel"][...].sharding.spec == P("fsdp", "tensor")
for name in OPTIMIZERS:
    silent = name in ("Adam", "AdaShift, none, n = 3")
    assert exchanged[name] == ((0, 0, 0) if silent else (2, 2 * kernels, 0))
    assert on_eight[name] < on_one[name] / 7 or name == "AdaShift, b1 = 0"
assert on_one["AdaShift, b1 = 0"] < 0.001 * on_one["Adam"]
assert 5.9 < on_one[NAME] / on_one["Adam"] < 6.1
assert on_one["AdaShift, hopping, n = 20"] < 1.01 * on_one["Adam"]
assert losses["8 x 1"][-1] < losses["8 x 1"][0] / 4
for mesh in ("8 x 1", "4 x 2"):
    assert apart([losses[mesh]], [whole]) < 1e-5
    assert apart([resumed[mesh][0]], [losses["8 x 1"][HALF:]]) < 1e-5
    assert same_bits(restored[mesh][0], saved)
    assert same_bits(restored[mesh][1], wanted)
assert same_bits(resumed["8 x 1"][1], ends["8 x 1"])
