# Every target sets up what it needs in a virtual environment of its own, so that `make demo` and
# `make test` work on a machine that has only make and Python. Running a target again costs nothing
# until pyproject.toml changes.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=
SPEED_ARGS ?=
# One process per core of a small machine, each with one thread; a file's tests stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Reference -> query pairs for `make bench`; any file of the same form will do.
PAIRS ?= $(or $(HDI_DATA),../shared/data)/pairs.json

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: $(VENV)/.installed ## Train and annotate real PBMC data offline; results in demo_out/
	$(BIN)/python benchmarks/demo.py demo_out

.PHONY: test
test: $(VENV)/.installed-test ## Run the fast tests and the examples in the docstrings
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-all
test-all: $(VENV)/.installed-test ## Run every test, the slow ones too
	$(PYTEST) -m "" $(PYTEST_ARGS)

.PHONY: check
check: $(VENV)/.installed-check ## Lint, check formatting, types and imports; build and inspect the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py dist
	$(BIN)/lint-imports --no-logo

.PHONY: docs
docs: $(VENV)/.installed-doc ## Build the documentation into docs/_build/html, warnings are errors
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going docs docs/_build/html

.PHONY: tutorials
tutorials: $(VENV)/.installed-doc ## Run the notebooks again, in place; with HDI_DATA on real data
	$(BIN)/jupyter execute --inplace tutorials/*.ipynb

.PHONY: bench
bench: $(VENV)/.installed-bench ## Measure accuracy, speed and scale; writes docs/benchmarks.md
	$(BIN)/python benchmarks/environments.py --uv $(abspath $(BIN))/uv
	$(BIN)/python benchmarks/run.py --pairs $(PAIRS) --missing 0.25 0.5 0.75
	$(BIN)/python benchmarks/ablation.py --pairs $(PAIRS) --missing 0.5
	$(BIN)/python benchmarks/few_cells.py --pairs $(PAIRS)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/report.py --pairs $(PAIRS)
	$(BIN)/python benchmarks/readme_table.py

.PHONY: bench-speed
bench-speed: $(VENV)/.installed-bench ## Measure speed against others; writes docs/performance.md
	$(BIN)/python benchmarks/environments.py celltypist --uv $(abspath $(BIN))/uv
	$(BIN)/python benchmarks/speed.py $(SPEED_ARGS)
	$(BIN)/python benchmarks/report.py --pairs $(PAIRS)

.PHONY: bench-companions
bench-companions: $(VENV)/.installed-bench ## Measure the companions; writes docs/benchmarks_companions.md
	$(BIN)/python benchmarks/corrected_gram.py --data $(dir $(PAIRS))
	$(BIN)/python benchmarks/markers.py --pairs $(PAIRS)
	$(BIN)/python benchmarks/distillation.py --pairs $(PAIRS)
	$(BIN)/python benchmarks/gene_tokens.py --pairs $(PAIRS)
	$(BIN)/python benchmarks/companions.py --data $(dir $(PAIRS)) --page docs/benchmarks_companions.md

.PHONY: clean
clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) build dist demo_out docs/_build docs/api/generated
	rm -rf .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# One resolve for the package and a dependency group together: torchvision loads only beside the torch
# build that it was compiled for, and a second resolve could pick another.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable . --group $*
	@touch $@ $(VENV)/.installed

# pip understands dependency groups from 25.1 on.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11; name another one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$@ -m pip install --upgrade "pip>=25.1"
