"""``python -m adashift_optax``: files, errors and the end on Ctrl-C, with a training that is fast.

The rows of the runs are made up, so that nothing is compiled.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from demo_runs import comparison, run
from image_files import write_mnist

import adashift_optax
from adashift_optax.demo import _command, _data, _training


def runs(data, names, epochs, seeds, report):
    """In the place of `compare`: the runs of each rate, finished."""
    rows = comparison(names, range(seeds), range(1, epochs + 1))
    report.compiling("the network")
    for _, one in rows.groupby(["learning_rate", "seed", "optimizer"], sort=False):
        report.training(one["optimizer"].iloc[0])
        report.check()
        yield one


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(_training, "compare", runs)


def test_ctrl_c_keeps_the_finished_runs(tmp_path, monkeypatch):
    replace, read = os.replace, []

    def interrupted(*args):
        replace(*args)
        read.append(pd.read_csv(args[1]))
        if len(read) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    (tmp_path / "digits.png").write_bytes(b"curves of an earlier comparison")
    numbers = ("--epochs", 2, "--seeds", 1, "--output", tmp_path)
    done = run("--optimizers", "adashift", "adam", *numbers)
    assert (done.code, done.out) == (130, "")
    line = done.err.splitlines()[-1]
    assert line == f"interrupted: 2 of 12 runs done, see {tmp_path / 'digits.csv'}"
    assert [*read[1]["optimizer"]] == ["adashift", "adashift", "adam", "adam"]
    assert [path.name for path in tmp_path.iterdir()] == ["digits.csv"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_a_run_is_finished_writes_nothing(tmp_path, monkeypatch):
    (tmp_path / "digits.csv").write_text("an earlier comparison")

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return runs(*args)

    for module, name in ((_training, "compare"), (_data, "load")):
        monkeypatch.setattr(module, name, interrupted)
        done = run("--output", tmp_path)
        assert (done.code, done.out) == (130, "")
        assert done.err == "interrupted: 0 of 150 runs done, nothing written\n"
        assert (tmp_path / "digits.csv").read_text() == "an earlier comparison"


@pytest.mark.slow
def test_ctrl_c_while_python_imports(tmp_path):
    # A shell starts jobs in the background with SIGINT ignored, and their children inherit that.
    handler = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal; {handler}; signal.raise_signal(signal.SIGINT)"
    (tmp_path / "flax.py").write_text(code)
    root = Path(adashift_optax.__file__).parent.parent
    command = [sys.executable, "-m", "adashift_optax"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    demo = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (demo.returncode, demo.stdout, demo.stderr) == (130, "", "interrupted\n")


def test_unusable_data_or_output_is_one_line_and_exit_code_2(tmp_path, monkeypatch):
    (file := tmp_path / "file").touch()
    write_mnist(tmp_path)
    broken = tmp_path / "t10k-images-idx3-ubyte"
    broken.write_bytes(broken.read_bytes()[:-1])
    folder, rule = "must be a folder that can be written to, or made, got", "--output"
    for args, message in (
        (("--dataset", "cifar10", "--data-dir", tmp_path / "nowhere"), "nowhere"),
        (("--dataset", "mnist", "--data-dir", tmp_path), f"{broken}: "),
        (("--output", file), f"{rule} {folder} {file} ("),
    ):
        done = run(*args)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert message in done.err

    def full(*args):
        raise OSError("no space left")

    (tmp_path / "digits.csv").write_text("before")
    monkeypatch.setattr(os, "replace", full)
    done = run("--output", tmp_path)
    assert done.code == 2
    assert done.err.splitlines()[-1] == f"{rule} {folder} {tmp_path} (no space left): name another"
    assert [path.read_text() for path in tmp_path.glob("digits*")] == ["before"]


def test_bad_arguments_name_the_flag_and_the_value(capsys):
    whole = "must be a whole number of at least 1, got"
    no_files = "must not be given with --dataset digits, which reads no files, got x"
    for flag, value, message in (
        ("--optimizers", "sgdd", "invalid choice: 'sgdd'"),
        ("--epochs", "0", f"{whole} '0'"),
        ("--seeds", "2.5", f"{whole} '2.5'"),
        ("--dataset", "svhn", "invalid choice: 'svhn'"),
        ("--data-dir", "x", no_files),
    ):
        with pytest.raises(SystemExit) as caught:
            _command.main([flag, value])
        assert caught.value.code == 2
        assert f"argument {flag}: {message}" in capsys.readouterr().err


def test_missing_packages_are_one_line_and_exit_code_2(tmp_path, monkeypatch):
    for package in ("flax", "sklearn", "rich", "matplotlib", "pandas", "pooch", "tqdm"):
        with monkeypatch.context() as patch:
            for name in list(sys.modules):
                if name.startswith("adashift_optax.demo."):  # so that they are imported again
                    patch.delattr(name)
                    patch.delitem(sys.modules, name)
                if name.split(".")[0] == package:
                    patch.setitem(sys.modules, name, None)
            patch.setitem(sys.modules, package, None)
            done = run("--epochs", 1, "--seeds", 1, "--output", tmp_path)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert 'pip install "adashift-optax[demo]"' in done.err
        assert package in done.err
