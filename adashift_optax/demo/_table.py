"""The table of a comparison, as it is printed."""

import pandas as pd
from rich.box import Box
from rich.console import Console
from rich.table import Column, Table

from adashift_optax.demo._results import over_seeds, select
from adashift_optax.demo._training import LEARNING_RATES, OPTIMIZERS

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)  # below the header only
WIDTH = 80  # columns that rows of one line fit into; a narrower terminal wraps them


def show(rows: pd.DataFrame, dataset: str) -> None:
    """Print the comparison at the last epoch."""
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    plus_minus = "+-" if console.options.ascii_only else "±"
    seeds, epochs = len(set(rows["seed"])), len(set(rows["epoch"]))
    spread = f"; mean {plus_minus} standard deviation over the seeds" * (seeds > 1)
    selected = select(rows)
    seconds = (1 / rows["steps_per_second"]).groupby(rows["optimizer"]).median()
    first = "adam" if "adam" in selected else next(iter(selected))
    headers = ("\nrate", "test\naccuracy", "test\nloss", "step\ntime", "state\nbytes")
    table = Table(
        "\noptimizer",
        *(Column(header, justify="right") for header in headers),
        box=RULE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        title=f"{dataset}, epochs: {epochs}, seeds: {seeds}{spread}. Each optimizer at the best "
        f"of {len(LEARNING_RATES)} learning rates (least validation loss).",
        title_justify="left",
        caption=f"step time: of a training step, over that of {OPTIMIZERS[first].label}",
        caption_justify="left",
    )

    def cell(best: pd.DataFrame, field: str, form: str) -> str:
        mean, deviation = (values.iloc[-1] for values in over_seeds(best, field))
        return f"{mean:{form}}" + f" {plus_minus} {deviation:{form}}" * (seeds > 1)

    for name, best in selected.items():
        table.add_row(
            OPTIMIZERS[name].label,
            f"{best['learning_rate'].iloc[0]:g}",
            cell(best, "test_accuracy", ".2%"),
            cell(best, "test_loss", ".3f"),
            f"{seconds[name] / seconds[first]:.2f}",
            f"{best['state_bytes'].iloc[0]:,}",
        )
    console.print(table)
