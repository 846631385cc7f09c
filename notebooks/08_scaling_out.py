# %% [markdown]
# # Scaling out: where is the state on 8 devices?
#
# You train a sharded model on several devices. **Where does the state of AdaShift lie, how much
# does each device hold and send, and can a run go on from a checkpoint on another mesh?** This
# notebook is for readers who know `jax.sharding` and Flax NNX. At its end you know that nothing has
# to be changed in the code, and what each setting costs.
#
# The state of AdaShift can hold more than Adam's. Some settings keep the latest gradients in a
# *queue*; one entry of the queue, the gradient of one step, is a *slot*. A queue of ten gradients
# takes ten times the memory of the parameters, so it must not lie whole on every device.
#
# The 8 devices are simulated: they are CPU devices of one process. So this notebook shows places,
# bytes and results, but no speed.

# %%
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before JAX is imported; real devices do not need it

import re
import tempfile
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from common import budget, color, table
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from adashift_optax import adashift, state_bytes

WIDTH, HIDDEN, BATCH, STEPS = 64, 256, 64, budget(300, 60)

# %% [markdown]
# ## What is sharded?
#
# The model is a small residual network. Each of its four kernels is a leaf (an array of the
# parameter tree) that is partitioned over two mesh axes: `fsdp` splits the rows, `tensor` the
# columns. The biases are whole on every device. We use three meshes:
#
# - 1 x 1 is one device, for comparison.
# - 8 x 1 splits the rows of each kernel over all devices (plain FSDP).
# - 4 x 2 splits the rows in four and the columns in two.
#
# `make_model` and `create` below are ordinary Flax. No line of them is about AdaShift's state.


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
recommended = adashift(1e-3, n=1, b1=0.5, phi="factored", window="ema", clip_value=10.0)
OPTIMIZERS = {
    "Adam": optax.adam(1e-3),
    "AdaShift (max, n=10)": adashift(1e-2),
    "AdaShift (max, n=10, bfloat16 queue)": adashift(1e-2, queue_dtype=jnp.bfloat16),
    "AdaShift (max, hopping, n=20)": adashift(1e-2, n=20, window="hopping"),
    "AdaShift (max, b1=0)": adashift(1e-2, b1=0),
    "AdaShift (none, n=3, clip_value=1)": adashift(1e-3, n=3, phi="none", clip_value=1.0),
    "AdaShift (factored, ema)": recommended,
}

_, NAME, *_, NONE, FACTORED = OPTIMIZERS


@nnx.jit
def make_model():
    return nnx.Sequential(Block(nnx.Rngs(0)), Block(nnx.Rngs(1)))


def create(mesh, name):
    """The network on a mesh, and its optimizer."""
    with jax.set_mesh(MESHES[mesh]):
        model = make_model()
        return model, nnx.Optimizer(model, OPTIMIZERS[name], wrt=nnx.Param)


# %% [markdown]
# ## Where does each array lie?
#
# JAX can draw the sharding of an array. Below are a kernel on the mesh of 4 x 2 and one slot of its
# queue. Both are cut into 8 parts, and each device has the same part of both.

# %%
model, optimizer = create("4 x 2", NAME)
kernel = model.layers[0].up.kernel[...]
queue = optimizer.opt_state[0].queue["layers"][0]["up"]["kernel"][...]
print("kernel", kernel.shape, kernel.sharding.spec)
jax.debug.visualize_array_sharding(kernel, use_color=False, scale=0.5)
print("queue", queue.shape, queue.sharding.spec, "- one slot of it:")
jax.debug.visualize_array_sharding(queue[0], use_color=False, scale=0.5)

# %% [markdown]
# The next figure shows this for both meshes, together with v, the second moment. The queue has
# n + 1 slots, which are drawn one behind the other. With `phi="max"` v is one number for the whole
# kernel, and every device holds that number. With `phi="none"` v has the shape of the kernel. With
# `phi="factored"` (not drawn) v is one number for each row and one for each column, and these are
# cut like the rows and the columns.

# %%
# Figure: Where the arrays of one kernel lie. Colors and numbers name the device that holds a part.
# Each slot of the queue, and a v with one number for each element, are cut like the kernel. With
# `phi="max"` every device holds the one number v.
# Alt: Two rows of four drawings, for a mesh of 8 x 1 and of 4 x 2 devices: the kernel, the queue
# as a stack of such kernels, v of phi=max as one small box for each device, and v of phi=none,
# which is cut like the kernel. A color and a number name the device of each part.
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
    model, optimizer = create(mesh, NAME)
    state, none = optimizer.opt_state[0], create(mesh, NONE)[1].opt_state[0]
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
fig.supxlabel("color and number: the device that holds this part", fontsize=11)
plt.show()

# %% [markdown]
# ## How much does a device hold, and what does it send?
#
# We count the bytes of the shards on the device that holds most. We also compile `update` alone,
# with gradients that are sharded like the kernels, and count the all-reduces in the program. An
# all-reduce combines numbers of several devices, such as a maximum or a sum. The last column of
# the table counts these numbers.


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
rows = [[a, f"{b:,}", f"{c:,}", *exchanged.get(a, ["-", "-"])[:2]] for a, b, c in rows]
table(["bytes of the state", "on 1 device", "each of 4 x 2", "all-reduces", "numbers"], rows)
print(f"The model has {kernels} sharded kernels.")

# %% [markdown]
# - With more devices every state becomes smaller on each of them, as the parameters do. Only biases
#   and counters stay whole. In `AdaShift (factored, ema)` the numbers of rows and columns are cut
#   along one mesh axis, so this state shrinks a little less: to a seventh instead of an eighth.
# - `AdaShift (max, n=10)` holds six times Adam's state, because its queue has n + 1 slots. A queue
#   in bfloat16 takes about half of that. The hopping window takes as much as Adam, and the
#   recommended `AdaShift (factored, ema)` half as much. "max" without momentum (b1 = 0) takes a few
#   hundred bytes.
# - Adam and `phi="none"` send nothing. With `phi="max"` the devices agree on the largest square of
#   each kernel: one number for each kernel and mesh axis. With "factored" they send one number for
#   each row and column that a device holds, and one for each kernel. Both phi put these numbers
#   into one all-reduce for each mesh axis.
#
# ## Is the training the same on every mesh?
#
# We train with `AdaShift (max, n=10)` on each mesh, on the same batches. The run on 8 x 1 saves a
# checkpoint when half of its steps are done, and goes on.


# %%
@nnx.jit(donate_argnums=(0, 1))
def train_step(model, optimizer, step):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(2), step), (BATCH, WIDTH))
    x = jax.lax.with_sharding_constraint(x, P("fsdp"))  # each device has a part of the batch
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


HALF = STEPS // 2
folder = Path(tempfile.mkdtemp()) / "half"
losses, ends = {}, {}
for mesh in MESHES:
    model, optimizer = create(mesh, NAME)
    losses[mesh] = train(mesh, model, optimizer, range(HALF))
    if mesh == "8 x 1":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, nnx.as_pure(nnx.state((model, optimizer))))
        saved = arrays(model, optimizer)
        wanted = same_gradients(mesh, model, optimizer)
    losses[mesh] = np.append(losses[mesh], train(mesh, model, optimizer, range(HALF, STEPS)))
    ends[mesh] = arrays(model, optimizer)

# %% [markdown]
# Orbax now restores the checkpoint of 8 x 1, once on the same mesh and once on 4 x 2. It needs to
# know where each array belongs. A new model and a new optimizer on that mesh show Orbax the places.
# Then we compare three things with the run that was not interrupted: the arrays that arrive, the
# updates that the optimizer makes of 12 given gradients, and the losses of the rest of the
# training.

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


def short(difference):
    return f"{difference:.0e}" if difference else "0"


whole = losses["1 x 1"]
rows = []
for mesh in ("8 x 1", "4 x 2"):
    difference = short(apart([losses[mesh]], [whole]))
    rows.append([f"trained on {mesh}: losses, against 1 x 1", difference, "-"])
for mesh, (arrived, updates) in restored.items():
    distance = apart([resumed[mesh][0]], [losses["8 x 1"][HALF:]])
    same = same_bits(resumed[mesh][1], ends["8 x 1"])
    rows += [
        [f"restored on {mesh}: all arrays, against 8 x 1", "-", same_bits(arrived, saved)],
        [f"restored on {mesh}: 12 updates, against 8 x 1", "-", same_bits(updates, wanted)],
        [f"restored on {mesh}: losses to the end, against 8 x 1", short(distance), same],
    ]
table(["comparison", "relative difference", "bit for bit"], rows)

# %%
# Figure: Left: three trainings that cannot be told apart: on one device, on 8 x 1, and on 4 x 2
# after a restart. Right: each of 8 devices holds about an eighth of the state, except with b1 = 0,
# where the state is a few numbers.
# Alt: Two panels. Left: three coinciding curves of the training loss over 300 steps, with a dotted
# line at the restart in the middle. Right: bars of the state per device in kilobytes on a
# logarithmic scale, for seven optimizers, on one device and on each of 8.
fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.2))
steps = np.arange(1, STEPS + 1)
left.plot(steps, whole, color="#bbbbbb", linewidth=6, label="1 x 1")
left.plot(steps, losses["8 x 1"], color=color(NAME), label="8 x 1")
left.plot(steps[HALF:], resumed["4 x 2"][0], ":", color="#222222", label="restored on 4 x 2")
left.axvline(HALF, ymax=0.55, color="gray", linestyle=":")
left.text(HALF, 0.57, "checkpoint", ha="center", transform=left.get_xaxis_transform())
left.set(xlabel="step", ylabel="training loss", ylim=0, title="AdaShift (max, n=10)")
left.legend(loc="upper right")
places = np.arange(len(OPTIMIZERS))
kilobytes = np.array([[*on_one.values()], [*on_eight.values()]]) / 1000
right.barh(places - 0.2, kilobytes[0], 0.38, color="#bbbbbb", label="1 device")
right.barh(places + 0.2, kilobytes[1], 0.38, color="#555555", label="each of 8 devices")
right.set_yticks(places, [textwrap.fill(name, 22) for name in OPTIMIZERS], fontsize=9)
right.set(xlabel="state per device [kB]", xscale="log", xlim=0.1)
right.invert_yaxis()
right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
plt.show()

# %% [markdown]
# - Training on 8 devices has the losses of training on one, up to rounding.
# - A checkpoint arrives bit for bit on both meshes. From the same gradients the optimizer also
#   makes the same 12 updates, bit for bit, on both meshes.
# - On the mesh where the run was saved, the rest of the training is the same bit for bit. On
#   another mesh it differs by rounding, because the sums in the gradients of the network are cut in
#   other places.
#
# ## The answer
#
# Each slot of the queue, the momentum and a v with one number for each element lie where the
# parameter lies, without a change to `nnx.Optimizer` or to the training step. Each of 8 devices
# holds about an eighth of the state and sends nothing or one all-reduce for each mesh axis, in
# which "max" has one number for each kernel and "factored" one for each row and column. A run goes
# on from a checkpoint bit for bit on the same mesh, and up to rounding on another mesh.

# %%
for leaf in (queue, none.queue["layers"][0]["up"]["kernel"][...]):
    assert leaf.sharding.spec == P(None, "fsdp", "tensor")
for tree in (optimizer.opt_state[0].mu, none.nu):
    assert tree["layers"][0]["up"]["kernel"][...].sharding.spec == P("fsdp", "tensor")
for name in OPTIMIZERS:
    if name != FACTORED:
        assert exchanged[name] == ((0, 0, 0) if name in ("Adam", NONE) else (2, 2 * kernels, 0))
        assert on_eight[name] < on_one[name] / 7 or name == "AdaShift (max, b1=0)"
parts = [p.sharding.shard_shape(p.shape) for p in jax.tree.leaves(params) if p.ndim == 2]
assert exchanged[FACTORED] == (2, sum(rows + columns + 1 for rows, columns in parts), 0)
of_rows, of_columns, of_both = (
    stat["layers"][0]["up"]["kernel"][...] for stat in create("4 x 2", FACTORED)[1].opt_state[0].nu
)
assert of_rows.sharding.shard_shape(of_rows.shape) == (WIDTH // 4, 1)
assert of_columns.sharding.shard_shape(of_columns.shape) == (1, HIDDEN // 2)
assert of_both.shape == (1, 1)
assert on_eight[FACTORED] < on_one[FACTORED] / 6.5
assert on_one["AdaShift (max, b1=0)"] < 0.001 * on_one["Adam"]
assert 5.9 < on_one[NAME] / on_one["Adam"] < 6.1
assert on_one["AdaShift (max, hopping, n=20)"] < 1.01 * on_one["Adam"]
assert on_one[FACTORED] < 0.55 * on_one["Adam"]
assert losses["8 x 1"][-1] < losses["8 x 1"][0] / 4
for mesh in ("8 x 1", "4 x 2"):
    assert apart([losses[mesh]], [whole]) < 1e-5
    assert apart([resumed[mesh][0]], [losses["8 x 1"][HALF:]]) < 1e-5
    assert same_bits(restored[mesh][0], saved)
    assert same_bits(restored[mesh][1], wanted)
assert same_bits(resumed["8 x 1"][1], ends["8 x 1"])
