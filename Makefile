# Needs only make and Python 3.10 or newer; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint lab notebooks bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "gidlite needs Python 3.10 or newer; call make PYTHON=/path/to/it"; exit 2; }
	@echo "Installing into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[notebooks,metrics,dev]"
	@touch $(STAMP)

demo: $(STAMP)  ## animate a real photo into outputs/demo/
	@$(BIN)/gidlite demo -o outputs/demo

test: $(STAMP) lint  ## lint, tests, doctests, every notebook in fast mode
	@$(BIN)/python -m pytest -q
	@GIDLITE_FAST=1 $(BIN)/python -m pytest -q --nbmake --nbmake-timeout=300 -o addopts= notebooks

lint: $(STAMP)  ## ruff check and format check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

lab: $(STAMP)  ## open JupyterLab on the course
	@$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(STAMP)  ## execute every notebook in place
	@$(BIN)/python tools/execute_notebooks.py

bench: $(STAMP)  ## run the benchmarks
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove the environment and everything generated
	@rm -rf .venv outputs
