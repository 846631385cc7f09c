"""``python -m benchmarks.speed.run``: times steps of the optimizers beside Adam's.

Writes ``benchmarks/results/<machine>/results.csv`` after each group, then the tables.
"""

import argparse
import math
import os
import platform
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import pandas as pd

from benchmarks import tables
from benchmarks.optimizers import ADAM
from benchmarks.speed.groups import Group, compilation, groups
from benchmarks.speed.timing import Settings, interleave, ratios

PACKAGES = ("jax", "jaxlib", "optax")


def main() -> int:
    """Measure all groups."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.run", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a glance: few rounds, written to runs/")
    add("--only", default="", metavar="TEXT", help="only programs with this in their name")
    args = parser.parse_args()
    root = Path("runs/benchmarks") if args.quick else tables.RESULTS
    path = root / slug(jax.default_backend(), machine()) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    every, start = {group.name: group for group in groups()}, time.perf_counter()
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame({"program": []})
    for name, group in every.items():
        if args.only in name:
            rows = measure(group, 3 if args.quick else group.rounds)
            found = dict(list(kept.groupby("program"))) | {name: rows}
            kept = pd.concat([found[program] for program in every if program in found])
            kept.to_csv(path, index=False, float_format="%.4g")
            print(f"{time.perf_counter() - start:.0f} s", rows.to_string(index=False), flush=True)
    if not args.quick:
        tables.save()
    return 0


def measure(group: Group, rounds: int) -> pd.DataFrame:
    """A row for each optimizer of a group."""
    runs = {name: group.build(make(), group.params) for name, make in group.rows.items()}
    single = group.build is compilation or jax.default_backend() == "cpu"
    settings = Settings(rounds, (1,) if single else (20, 120), group.warm_up)
    rows = ratios(interleave(runs, settings), ADAM).loc[list(runs)]
    size = sum(x.size for x in jax.tree.leaves(group.params))
    rows.insert(0, "program", group.name)
    rows.insert(1, "optimizer", rows.index)
    rows["state"] = [group.state(name) for name in runs]
    rows["temporaries"] = [getattr(run, "temporaries", math.nan) / size for run in runs.values()]
    return rows.assign(parameters=size, rounds=rounds, machine=machine(), of=versions())


def machine() -> str:
    """The model of what computes: the GPU's, or the processor's and how many cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found[1] if found else model
    return f"{model}, {os.cpu_count()} cores"


def slug(backend: str, machine: str) -> str:
    """The machine as the name of a folder."""
    name = f"{backend} {machine}".lower().replace("(r)", "").replace("(tm)", "")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def versions() -> str:
    """What the numbers depend on."""
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return f"Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    sys.exit(main())
