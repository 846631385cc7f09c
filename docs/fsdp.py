"""FSDP training of a small transformer in several processes, resumed after a SIGKILL.

``make distributed-demo`` runs it: once in one process, once in two, and once more in two that are
killed in the middle and started again. All three have the same number of devices, see the same
data, and must end alike. The text is that of Python's own standard library.
"""

import argparse
import csv
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, PartitionSpec, SingleDeviceSharding

from adashift_optax import adashift_factored

DEVICES, BATCH, CONTEXT, VOCABULARY = 4, 16, 32, 256
WIDTH, HEADS, LAYERS = 64, 4, 3


def sharded(*names: str | None) -> nnx.Initializer:
    """The initializer of a kernel that is sharded on the mesh axes `names`."""
    return nnx.with_partitioning(nnx.initializers.normal(0.05), names)


class Block(nnx.Module):
    """Attention and a perceptron, each on normalized input and added to it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            HEADS,
            WIDTH,
            decode=False,
            kernel_init=sharded("fsdp", None, None),
            out_kernel_init=sharded(None, None, "fsdp"),
            rngs=rngs,
        )
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, kernel_init=sharded(None, "fsdp"), rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, kernel_init=sharded("fsdp", None), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the activations after this layer."""
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    """Predicts the next byte; its layers are one stack, run by a scan."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        init = sharded(None, "fsdp")
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, embedding_init=init, rngs=rngs)
        stack = nnx.vmap(Block, transform_metadata={nnx.PARTITION_NAME: None})
        self.blocks = nnx.split_rngs(splits=LAYERS)(stack)(rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, kernel_init=init, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the logits of the byte after each of `tokens` [batch, context]."""
        x = self.tokens(tokens) + self.positions(jnp.arange(CONTEXT))
        x = nnx.scan(lambda x, block: (block(x), None))(x, self.blocks)[0]
        return self.head(x)


@nnx.jit
def create() -> tuple[Transformer, nnx.Optimizer]:
    """The model and its optimizer. Under jit no device ever holds a whole array."""
    model = Transformer(nnx.Rngs(0))
    tx = optax.chain(optax.clip_by_global_norm(1.0), adashift_factored(3e-3))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit(donate_argnums=(0, 1))
def train_step(model: Transformer, optimizer: nnx.Optimizer, text: jax.Array, step: jax.Array):
    """One step on excerpts that depend on nothing but its number, so that a restart sees them."""
    key = jax.random.fold_in(jax.random.key(0), step)
    starts = jax.random.randint(key, (BATCH, 1), 0, len(text) - CONTEXT)
    excerpts = text[starts + jnp.arange(CONTEXT + 1)].astype(jnp.int32)
    excerpts = jax.lax.with_sharding_constraint(excerpts, PartitionSpec("fsdp"))

    def loss_fn(model: Transformer) -> jax.Array:
        logits = model(excerpts[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, excerpts[:, 1:]).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


def train(folder: Path, steps: int, save_every: int) -> None:
    """Train in this process, with the others; go on from the latest checkpoint in `folder`."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("a*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in paths), np.uint8)
    mesh = jax.make_mesh((DEVICES,), ("fsdp",), axis_types=(AxisType.Auto,))
    options = ocp.CheckpointManagerOptions(save_interval_steps=save_every, max_to_keep=2)
    manager = ocp.CheckpointManager((folder / "checkpoints").resolve(), options=options)
    with jax.set_mesh(mesh), manager, (folder / "losses.csv").open("a", newline="") as file:
        model, optimizer = create()
        graph, state = nnx.split((model, optimizer))
        done = manager.latest_step() or 0
        if done:  # every array comes back into its place on the mesh
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        model, optimizer = nnx.merge(graph, state)
        for step in range(done + 1, steps + 1):
            loss = float(train_step(model, optimizer, text, step))
            if jax.process_index() == 0:
                csv.writer(file).writerow([step, loss])
                file.flush()
            manager.save(step, args=ocp.args.StandardSave(nnx.state((model, optimizer))))


def start(folder: Path, processes: int, *options: str) -> list[subprocess.Popen[bytes]]:
    """Start the processes of one training."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    command = [sys.executable, __file__, "--folder", str(folder), "--processes", str(processes)]
    workers = []
    for k in range(processes):
        with (folder / f"process-{k}.log").open("ab") as log:
            one = [*command, *options, "--port", str(port), "--process", str(k)]
            workers.append(subprocess.Popen(one, stdout=log, stderr=subprocess.STDOUT))
    return workers


def losses(folder: Path) -> list[tuple[int, float]]:
    """The steps that a training has made so far, and their losses, in the order made."""
    path = folder / "losses.csv"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = csv.reader(line for line in lines if line.endswith("\n"))
    return [(int(step), float(loss)) for step, loss in rows]


def finish(folder: Path, workers: list[subprocess.Popen[bytes]]) -> dict[int, float]:
    """Wait for all processes, leave none behind; return the losses by step."""
    try:
        if any(worker.wait() for worker in workers):
            sys.exit(f"a process failed; see {folder}/process-*.log")
    finally:
        for worker in workers:
            worker.kill()
    return dict(losses(folder))


def final(folder: Path, step: int) -> list[np.ndarray]:
    """The parameters and the state of the optimizer in a checkpoint, whole, in this one process."""
    here = SingleDeviceSharding(jax.devices()[0])
    handler = ocp.StandardCheckpointHandler()
    path = (folder / "checkpoints").resolve()
    with ocp.CheckpointManager(path, item_handlers=handler) as manager:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            manager.item_metadata(step),
        )
        tree = manager.restore(step, args=ocp.args.StandardRestore(like))
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def demo(folder: Path, steps: int, save_every: int) -> None:
    """Run the three trainings and compare them."""
    options = ["--steps", str(steps), "--save-every", str(save_every)]
    single, two, killed = (folder / name for name in ("single", "two", "killed"))
    a = finish(single, start(single, 1, *options))
    print(f"one process: loss {a[1]:.4f} at step 1, {a[steps]:.4f} at step {steps}", flush=True)
    b = finish(two, start(two, 2, *options))
    print(f"two processes: loss {b[1]:.4f} at step 1, {b[steps]:.4f} at step {steps}", flush=True)
    workers = start(killed, 2, *options)
    while len(losses(killed)) < steps // 2 + save_every // 2:
        if any(worker.poll() is not None for worker in workers):
            sys.exit(f"a process ended before it was killed; see {killed}/process-*.log")
        time.sleep(0.01)
    for worker in workers:
        worker.kill()
        worker.wait()
    before = losses(killed)
    print(f"two processes, killed by SIGKILL after step {before[-1][0]}", flush=True)
    c = finish(killed, start(killed, 2, *options))
    print(f"started again: went on with step {losses(killed)[len(before)][0]}")

    apart = max(abs(a[step] - b[step]) / a[step] for step in range(1, steps + 1))
    print(f"two processes against one: losses differ by at most {apart:.1e} of their value")
    pairs = zip(final(two, steps), final(killed, steps), strict=True)
    same = all(np.array_equal(x, y) for x, y in pairs) and b == c
    print(f"killed and resumed: {'the same' if same else 'OTHER'} losses, parameters and state")
    if apart > 1e-4 or not same:
        sys.exit(1)


def main() -> None:
    """Run the demo, or (with --process) one process of a training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/fsdp"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=20)
    for name in ("--processes", "--process", "--port"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process is None:
        folder = args.folder / time.strftime("%Y%m%d-%H%M%S")
        return demo(folder, args.steps, args.save_every)
    jax.config.update("jax_num_cpu_devices", DEVICES // args.processes)
    if args.processes > 1:
        jax.distributed.initialize(f"localhost:{args.port}", args.processes, args.process)
    train(args.folder, args.steps, args.save_every)


if __name__ == "__main__":
    main()
