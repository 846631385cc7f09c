"""The pages of the benchmarks show what the kept CSV files say, under names that users know."""

import re

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from benchmarks import overview, plots, report
from benchmarks.cases import SWEEP
from benchmarks.compiled import page, words
from benchmarks.labels import label
from benchmarks.variants import LINES, SIZE_LINES, VARIANTS

AGAIN = "run python -m benchmarks.redraw"
CSV = overview.RESULTS / overview.CPU / "results.csv"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("max, n=40", "AdaShift (max, n=40)"),
        ("max, sliding", "AdaShift (max, n=10)"),
        ("max, hopping", "AdaShift (max, hopping, n=10)"),
        ("factored, ema, n=1", "AdaShift (factored, ema)"),
        ("none, ema, n=3", "AdaShift (none, ema, n=3)"),
        ("none, b1=0, n=1", "AdaShift (none, b1=0, n=1)"),
        ("max, bfloat16 queue, n=10", "AdaShift (max, n=10, bfloat16 queue)"),
        ("max, sliding, bfloat16 queue", "AdaShift (max, n=10, bfloat16 queue)"),
        ("factored RMS + ema", "factored RMS + ema"),
        ("Adam, against itself", "Adam, against itself"),
    ],
)
def test_label(name, shown):
    assert label(name) == shown


def test_the_table_of_the_readme_is_what_the_files_say():
    text = overview.PAGE.read_text(encoding="utf-8")
    held = text.split(overview.START)[1].split(overview.END)[0]
    assert held.strip() == overview.table().strip(), AGAIN
    adam = next(line for line in held.splitlines() if line.startswith("| Adam |"))
    # Three kernels on a CPU; one on a chip: gradient, and parameter, m and v read and written.
    assert re.split(r"\s*\|\s*", adam)[2:8] == ["8", "1.00", "1.00", "40", "28", "28"]


def test_the_compiled_tables_are_what_the_files_say():
    folder = overview.RESULTS / "compiled"
    text = (folder / "tables.md").read_text(encoding="utf-8")
    assert text == page.text(folder), AGAIN
    for short in words.SHORT:
        table = text.split(f"## {short.title}\n")[1].split("\n## ")[0]
        assert len(re.findall("^[|] ", table, re.M)) == 1 + 8
    assert "| |" not in text  # no column without a name, no cell without a number


@pytest.mark.parametrize(("csv", "table"), [("results", "table"), ("sharded", "sharded")])
def test_the_measured_tables_are_what_the_files_say(csv, table):
    text = (CSV.parent / f"{table}.md").read_text(encoding="utf-8")
    rows = report.load_csv(CSV.with_name(f"{csv}.csv"))
    for group in {row.group for row in rows} - {SWEEP}:
        lines = report.table([row for row in rows if row.group == group])
        assert "\n".join([f"## {group}", "", *lines]) in text, AGAIN
    assert not re.search(r"\b(verdict|reach|stretch|NOT MET)\b", text)  # our own goals


def test_every_line_of_a_plot_has_a_name_and_a_look_of_its_own():
    assert VARIANTS.keys() >= plots.STYLES.keys() >= {*LINES, *SIZE_LINES}
    assert len({style.color for style in plots.STYLES.values()} | {plots.ADAM}) == 7
    rows = report.load_csv(CSV)
    looks = {}
    for draw in (plots.ratio_against_n, plots.ratio_against_parameters):
        axes = Figure().subplots()
        draw(rows, axes)
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert sorted(names) == sorted(line.get_label() for line in axes.lines)
        for line in axes.lines:
            phi = line.get_label().replace(", n=10", "")
            looks.setdefault(phi, set()).add((to_hex(line.get_color()), line.get_linestyle()))
    assert all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == len(looks)
