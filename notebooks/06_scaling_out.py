# %% [markdown]
# # Scaling out: where is the state on 8 devices?
#
# You train a sharded model. **Do you have to shard the optimizer's state yourself, how much does
# each device hold and send, and can a run go on from a checkpoint on another mesh?** This notebook
# is for you if you know `jax.sharding` and Flax NNX. At its end you know that your code does not
# change, and what `adashift_factored` costs beside Adam, Adafactor's recipe and the paper's
# `adashift`.
#
# The 8 devices are simulated: they are CPU devices of one process. So this notebook shows places,
# bytes and results, but no speed.

# %%
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"  # before JAX is imported; real devices do not need it

import re
import tempfile
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

from adashift_optax import adashift, adashift_factored, state_bytes
from adashift_optax.sharding import opt_state_shardings

WIDTH, HIDDEN, BATCH, STEPS = 64, 256, 64, budget(300, 40)

# %% [markdown]
# ## What is sharded?
#
# The model is a small residual network. Each of its four kernels is partitioned over two mesh axes:
# `fsdp` splits the rows, `tensor` the columns. The biases are whole on every device. We use three
# meshes:
#
# - 1 x 1 is one device, for comparison.
# - 8 x 1 splits the rows of each kernel over all devices (plain FSDP).
# - 4 x 2 splits the rows in four and the columns in two.
#
# `make_model` and `create` below are ordinary Flax. No line of them is about the optimizer's state.


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


@nnx.jit
def make_model():
    return nnx.Sequential(Block(nnx.Rngs(0)), Block(nnx.Rngs(1)))


def create(mesh, tx):
    """The network on a mesh, and its optimizer."""
    with jax.set_mesh(MESHES[mesh]):
        model = make_model()
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


# %% [markdown]
# ## Where does each array lie?
#
# For each kernel the state of `adashift_factored` holds the momentum `mu`, which has the shape of
# the kernel, and the means of the squares over each row and each column. The state of `adashift`
# holds a *queue*, which is an array of n + 1 such kernels.

# %%
arrays_of = {}
for mesh in ("8 x 1", "4 x 2"):
    model, optimizer = create(mesh, adashift_factored(1e-3))
    state = optimizer.opt_state
    queue = optax.tree.get(create(mesh, adashift(1e-2))[1].opt_state, "queue")
    trees = {name: optax.tree.get(state, name) for name in ("mu", "rows", "columns")}
    arrays_of[mesh] = {"kernel": model.layers[0].up.kernel[...]} | {
        name: tree["layers"][0]["up"]["kernel"][...]
        for name, tree in (trees | {"queue": queue}).items()
    }
rows = [
    [name, array.shape, *(arrays_of[mesh][name].sharding.spec for mesh in arrays_of)]
    for name, array in arrays_of["4 x 2"].items()
]
table(["array", "shape", *(f"on {mesh}" for mesh in arrays_of)], rows)

# %%
# Figure: Where the arrays of one kernel lie. The numbers name the devices that hold a part. The
# momentum lies like the kernel. The means of rows are cut like the rows, and the means of columns
# like the columns. Where a part has several numbers, each of these devices holds a copy of it.
# Alt: Two rows of four drawings, for a mesh of 8 x 1 and of 4 x 2 devices: the kernel, the momentum
# mu, the means of rows and the means of columns, each cut into parts with the numbers of the
# devices that hold it.
SHADES = plt.get_cmap("Set3").colors
fig, axes = plt.subplots(2, 4, figsize=(9.0, 4.6), width_ratios=(4, 4, 1, 4))
for line, (mesh, arrays) in zip(axes, arrays_of.items(), strict=True):
    for ax, name in zip(line, ("kernel", "mu", "rows", "columns"), strict=True):
        array, holders = arrays[name], {}
        for shard in array.addressable_shards:
            ends = (
                np.array(part.indices(size)[:2]) / size
                for part, size in zip(shard.index, array.shape, strict=True)
            )
            holders.setdefault(tuple(map(tuple, ends)), []).append(shard.device.id)
        high = 0.25 if name == "columns" else 1
        for ((top, bottom), (left, right)), ids in holders.items():
            place, size = (left, top * high), (right - left, (bottom - top) * high)
            ax.add_patch(plt.Rectangle(place, *size, facecolor=SHADES[ids[0]], edgecolor="black"))
            middle = place[0] + size[0] / 2, place[1] + size[1] / 2
            words = ",".join(map(str, ids)) if len(ids) < 8 else "0 to 7"
            ax.text(*middle, words, ha="center", va="center", fontsize=8)
        ax.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        if mesh == "8 x 1":
            ax.set_title(name)
    line[0].set_ylabel(f"mesh of {mesh}")
plt.show()

# %% [markdown]
# ## How much does a device hold, and what does it send?
#
# An *all-reduce* combines numbers of several devices, such as a sum. A mean over a row that is cut
# over devices needs one. We compile the update with gradients that are sharded like the kernels,
# and count the all-reduces in the program and the numbers in them. Then we compile the same update
# once more and ask only for the step of the parameters, not for the new state. What is left are the
# all-reduces that the step has to wait for.
#
# *Adafactor's recipe* is `optax.scale_by_factored_rms`, `optax.clip_by_block_rms` and a momentum.

# %%
recipe = optax.chain(
    optax.scale_by_factored_rms(min_dim_size_to_factor=2),
    optax.clip_by_block_rms(1.0),
    optax.ema(0.9),
    optax.scale_by_learning_rate(1e-3),
)
OPTIMIZERS = {
    "Adam": optax.adam(1e-3),
    "adashift_factored": adashift_factored(1e-3),
    "adashift_factored (mu_dtype=bfloat16)": adashift_factored(1e-3, mu_dtype=jnp.bfloat16),
    "Adafactor's recipe": recipe,
    "AdaShift (max, n=10)": adashift(1e-2),
}
params = nnx.as_pure(nnx.state(create("4 x 2", optax.sgd(1.0))[0], nnx.Param))


def fullest(tree):
    """Bytes on the device that holds most."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


def all_reduces(function, *arguments):
    """All-reduces in a compiled function, and the numbers in them."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert not re.search(r" (?:all-gather|all-to-all|collective-permute|reduce-scatter)\S*\(", text)
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    shapes = [shape for result in results for shape in re.findall(r"\w\d+\[([\d,]*)\]", result)]
    sizes = [np.prod([int(d) for d in shape.split(",") if d], dtype=int) for shape in shapes]
    return len(results), int(sum(sizes))


costs = {}
for name, tx in OPTIMIZERS.items():
    state = jax.jit(tx.init, out_shardings=opt_state_shardings(tx, params))(params)
    costs[name] = [
        state_bytes(tx, params),
        fullest(state),
        *all_reduces(tx.update, params, state, params),
        all_reduces(lambda g, s, p, tx=tx: tx.update(g, s, p)[0], params, state, params)[0],
    ]
rows = [["(the parameters)", sum(p.nbytes for p in jax.tree.leaves(params)), fullest(params)]]
rows += [[name, *of] for name, of in costs.items()]
rows = [[*(f"{c:,}" if isinstance(c, int) else c for c in row), *["-"] * 3][:6] for row in rows]
header = [
    "bytes of the state",
    "on 1 device",
    "each of 4 x 2",
    "all-reduces",
    "numbers",
    "waits for",
]
table(header, rows)

# %% [markdown]
# - With more devices every state becomes smaller on each of them, as the parameters do. Only biases
#   and counters stay whole. In `adashift_factored` and Adafactor's recipe the means are cut along
#   one mesh axis only, so this state shrinks a little less.
# - `adashift_factored` holds half of Adam's state, and a quarter with `mu_dtype=bfloat16`. The
#   paper's `adashift` holds six times Adam's, because its queue has n + 1 gradients.
# - Adam sends nothing. `adashift_factored` sends one number for each row and each column that a
#   device holds, and one for each kernel, in one all-reduce for each mesh axis. **The step of the
#   parameters waits for none of them**, because it uses the means of the step before. The
#   all-reduces are for the next step.
# - Adafactor's recipe has 10 all-reduces, and its step waits for all of them: it needs the means of
#   today's gradient, and the clip of each block needs a sum.
#
# In a whole training step the gradients have a reduction of their own, and
# `optax.clip_by_global_norm` adds an all-reduce for which the step of every optimizer waits.
#
# ## Is the training the same on every mesh, and after a restart?
#
# We train with `adashift_factored` on each mesh, on the same batches. The run on 8 x 1 saves a
# checkpoint when half of its steps are done, and goes on. Then Orbax restores the checkpoint, once
# on the same mesh and once on 4 x 2. It needs to know where each array belongs, and a new model and
# a new optimizer on that mesh show it the places.


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


HALF = STEPS // 2
tx = adashift_factored(1e-3)
folder = Path(tempfile.mkdtemp()) / "half"
losses, ends = {}, {}
for mesh in MESHES:
    model, optimizer = create(mesh, tx)
    losses[mesh] = train(mesh, model, optimizer, range(HALF))
    if mesh == "8 x 1":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, nnx.as_pure(nnx.state((model, optimizer))))
        saved = arrays(model, optimizer)
    losses[mesh] = np.append(losses[mesh], train(mesh, model, optimizer, range(HALF, STEPS)))
    ends[mesh] = arrays(model, optimizer)

resumed, restored, resumed_ends = {}, {}, {}
for mesh in ("8 x 1", "4 x 2"):
    model, optimizer = create(mesh, tx)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder, nnx.as_pure(nnx.state((model, optimizer))))
    nnx.update((model, optimizer), state)
    restored[mesh] = arrays(model, optimizer)
    resumed[mesh] = train(mesh, model, optimizer, range(HALF, STEPS))
    resumed_ends[mesh] = arrays(model, optimizer)


def same_bits(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def apart(a, b):
    """The largest relative difference."""
    return float(np.max(np.abs(a / b - 1)))


rows = [
    [
        f"trained on {mesh}: losses, but against 1 x 1",
        f"{apart(losses[mesh], losses['1 x 1']):.0e}",
        "-",
    ]
    for mesh in ("8 x 1", "4 x 2")
]
for mesh, losses_after in resumed.items():
    distance = apart(losses_after, losses["8 x 1"][HALF:])
    rows += [
        [f"restored on {mesh}: all arrays", "-", same_bits(restored[mesh], saved)],
        [f"restored on {mesh}: losses to the end", f"{distance:.0e}", distance == 0],
        [
            f"restored on {mesh}: all arrays at the end",
            "-",
            same_bits(resumed_ends[mesh], ends["8 x 1"]),
        ],
    ]
table(["against the run on 8 x 1", "difference", "bit for bit"], rows)

# %%
# Figure: Left: three trainings that cannot be told apart: on one device, on 8 x 1, and on 4 x 2
# after a restart. Right: the state on one device, and on each of 8 devices.
# Alt: Two panels. Left: three coinciding curves of the training loss over 300 steps, with a dotted
# line at the restart in the middle. Right: bars of the state per device in kilobytes on a
# logarithmic scale, for five optimizers, on one device and on each of 8.
fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2))
steps = np.arange(1, STEPS + 1)
left.plot(steps, losses["1 x 1"], color="#bbbbbb", linewidth=6, label="1 x 1")
left.plot(steps, losses["8 x 1"], color=color("adashift_factored"), label="8 x 1")
left.plot(steps[HALF:], resumed["4 x 2"], ":", color="#222222", label="restored on 4 x 2")
left.axvline(HALF, ymax=0.55, color="gray", linestyle=":")
left.text(HALF, 0.57, "checkpoint", ha="center", transform=left.get_xaxis_transform())
left.set(xlabel="step", ylabel="training loss", ylim=0, title="adashift_factored")
left.legend(loc="upper right")
places = np.arange(len(costs))
on_one, on_eight = np.array([of[:2] for of in costs.values()]).T / 1000
right.barh(places - 0.2, on_one, 0.38, color="#bbbbbb", label="1 device")
right.barh(places + 0.2, on_eight, 0.38, color="#555555", label="each of 8 devices")
right.set_yticks(places, [name.replace(" (", "\n(") for name in costs], fontsize=9)
right.set(xlabel="state per device [kB]", xscale="log", xlim=10)
right.invert_yaxis()
right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
plt.show()

# %% [markdown]
# - Training on 8 devices has the losses of training on one, up to rounding.
# - A checkpoint arrives bit for bit on both meshes.
# - On the mesh where the run was saved, the rest of the training is the same bit for bit. On
#   another mesh it differs by rounding, because the sums in the gradients of the network are cut in
#   other places.
#
# ## The answer
#
# You do not shard the state yourself: the momentum lies where the parameter lies and the means lie
# along its rows and columns, without a change to `nnx.Optimizer` or to the training step. On this
# model each of 8 devices holds 40 kB of the state of `adashift_factored`, where Adam needs 71 kB.
# It sends 484 numbers in two all-reduces for which no step waits, while Adafactor's recipe, with
# the same memory, waits for ten, and Adam sends nothing. A run goes on from a checkpoint bit for
# bit on the same mesh, and up to rounding on another mesh.

# %%
for placed in arrays_of.values():
    shard = {name: array.sharding.shard_shape(array.shape) for name, array in placed.items()}
    assert shard["mu"] == shard["kernel"]
    assert shard["queue"] == (11, *shard["kernel"])
    assert [shard["rows"], shard["columns"]] == [(shard["kernel"][0], 1), (1, shard["kernel"][1])]
assert [of[2:] for of in costs.values()] == [
    [0, 0, 0],
    [2, 484, 0],
    [2, 484, 0],
    [10, 492, 10],
    [2, 8, 0],
]
parts = [p.sharding.shard_shape(p.shape) for p in jax.tree.leaves(params) if p.ndim == 2]
assert sum(rows + columns + 1 for rows, columns in parts) == 484
adam, ours, narrow, _, paper = (np.array(of[:2]) for of in costs.values())
assert np.all(ours < 0.57 * adam)
assert np.all(narrow < 0.32 * adam)
assert np.all(paper / adam > 5.9)
assert [round(of[1] / 1000) for of in (ours, adam)] == [40, 71]
assert losses["8 x 1"][-1] < losses["8 x 1"][0] / 4 or STEPS < 300
for mesh in ("8 x 1", "4 x 2"):
    assert apart(losses[mesh], losses["1 x 1"]) < 1e-4
    assert apart(resumed[mesh], losses["8 x 1"][HALF:]) < 1e-4
    assert same_bits(restored[mesh], saved)
assert same_bits(resumed_ends["8 x 1"], ends["8 x 1"])
