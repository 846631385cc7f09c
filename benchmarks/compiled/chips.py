"""The chips that are compiled for. None of them has to be at hand, only their compiler.

``jax.experimental.topologies`` is experimental: what it needs may change with each version of JAX.
"""

import importlib.util
import os
from typing import Any

TPU, H100 = "tpu", "h100"
# What the compilers look for in the surroundings of a machine with such a chip.
SURROUNDINGS = {
    TPU: {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # more than one process may compile
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
    },
    H100: {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0",
    },
}
PLUGINS = {TPU: "libtpu", H100: "jax_plugins.xla_cuda13"}
EXTRAS = {TPU: "tpu", H100: "cuda"}
# Sizes and rates of the card (SXM, 80 GB) that its compiler asks for.
CARD = {
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "clock_rate_ghz": 1.98,
    "core_count": 132,
    "device_memory_size": 84_942_979_072,
    "fpus_per_core": 128,
    "l2_cache_size": 50 * 2**20,
    "memory_bandwidth": 3_352_320_000_000,
    "registers_per_block_limit": 2**16,
    "registers_per_core_limit": 2**16,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_core": 228 * 2**10,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "threads_per_warp": 32,
}


def missing(kind: str) -> str:
    """What to install before `kind` can be compiled for; empty if it is there."""
    try:
        found = importlib.util.find_spec(PLUGINS[kind])
    except ModuleNotFoundError:
        found = None
    return "" if found else f"{PLUGINS[kind]} is not installed: pip install -e '.[{EXTRAS[kind]}]'"


def prepare(kind: str) -> None:
    """Set what the compiler for `kind` looks for. Call it before JAX is imported."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ.update(SURROUNDINGS[kind])
    if flags and "XLA_FLAGS" in SURROUNDINGS[kind]:
        os.environ["XLA_FLAGS"] = f"{flags} {SURROUNDINGS[kind]['XLA_FLAGS']}"


def devices(name: str) -> list[Any]:
    """The chips of a topology: "h100", or e.g. "v5e:4x4".

    Raises:
      RuntimeError: the compiler is not installed, or this version of JAX does not offer it.
    """
    from jax.experimental import topologies

    kind = H100 if name == H100 else TPU
    if lacking := missing(kind):
        raise RuntimeError(f"No compiler for {name}: {lacking}.")
    options: dict[str, Any] = {"platform": "tpu"}
    if kind == H100:
        options = {"platform": "cuda", "target_config": _card(), "topology": "1x1x1"}
    try:
        return list(topologies.get_topology_desc(topology_name=name, **options).devices)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            f"No compiler for {name}: jax.experimental.topologies, which is experimental, refused "
            f"it: {reason} The versions that work are in pyproject.toml, extra {EXTRAS[kind]!r}."
        ) from error


def _card() -> str:
    """The H100 as the text of a GpuTargetConfigProto."""
    lines = "\n".join(f"  {name}: {value}" for name, value in CARD.items())
    return (
        f"gpu_device_info {{\n{lines}\n  cuda_compute_capability {{ major: 9 }}\n}}\n"
        'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 8 }\n'
        'device_description_str: "NVIDIA H100 80GB HBM3"\n'
    )
