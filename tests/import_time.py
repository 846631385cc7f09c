"""How much longer `import adashift_optax` takes than `import optax`, and what else it loads.

python -I import_time.py [PAIRS]. Fresh interpreters in turn, so that a load meets both alike. The
verdict is on CPU time, which is the wall time of an idle machine: on a busy one the wall time is
mostly that of the others.
"""

import json
import statistics
import subprocess
import sys

LIMIT = 50  # milliseconds
CODE = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {name}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
modules = [m for m in sys.modules if not m.startswith("adashift_optax")]
print(json.dumps({{"CPU": 1e3 * cpu, "wall": 1e3 * wall, "modules": modules}}))
"""


def measure(name):
    command = [sys.executable, "-I", "-c", CODE.format(name=name)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(pairs=15):
    names = ("optax", "adashift_optax")
    runs = {name: [measure(name)] for name in names}  # the first one reads the files: not counted
    for i in range(pairs):
        for name in names[:: 1 if i % 2 else -1]:
            runs[name].append(measure(name))
    more = {}
    for clock in ("CPU", "wall"):
        optax, ours = (statistics.median(r[clock] for r in runs[name][1:]) for name in names)
        more[clock] = ours - optax
        print(f"import, {clock} time: optax {optax:.0f} ms, adashift_optax {more[clock]:+.1f} ms")
    others = set(runs["adashift_optax"][0]["modules"]) - set(runs["optax"][0]["modules"])
    print(f"modules that optax does not load: {', '.join(sorted(others)) or 'none'}")
    print(f"medians of {pairs} pairs; the limit is {LIMIT} ms of CPU time")
    return 0 if more["CPU"] < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
