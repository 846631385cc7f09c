"""Eight CPU devices, strict dtype promotion; warnings are errors (pyproject.toml).

With `--quick` (`make check`) a test runs only for so many combinations of its parameters that each
value of each parameter is tested at least once. Tests marked as slow do not run: those that start
processes, execute pages and notebooks, or train models.
"""

import collections
import itertools
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


@pytest.fixture(scope="module")
def standard_promotion():
    """For all of a module: Optax's own Adam does not trace under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="each value of each parameter once")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: not with --quick")


def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        tests = itertools.groupby(items[:], key=lambda item: item.nodeid.split("[")[0])
        dropped = [case for _, cases in tests for case in too_many(list(cases))]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def values(item):
    """The value of each parameter of a test, by its identity: some have no hash."""
    params = item.callspec.params if hasattr(item, "callspec") else {"": None}
    return {(name, id(value)) for name, value in params.items()}


def too_many(cases):
    """The cases of one test that add no value of a parameter to those of others."""
    left = [case for case in cases if not case.get_closest_marker("slow")]
    new, used = set().union(*map(values, left)), collections.Counter()
    while new:  # the case of the most new values, and of those the one of the least used others
        best = max(left, key=lambda c: (len(new & values(c)), -sum(used[v] for v in values(c))))
        left.remove(best)
        cases.remove(best)
        new -= values(best)
        used.update(values(best))
    return cases
