"""Two and four processes on loopback, and their checkpoints in one; the demo of docs/fsdp.py."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest
from compiler import FLAGS
from distributed import SAVED_AT, STEPS
from jax.sharding import AxisType
from test_checkpoint import assert_same_updates, like, run, same_bits_on_any_mesh
from test_sharding import VARIANTS, N, assert_in_place, make_mesh, make_params

from adashift_optax import adashift

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"XLA_FLAGS": FLAGS}

pytestmark = pytest.mark.slow


def run_all(commands):
    """Run commands side by side; fail with the output of one that failed, and leave none."""
    options = dict(env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    workers = [subprocess.Popen([sys.executable, *command], **options) for command in commands]
    try:
        outputs = [worker.communicate(timeout=500)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output
    return outputs


@pytest.mark.parametrize("processes", [2, 4])
def test_processes(processes, tmp_path):
    """Each holds its share of a state that steps as one; saved by all, one goes on with it."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    script = [HERE / "distributed.py"]
    outputs = run_all(
        [[*script, str(k), str(processes), str(port), tmp_path] for k in range(processes)]
    )
    for output in outputs:
        assert [f"{name} done" in output for name in VARIANTS] == [True] * len(VARIANTS)
    mesh = make_mesh(AxisType.Auto, (2, 4))
    for variant, kwargs in VARIANTS.items():
        tx = adashift(1e-2, n=N, **kwargs)
        alone, update = make_params(None), jax.jit(tx.update)
        wanted, _ = run(update, None, alone, tx.init(alone), range(STEPS))
        with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
            params = make_params(mesh)
            state = checkpointer.restore(tmp_path / variant, like(tx, params))
            assert_in_place(state, params)
            updates, _ = run(update, mesh, params, state, range(SAVED_AT, STEPS))
        assert_same_updates(updates, wanted[SAVED_AT:], same_bits_on_any_mesh(variant))


def test_demo_of_two_processes_killed_and_resumed(tmp_path):
    script = HERE.parent / "docs/fsdp.py"
    (output,) = run_all([[script, "--folder", tmp_path, "--steps", "24", "--save-every", "8"]])
    assert "killed by SIGKILL after step" in output
    assert re.search(r"started again: went on with step (9|17)\n", output)
    assert output.splitlines()[-1] == "killed and resumed: the same losses, parameters and state"
