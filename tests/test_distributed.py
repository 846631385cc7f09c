"""Two and four processes on loopback, and their checkpoints in one; the demo of docs/fsdp.py."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
import pytest
from compiler import FLAGS
from distributed import ALL, SAVED_AT
from meshes import (
    STEPS,
    assert_in_place,
    assert_near_reference,
    make_arrays,
    make_mesh,
    place,
    set_mesh,
)

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"XLA_FLAGS": FLAGS}


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


PROCESSES = [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.all_only)]


@pytest.mark.parametrize("processes", PROCESSES)
def test_processes(processes, tmp_path):
    """Each holds its share of a state that steps as one; saved by all, one goes on with it."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    script = [HERE / "distributed.py"]
    outputs = run_all(
        [[*script, str(k), str(processes), str(port), tmp_path] for k in range(processes)]
    )
    assert all("all settings done" in output for output in outputs)
    mesh = make_mesh("auto", (2, 4))
    with set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
        params = place(mesh, make_arrays())
        state = checkpointer.restore(tmp_path / "state", ALL.like(params))
        assert_in_place(state)
        updates, _ = ALL.run(mesh, state, range(SAVED_AT, STEPS))
    for name in ALL.txs:
        assert_near_reference([u[name] for u in updates], name, first=SAVED_AT)


@pytest.mark.all_only
def test_demo_of_two_processes_killed_and_resumed(tmp_path):
    script = HERE.parent / "docs/fsdp.py"
    (output,) = run_all([[script, "--folder", tmp_path, "--steps", "24", "--save-every", "8"]])
    assert "killed by SIGKILL after step" in output
    assert re.search(r"started again: went on with step (9|17)\n", output)
    assert output.splitlines()[-1] == "killed and resumed: the same losses, parameters and state"
