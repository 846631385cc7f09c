"""One process of several that test_distributed.py starts: a state on a global mesh, and its saving.

python distributed.py PROCESS PROCESSES PORT FOLDER
"""

import sys
from pathlib import Path

import jax
import meshes
import numpy as np
import orbax.checkpoint as ocp
import settings
from jax.sharding import NamedSharding
from meshes import SPECS, STEPS, SideBySide, make_arrays, set_mesh

SAVED_AT = 11
ALL = SideBySide(settings.LAYOUTS)


def on(mesh, arrays):
    """`arrays`, of which every process holds its own shards only."""
    return {
        name: jax.make_array_from_callback(
            x.shape, NamedSharding(mesh, SPECS[name]), lambda index, x=x: x[index]
        )
        for name, x in arrays.items()
    }


def main(process, processes, port, folder):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8 // processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    assert (jax.device_count(), len(jax.local_devices())) == (8, 8 // processes)
    mesh = meshes.make_mesh("explicit" if processes == 2 else "auto")
    params = on(mesh, make_arrays())
    with set_mesh(mesh):
        state = jax.jit(ALL.init, out_shardings=ALL.shardings(params))(params)
    update = jax.jit(ALL.update, donate_argnums=1)
    for step in range(STEPS):
        meshes.assert_in_place(state, exactly=processes == 2)
        if step == SAVED_AT:  # no mesh is set: on JAX 0.7 Orbax cannot save under one
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / "state", state)
        with set_mesh(mesh):
            u, state = update(on(mesh, make_arrays(step)), state)
        for name in ALL.txs:
            assert_shards_near_reference(u[name], name, step)


def assert_shards_near_reference(updates, name, step):
    """Each process looks at what it holds."""
    for leaf, (wanted, scales) in meshes.wanted(name).items():
        tolerance = 2.0**-8 if name == "factored bfloat16" else 2e-5
        for shard in updates[leaf].addressable_shards:
            error = abs(np.asarray(shard.data) + meshes.RATE * wanted[step][shard.index])
            assert (error <= tolerance * meshes.RATE * scales[step][shard.index]).all(), name


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
