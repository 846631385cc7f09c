# `make demo` and `make test` set everything up on a machine that has only Python >= 3.11 and git.
PYTHON ?= python3
BIN := .venv/bin
SPHINX = $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d docs/_build/doctrees

.PHONY: demo distributed-demo notebooks check test lint bench docs release-check clean

demo: .venv/demo
	$(BIN)/python -m adashift_optax

distributed-demo: .venv/distributed
	$(BIN)/python docs/fsdp.py

check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --quick

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

notebooks: .venv/notebooks
	$(BIN)/python notebooks/run.py

docs: .venv/docs
	$(SPHINX) -b html . docs/_build/html
	$(SPHINX) -b doctest . docs/_build/doctest

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/bench
	$(BIN)/python -m benchmarks.run
	JAX_NUM_CPU_DEVICES=8 $(BIN)/python -m benchmarks.run --sharded

release-check: .venv/test .venv/release
	$(BIN)/python tests/release.py $(ARGS)

.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv runs dist docs/_build
