"""The table of a comparison, as it is printed."""

import numpy as np
from rich.box import Box
from rich.console import Console
from rich.table import Column, Table

from adashift_optax.demo._results import count, over_seeds, select
from adashift_optax.demo._training import LEARNING_RATES, OPTIMIZERS, Row

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)  # below the header only
MINIMUM = 60  # columns that a table of wrapped cells fits into


def show(rows: list[Row], dataset: str) -> None:
    """Print the table, with cells of two lines where the terminal is too narrow for one."""
    console = Console(highlight=False)
    console.width = max(console.width, MINIMUM)
    plus_minus = "+-" if console.options.ascii_only else "±"
    table = make_table(rows, dataset, plus_minus, " ")
    unbounded = console.options.update(max_width=10 * console.width)
    if console.measure(table, options=unbounded).maximum > console.width:
        table = make_table(rows, dataset, plus_minus, "\n")
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def make_table(rows: list[Row], dataset: str, plus_minus: str, gap: str) -> Table:
    """Return the comparison at the last epoch; `gap` stands where a cell may be broken."""
    selected = select(rows)
    first = "adam" if "adam" in selected else next(iter(selected))
    seconds = {name: _median_seconds(rows, name) for name in selected}
    headers = ("\nrate", "test\naccuracy", "test\nloss", "step\ntime", "state\nbytes")
    table = Table(
        "\noptimizer",
        *(Column(header, justify="right") for header in headers),
        box=RULE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        header_style="",
        title=_title(rows, dataset, plus_minus),
        title_justify="left",
        title_style="",
        caption=f"step time: of a training step, over that of {OPTIMIZERS[first].label}",
        caption_justify="left",
        caption_style="",
    )
    for name, best in selected.items():
        table.add_row(
            OPTIMIZERS[name].label.replace(" (", f"{gap}("),
            f"{best[0].learning_rate:g}",
            _with_spread(best, "test_accuracy", ".2%", f"{gap}{plus_minus} "),
            _with_spread(best, "test_loss", ".3f", f"{gap}{plus_minus} "),
            f"{seconds[name] / seconds[first]:.2f}",
            f"{best[0].state_bytes:,}",
        )
    return table


def _title(rows: list[Row], dataset: str, plus_minus: str) -> str:
    epochs, seeds = max(row.epoch for row in rows), len({row.seed for row in rows})
    spread = "" if seeds == 1 else f"; mean {plus_minus} standard deviation over the seeds"
    return (
        f"{dataset}: {count(seeds, 'seed')}, {count(epochs, 'epoch')}{spread}. Each optimizer at "
        f"that of {count(len(LEARNING_RATES), 'learning rate')} whose validation loss is least."
    )


def _median_seconds(rows: list[Row], name: str) -> float:
    return float(np.median([1 / row.steps_per_second for row in rows if row.optimizer == name]))


def _with_spread(rows: list[Row], field: str, form: str, plus_minus: str) -> str:
    mean, spread = (values[-1] for values in over_seeds(rows, field))
    several = len({row.seed for row in rows}) > 1
    return f"{mean:{form}}{plus_minus}{spread:{form}}" if several else f"{mean:{form}}"
