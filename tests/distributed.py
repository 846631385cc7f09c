"""One process of several that test_distributed.py starts: a state on a global mesh, and its saving.

python distributed.py PROCESS PROCESSES PORT FOLDER
"""

import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from test_sharding import SHAPES, SPECS, VARIANTS, N, assert_in_place, make_mesh, make_params

from adashift_optax import adashift
from adashift_optax.sharding import opt_state_shardings

STEPS, SAVED_AT = 20, 6


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
    grads = [jax.tree.map(np.asarray, make_params(None, step)) for step in range(STEPS)]
    for variant, kwargs in VARIANTS.items():
        tx = adashift(1e-2, n=N, **kwargs)
        update, state, wanted = jax.jit(tx.update), tx.init(grads[0]), []
        for g in grads:
            want, state = update(g, state)
            wanted.append(jax.tree.map(np.asarray, want))
        mesh = make_mesh(AxisType.Explicit if processes == 2 else AxisType.Auto)
        with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
            params = on(mesh, grads[0])
            shardings = opt_state_shardings(tx, params)
            state = jax.jit(tx.init, out_shardings=shardings)(params)
            update = jax.jit(tx.update, donate_argnums=1)
            for step, g in enumerate(grads):
                assert_in_place(state, params)
                if step == SAVED_AT:
                    checkpointer.save(folder / variant, state)
                    checkpointer.wait_until_finished()
                u, state = update(on(mesh, g), state)
                for name in SHAPES:
                    for shard in u[name].addressable_shards:
                        np.testing.assert_allclose(
                            shard.data, wanted[step][name][shard.index], rtol=1e-5, atol=1e-9
                        )
        print(f"{variant} done", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
