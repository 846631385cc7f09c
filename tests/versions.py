"""The library with older and newer versions of what it needs, each in an environment of its own.

python tests/versions.py [oldest|0.6|0.7|0.8|0.9|0.10|0.11|newest ...]
"""

import shutil
import sys
import tempfile
from pathlib import Path

from environments import ROOT, find_python, make_environment, run, show_all_pythons, uv

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The oldest and the newest of everything that pyproject.toml allows, and between them the newest
# patch of each minor version of JAX with the newest Optax, Flax and Orbax that go with it.
VERSIONS = {
    "oldest": ("--resolution", "lowest-direct"),
    **{f"0.{minor}": (f"jax==0.{minor}.*", f"jaxlib==0.{minor}.*") for minor in range(6, 12)},
    "newest": (),
}
VERSIONS["0.6"] += ("orbax-checkpoint==0.11.28",)  # there 0.11.30 and newer fail on a mesh
SHOWN = ("jax", "jaxlib", "optax", "flax", "orbax-checkpoint", "numpy")
# Wheels only, so that a version without one for this Python is not its oldest.
WHEELS = ("--only-binary", ":all:")
TOOLS = ("chex>=0.1.90", "pytest>=9.0", "pytest-xdist>=3.8")
# What a version of JAX, Optax, Flax or Orbax can break: updates against the reference, wrappers,
# sharding, boxes and checkpoints. What compiled programs are like is tested on one version only.
CORE = (
    "test_exact.py test_contract.py test_sharding.py test_shard_map.py test_flax.py test_masks.py",
    "test_checkpoint.py test_injection.py test_recipes.py test_distributed.py",
)


def check_alone(package, tmp, python, pins=()):
    """`package` in an environment of its own, without extras, away from the repository."""
    folder = tmp / "alone"
    shutil.rmtree(folder, ignore_errors=True)
    installed = make_environment(folder, python, package, *pins)
    run(installed, "-I", ROOT / "tests" / "smoke.py", cwd=tmp)
    return installed


def check_versions(which, package, source, tmp, python=None):
    """`package` with some versions of what it needs: alone, and with the tests CORE of `source`."""
    wanted = VERSIONS[which]
    order = PYTHONS[::-1] if which in ("0.11", "newest") else PYTHONS  # their JAX needs Python 3.12
    python = find_python([python] if python else order)
    options = [option for option in wanted if "==" not in option]
    tools = tmp / f"{which}.in"
    tools.write_text("\n".join((*TOOLS, *(x for x in wanted if x not in options))))
    pins = tmp / f"{which}.txt"
    extras = ("--python", python, "--extra", "distributed", ROOT / "pyproject.toml", tools)
    uv("pip", "compile", *extras, *WHEELS, *options, "--output-file", pins)
    chosen = [x for x in pins.read_text("utf-8").splitlines() if x.split("==")[0] in SHOWN]
    pinned = [line for line in chosen if line.startswith(("jax", "optax", "numpy"))]
    check_alone(package, tmp, python, pinned)
    installed = make_environment(tmp / which, python, "--requirement", pins)
    uv("pip", "install", "--python", installed, "--no-deps", package)
    summary = f"{which}: {run(installed, '--version', quiet=True).strip()}, {', '.join(chosen)}"
    print(summary)
    # What other versions deprecate is no error here.
    tests = [f"tests/{name}" for name in " ".join(CORE).split()]
    pytest = ("-I", "-m", "pytest", "-W", "default", "-n", "logical", "--dist", "worksteal")
    run(installed, *pytest, *tests, cwd=source)
    return summary


if __name__ == "__main__":
    show_all_pythons()
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or VERSIONS:
            check_versions(name, ROOT, ROOT, Path(folder))
