"""``python -m benchmarks.tables``: all tables and pictures again, from the kept CSV files.

It measures nothing and compiles nothing.
"""

from pathlib import Path

import pandas as pd

from benchmarks.evidence import picture, report

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
# Programs whose name begins so have a column in the README of `speed`.
SHOWN = ("training step", "update of 8", "update of 300 small leaves")
START, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"
COMPILED = """# What a step moves on an H100 and on a TPU: all tables

Nothing on this page has run on such a chip. The numbers are read off programs that JAX's compilers
made for them. [What the columns mean, and how to repeat it](../../compiled/README.md).
"""
MEASURED = """# What a step takes, over Adam's time: {machine}

A ratio is the median over the rounds; half of the rounds lie between the quartiles. [What the rows
mean, and how to repeat it](../../speed/README.md). {of}.
"""


def save() -> None:
    """Write the tables beside the CSV files, those of the two READMEs, and the pictures."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    for name, figure in report.pictures().items():
        picture.save(figure, DOCS / name)


def pages() -> dict[Path, str]:
    """Each file with tables, and its text."""
    found = {path.with_name("table.md"): measured(pd.read_csv(path)) for path in machines()}
    found[RESULTS / "compiled" / "tables.md"] = all_compiled()
    found[RESULTS / "evidence" / "tables.md"] = report.page(*report.read())
    for folder, table in (("speed", fastest()), ("compiled", smallest())):
        path = HERE / folder / "README.md"
        before, rest = path.read_text(encoding="utf-8").split(START)
        found[path] = f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"
    return found


def machines() -> list[Path]:
    """The CSV files with times, those of processors first."""
    return sorted(RESULTS.glob("*pu-*/results.csv"))


def compiled() -> pd.DataFrame:
    """The rows of all compiled programs."""
    files = sorted((RESULTS / "compiled").glob("*.csv"))
    return pd.concat([pd.read_csv(path, keep_default_na=False) for path in files])


def fastest() -> str:
    """The table of the README of `speed`: the time over Adam's in the programs that matter most."""
    columns = {}
    for path in machines():
        frame, device = pd.read_csv(path), path.parent.name.split("-")[0].upper()
        columns.setdefault("state, bytes / parameter", _by_name(frame, "update of 8", "state"))
        for program in SHOWN:
            times = _by_name(frame, program, "ratio", "{:.2f}")
            if times.size:
                columns[f"{device}: {program.removesuffix(' of 8')}"] = times
    return _side_by_side(columns)


def smallest() -> str:
    """The tables of the README of `compiled`: a whole step, and the update alone."""
    frame = compiled()
    frame = frame[frame["note"] == ""]
    h100, v5e = (frame[frame["chips"] == chip] for chip in ("H100", "TPU v5e"))
    whole = "step of a transformer"
    mesh = frame[frame["chips"].str.startswith("16") & frame["chips"].str.contains("FSDP")]
    training = {
        "v5e: bytes / parameter": _by_name(v5e, whole, "moved", "{:.1f}"),
        "v5e: of 15 matrices joined": _by_name(v5e, whole, "joined"),
        "H100: bytes / parameter": _by_name(h100, whole, "moved", "{:.1f}"),
    }
    update = {
        "state, bytes / parameter": _by_name(h100, "update of 8", "state"),
        "H100: bytes / parameter": _by_name(h100, "update of 8", "moved", "{:.1f}"),
        "H100: kernels for 300 leaves": _by_name(h100, "update of 300", "kernels"),
        "v5e: bytes / parameter": _by_name(v5e, "update of 8", "moved", "{:.1f}"),
        "16 v5e: waits": _by_name(mesh, "update", "waits", "{}"),
    }
    whole_step = f"A whole training step:\n\n{_side_by_side(training)}"
    return f"{whole_step}\nThe update alone:\n\n{_side_by_side(update)}"


def measured(frame: pd.DataFrame) -> str:
    """The page of one machine."""
    parts = [MEASURED.format(machine=frame["machine"].iloc[0], of=frame["of"].iloc[0])]
    for name, rows in frame.groupby("program", sort=False):
        table = pd.DataFrame(
            {
                "optimizer": rows["optimizer"],
                "time / Adam's": rows["ratio"].map("{:.2f}".format),
                "quartiles": rows.apply(lambda row: f"{row.low:.2f} to {row.high:.2f}", axis=1),
                "state, bytes / parameter": rows["state"].map("{:.2f}".format),
                "temporaries, bytes / parameter": rows["temporaries"].map("{:.2f}".format),
            }
        )
        table = table.loc[:, [c for c in table if not table[c].eq("nan").all()]]
        parts += [f"## {name[0].upper()}{name[1:]}\n", _markdown(table)]
    return "\n".join(parts)


def all_compiled() -> str:
    """The page of all compiled programs."""
    frame, parts = compiled(), [COMPILED]
    for (chips, program), rows in frame.groupby(["chips", "program"], sort=False):
        alone, mesh = program.startswith("update"), chips.startswith("16")
        note = rows["note"].map(lambda text: f", {text}" if text else "")
        columns = {
            "optimizer": rows["optimizer"] + note,
            "moved, bytes / parameter": rows["moved"].map("{:.1f}".format),
            "copies": rows["copies"].astype(str),
        }
        if chips == "H100":
            columns["kernels"] = rows["kernels"].astype(str)
        if alone:
            temporaries = rows["temporaries"].map("{:.2f}".format)
            columns["temporaries, bytes / parameter"] = temporaries
        else:
            of_matrices = rows["joined"].astype(str) + " of " + rows["matrices"].astype(str)
            columns["joined"] = of_matrices
            columns["peak, MB / chip"] = (rows["peak"] / 1e6).map("{:.0f}".format)
        if mesh:
            reduced = rows["reduced"].map(" ({})".format)
            columns["all-reduces (numbers)"] = rows["all_reduces"].astype(str) + reduced
        if mesh and alone:
            columns["waits"] = rows["waits"]
        parts += [f"## {chips}: {program}\n", _markdown(pd.DataFrame(columns))]
    versions = frame["versions"].unique()
    return "\n".join([*parts, f"Compiled with {'; and with '.join(versions)}.\n"])


def _by_name(frame: pd.DataFrame, program: str, column: str, style: str = "{:.0f}") -> pd.Series:
    """A column of the programs whose name begins so and goes on without a comma, by optimizer."""
    chosen = frame[frame["program"].str.fullmatch(f"{program}[^,]*")]
    return chosen.set_index("optimizer")[column].map(style.format).astype(object)


def _side_by_side(columns: dict[str, pd.Series]) -> str:
    order = dict.fromkeys(name for column in columns.values() for name in column.index)
    table = pd.DataFrame(columns).reindex(list(order)).fillna("-")
    return _markdown(table.rename_axis("optimizer").reset_index())


def _markdown(table: pd.DataFrame) -> str:
    """A table whose first column is text."""
    return report.table(list(table), table.to_numpy().tolist())


if __name__ == "__main__":
    save()
