"""What ``python -m adashift_optax`` says: progress, errors, and the end on Ctrl-C."""

import io
import itertools
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo_runs import read_csv
from image_files import write_mnist

import adashift_optax
from adashift_optax.__main__ import main
from adashift_optax.demo import _data, _report, _training

RATES = len(_training.LEARNING_RATES)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def one_line_on_stderr(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    return err


def test_ctrl_c_keeps_the_finished_runs(tmp_path, monkeypatch, capsys):
    replace, replaced = os.replace, []

    def interrupted(*args):
        replaced.append(args)
        if len(replaced) == 2:
            signal.raise_signal(signal.SIGINT)
        replace(*args)

    monkeypatch.setattr(os, "replace", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    (tmp_path / "digits.png").write_bytes(b"curves of an earlier comparison")
    args = ["--optimizers", "adashift-max", "adam", "--epochs", "2", "--seeds", "1"]
    assert main([*args, "--output", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    *progress, line = err.splitlines()
    assert out == ""
    assert line == f"interrupted: 2 of {2 * RATES} runs done, see {tmp_path / 'digits.csv'}"
    assert all(text.startswith("compiling ") or text.endswith(" runs done") for text in progress)
    assert [(r["optimizer"], r["learning_rate"], r["epoch"]) for r in read_csv(replaced[0][1])] == [
        (name, str(_training.LEARNING_RATES[0]), epoch) for name in args[1:3] for epoch in "12"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["digits.csv"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_the_first_run_ends_writes_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_data, "load", interrupted)
    (tmp_path / "digits.csv").write_text("an earlier comparison")
    assert main(["--output", str(tmp_path)]) == 130
    assert "nothing written" in one_line_on_stderr(capsys)
    assert (tmp_path / "digits.csv").read_text() == "an earlier comparison"


def test_ctrl_c_while_jax_compiles(tmp_path, monkeypatch, capsys):
    def compiling(report, what):
        compile_(report, what)
        signal.raise_signal(signal.SIGINT)

    compile_ = _report.Report.compiling
    monkeypatch.setattr(_report.Report, "compiling", compiling)
    assert main(["--output", str(tmp_path)]) == 130
    progress, line = capsys.readouterr().err.splitlines()
    assert progress == "compiling the network ..."
    assert line == f"interrupted: 0 of {25 * RATES} runs done, nothing written"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_python_imports(tmp_path):
    # A shell starts jobs in the background with SIGINT ignored, and their children inherit that.
    handler = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal; {handler}; signal.raise_signal(signal.SIGINT)"
    (tmp_path / "flax.py").write_text(code)
    root = Path(adashift_optax.__file__).parent.parent
    command = [sys.executable, "-m", "adashift_optax", "--output", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    demo = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (demo.returncode, demo.stdout, demo.stderr) == (130, "", "interrupted\n")


def test_a_terminal_has_a_bar_that_says_what_is_done(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stderr", terminal)
    with _report.Report(150) as report:
        report.compiling("AdaShift (factored, ema)")
        report.bar.refresh()
        report.training("Adam")
        report.finished()
    shown = terminal.getvalue()
    assert "compiling AdaShift (factored, ema) " in shown
    assert "  0/150" in shown  # whole, beside the longest name
    assert "Adam" in shown.split("\r")[-1]
    assert "1/150" in shown.split("\r")[-1]


def test_lines_of_progress_come_at_intervals(monkeypatch, capsys):
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))  # a second passes between two looks
    with _report.Report(20) as report:
        for _ in range(20):
            report.training("Adam")
            report.finished()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "20 of 20 runs done"
    assert 3 <= len(lines) <= 5


def test_unusable_data_or_output_is_one_line_and_exit_code_2(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    write_mnist(tmp_path)
    broken = tmp_path / "t10k-images-idx3-ubyte"
    broken.write_bytes(broken.read_bytes()[:-1])
    for args, message in [
        (["--dataset", "cifar10", "--data-dir", str(tmp_path / "nowhere")], "nowhere"),
        (["--dataset", "cifar10", "--data-dir", str(tmp_path)], "data_batch_1.bin"),
        (["--dataset", "mnist", "--data-dir", str(tmp_path)], f"{broken}: not a whole IDX file"),
        (
            ["--output", str(file)],
            f"--output must be a folder that can be written to, or made, got {file} (",
        ),
    ]:
        assert main(args) == 2
        assert message in one_line_on_stderr(capsys)


WHOLE = "must be a whole number of at least 1, got"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optimizers", "sgdd"], "invalid choice: 'sgdd'"),
        (["--epochs", "0"], f"{WHOLE} '0'"),
        (["--epochs", "-3"], f"{WHOLE} '-3'"),
        (["--seeds", "x"], f"{WHOLE} 'x'"),
        (["--seeds", "2.5"], f"{WHOLE} '2.5'"),
        (["--dataset", "svhn"], "invalid choice: 'svhn'"),
        (
            ["--data-dir", "x"],
            "must not be given with --dataset digits, which reads no files, got x",
        ),
    ],
)
def test_bad_arguments_name_the_flag_and_the_value(args, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert f"argument {args[0]}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["flax", "sklearn", "rich", "matplotlib", "idx2numpy", "pooch"])
def test_missing_packages_are_one_line_and_exit_code_2(package, tmp_path, monkeypatch, capsys):
    for name in list(sys.modules):
        if name.startswith("adashift_optax.demo."):  # so that they are imported again
            monkeypatch.delattr(name)
            monkeypatch.delitem(sys.modules, name)
        if name.split(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    assert main(["--epochs", "1", "--seeds", "1", "--output", str(tmp_path)]) == 2
    line = one_line_on_stderr(capsys)
    assert 'pip install "adashift-optax[demo]"' in line
    assert package in line


def test_names_of_files_that_the_terminal_cannot_show(tmp_path, monkeypatch):
    monkeypatch.setattr(_training, "LEARNING_RATES", (0.01,))
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    args = ["--optimizers", "adam", "--epochs", "1", "--seeds", "2"]
    assert main([*args, "--output", str(tmp_path / "é")]) == 0
    stream.flush()
    assert rb"\xe9" in stream.buffer.getvalue()


def test_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "adashift_optax.__main__")
    monkeypatch.setattr(sys, "argv", ["adashift_optax", "--data-dir", "x", "--dataset", "mnist"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("adashift_optax", run_name="__main__")
    assert caught.value.code == 2
    assert "--data-dir x: no such folder" in one_line_on_stderr(capsys)
