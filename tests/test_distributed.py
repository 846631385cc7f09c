"""Two and four processes on loopback, and their checkpoints in one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import meshes
import orbax.checkpoint as ocp
import pytest
from compiler import FLAGS
from distributed import ALL, SAVED_AT
from meshes import STEPS, assert_near_reference, make_arrays, make_mesh, place, set_mesh

ENVIRONMENT = os.environ | {"XLA_FLAGS": FLAGS}


PROCESSES = [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.all_only)]


@pytest.mark.skipif(jax.__version_info__ < (0, 7), reason="Orbax then needs JAX 0.7")
@pytest.mark.parametrize("processes", PROCESSES)
def test_processes(processes, tmp_path):
    """Each holds its share of a state that steps as one; saved by all, one goes on with it."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    command = [sys.executable, Path(__file__).with_name("distributed.py")]
    options = dict(env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    workers = [
        subprocess.Popen([*command, *map(str, (k, processes, port)), tmp_path], **options)
        for k in range(processes)
    ]
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=500)
            assert worker.returncode == 0, output
    finally:
        for worker in workers:
            worker.kill()
    mesh = make_mesh("auto", (2, 4))
    with set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
        params = place(mesh, make_arrays())
        state = checkpointer.restore(tmp_path / "state", ALL.like(params))
        meshes.assert_in_place(state)
        updates, _ = ALL.run(mesh, state, range(SAVED_AT, STEPS))
    for name in ALL.txs:
        assert_near_reference([u[name] for u in updates], name, first=SAVED_AT)


@pytest.mark.all_only
def test_demo_of_two_processes_killed_and_resumed(tmp_path):
    """It fails unless losses, parameters and state are those of an unbroken run."""
    short = ["--folder", tmp_path, "--steps", "24", "--save-every", "8"]
    command = [sys.executable, Path(__file__).parents[1] / "docs/fsdp.py", *short]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=500)
