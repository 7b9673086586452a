# Every target uses one .venv, which is set up on first use and again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: .venv/installed  ## Set up .venv with everything, pinned by constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "ebm_lab needs Python 3.11 to 3.13; choose one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: .venv/installed  ## Train the default: real handwritten digits, no download, no account
	$(BIN)/python train.py

test: .venv/installed  ## Test every equation, and every mechanism with representative components
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not exhaustive'

test-all: .venv/installed  ## Run the whole test suite: every component through every mechanism
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-fast: .venv/installed  ## Run the tests that take seconds
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not slow and not exhaustive'

compare: .venv/installed  ## Train every objective on two data sets under one budget; write a page and tables, within two hours
	$(BIN)/python scripts/compare.py jobs=2

results: .venv/installed  ## Write docs/results.md from the last `make compare`
	$(BIN)/python scripts/compare.py train=false publish=docs/results
	$(BIN)/python scripts/results.py out=docs

studies: .venv/installed  ## Make the runs, tables and pictures of docs/studies.md, anomalies.md, labels.md and discrete.md
	$(BIN)/python scripts/scaling.py out=docs
	$(BIN)/python scripts/sampling.py out=docs
	$(BIN)/python scripts/studies.py out=docs
	$(BIN)/python scripts/anomalies.py out=docs
	$(BIN)/python scripts/labels.py out=docs
	$(BIN)/python scripts/discrete.py out=docs

benchmark: .venv/installed  ## Compare speed with a plain loop and other libraries for docs/performance.md, about an hour
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python scripts/benchmark.py out=docs

mutants: .venv/installed  ## Change the equations in 700 small ways, one at a time, and check that tests fail, about an hour
	$(BIN)/python scripts/mutants.py files=all jobs=2 sample=700

theory: .venv/installed  ## Measure and draw the identities that docs/theory.md shows
	$(BIN)/python scripts/theory.py out=docs

notebooks: .venv/installed  ## Execute docs/notebooks and store their outputs, about five minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebooks]'
	$(BIN)/python scripts/notebooks.py

docs: .venv/installed  ## Build the documentation into site/, to be opened as files; fails if a link is broken
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo site/index.html

report: .venv/installed  ## Write outputs/report.html, one page over all runs
	$(BIN)/python scripts/report.py outputs

lint: .venv/installed  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed  ## Check types
	$(BIN)/pyright

clean:  ## Remove .venv and caches; outputs stay
	rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install train test test-all test-fast compare results studies benchmark mutants theory notebooks docs report lint types clean
