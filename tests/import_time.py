"""How much longer `import adashift_optax` takes than `import optax`, and what else it loads.

python -I import_time.py [PAIRS]. Fresh interpreters in turn, so that a load meets both alike. The
time is CPU time, which is the wall time of an idle machine.
"""

import json
import statistics
import subprocess
import sys

LIMIT = 50  # milliseconds
CODE = """
import json, sys, time
start = time.process_time()
import {name}
milliseconds = 1e3 * (time.process_time() - start)
print(json.dumps([milliseconds, [m for m in sys.modules if not m.startswith("adashift_optax")]]))
"""


def measure(name):
    command = [sys.executable, "-I", "-c", CODE.format(name=name)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def more_modules():
    """What `import adashift_optax` loads, but `import optax` does not."""
    return sorted(set(measure("adashift_optax")[1]) - set(measure("optax")[1]))


def main(pairs=15):
    print(f"modules that optax does not load: {', '.join(more_modules()) or 'none'}")
    names = ("optax", "adashift_optax")
    runs = [[measure(name)[0] for name in names] for _ in range(pairs)]
    optax, ours = (statistics.median(times) for times in zip(*runs, strict=True))
    print(f"import, CPU time: optax {optax:.0f} ms, adashift_optax {ours - optax:+.1f} ms")
    print(f"medians of {pairs} pairs; the limit is {LIMIT} ms")
    return 0 if ours - optax < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
