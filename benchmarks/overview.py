"""The first table of the page: what most readers look for, from the kept CSV files."""

from pathlib import Path

from benchmarks import report
from benchmarks.cases import OTHERS, SWEEP
from benchmarks.compiled import rows as compiled
from benchmarks.labels import label

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "README.md", HERE / "results"
# Whose times the page shows.
CPU = "cpu-intel-xeon-processor-2-50ghz-2-cores"
GPU = "gpu-nvidia-h200"
START, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"
MODELS = {
    "update-cpu": "8 matrices 1024 x 1024 and 8 vectors",
    "update-h100": "8 matrices 2048 x 2048 and 8 vectors",
    "update-v5e": "8 matrices 1024 x 1024 and 8 vectors",
    "step-v5e": "2 residual layers",
}
OPTIMIZERS = (
    "Adam",
    "Lion",
    "factored RMS + ema",
    "factored, ema",
    "max, ema",
    "outputs, ema",
    "none, ema",
    "max, hopping",
    "none, hopping",
    "max, sliding",
    "max, sliding, bfloat16 queue",
    "none, sliding",
    "max, b1=0",
)
COLUMNS = (
    "optimizer",
    "state, bytes / parameter",
    "CPU, time / Adam's",
    "H200, time / Adam's",
    "CPU, bytes",
    "H100, bytes",
    "v5e, bytes",
    "v5e, bytes of a whole step",
)
NOT_THERE = "-"


def table() -> str:
    """The table in Markdown."""
    files = {name: _rows(name, model) for name, model in MODELS.items()}
    times = [_times(folder) for folder in (CPU, GPU)]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    for name in OPTIMIZERS:
        rows = [of.get(name) for of in files.values()]
        state = next((f"{row.state / row.parameters:.0f}" for row in rows if row), NOT_THERE)
        measured = [of.get(label(name), NOT_THERE) for of in times]
        moved = [f"{row.moved:.0f}" if row else NOT_THERE for row in rows]
        lines.append(f"| {' | '.join([label(name), state, *measured, *moved])} |")
    return "\n".join([*lines, ""])


def _rows(name: str, model: str) -> dict[str, compiled.Row]:
    rows = compiled.load(RESULTS / "compiled" / f"{name}.csv")
    return {row.optimizer: row for row in rows if row.model == model and not row.in_front}


def _times(folder: str) -> dict[str, str]:
    """Time of a step over Adam's, for each name that readers see."""
    rows = report.load_csv(RESULTS / folder / "results.csv")
    return {"Adam": "1.00"} | {
        label(row.name): f"{row.ratio:.2f}" for row in rows if _is_alone(row)
    }


def _is_alone(row: report.Row) -> bool:
    """Whether it is the donated step of an optimizer, in the size that the tables have."""
    return row.group == OTHERS or bool(row.variant and row.group != SWEEP)


def save() -> None:
    """Write the table into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    report.write_whole(PAGE, f"{before}{START}\n{table()}\n{END}{after}".encode())
