# `make demo` and `make test` set everything up on a machine that has only Python >= 3.11 and git.
PYTHON ?= python3
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal
SPHINX = $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d docs/_build/doctrees
# Without byte code on disk every process compiles each file of the tests again: 8 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo distributed-demo notebooks check quick test test-all test-compiled versions mutants \
  lint bench bench-compiled docs release-check address clean

demo: .venv/demo
	$(BIN)/python -m adashift_optax

distributed-demo: .venv/distributed
	$(BIN)/python docs/fsdp.py

# pyproject.toml leaves out the tests that are marked all_only; -m "" runs all.
check:
	$(MAKE) -j 2 lint quick

quick: .venv/test
	$(PYTEST) -m "not slow and not all_only"

test: lint
	$(PYTEST)

test-all: lint .venv/test-all
	$(PYTEST) -m ""
	$(BIN)/python tests/versions.py oldest

versions: .venv/versions
	$(BIN)/python tests/versions.py $(ARGS)

mutants: .venv/test
	$(BIN)/python tests/mutants.py $(ARGS)

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
	$(BIN)/python -m benchmarks.speed.run

# The compilers for TPUs and for an H100 run on any Linux machine; each has its own environment.
bench-compiled: .venv/bench .venv-tpu/tpu .venv-cuda/cuda
	.venv-tpu/bin/python -m benchmarks.compiled.run tpu $(ARGS)
	.venv-cuda/bin/python -m benchmarks.compiled.run h100 $(ARGS)
	$(BIN)/python -m benchmarks.tables

test-compiled: .venv-tpu/tpu
	.venv-tpu/bin/python -m pytest --noconftest tests/test_compiled.py

release-check: .venv/test .venv/release
	$(BIN)/python tests/release.py $(ARGS)

# The release and Read the Docs do this first: make address URL=https://github.com/NAME/adashift_optax
address:
	sed -i.bak 's|https://github.com/OWNER/adashift_optax|$(URL)|' pyproject.toml
	rm pyproject.toml.bak

.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[$*]"
	touch $@

.venv-tpu/tpu .venv-cuda/cuda: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --no-compile --editable ".[$(@F)]"
	touch $@

clean:
	rm -rf .venv .venv-tpu .venv-cuda .cache runs dist docs/_build
