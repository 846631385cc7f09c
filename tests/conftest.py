"""Eight CPU devices, strict dtype promotion; warnings are errors (pyproject.toml).

A test without a mark belongs to `make check`, `make test` and `make test-all`. One marked `slow`
belongs to the latter two, one marked `all_only` to the last.
"""

import os
from pathlib import Path

from compiler import FLAGS

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"
# Programs that were compiled before are read from here, by the other worker or by the next run.
# Small ones too: they are most.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest
from common import in_64_bits

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Runs a test in 64-bit JAX."""
    with in_64_bits():
        yield


@pytest.fixture(scope="module")
def standard_promotion():
    """For all of a module: Optax's own Adam does not trace under strict dtype promotion.

    Under strict promotion of ranks it does, as all of this library.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        yield
