"""Eight CPU devices, strict dtype promotion; warnings are errors (pyproject.toml)."""

import os

from compiler import FLAGS

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Runs a test in 64-bit JAX."""
    with jax.enable_x64(True):
        yield
