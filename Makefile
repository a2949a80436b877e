# The handful of things one does in a clone. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint benchmark clean

help:  ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Rebuilt whenever what is to be installed changes; every other target depends on it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,viz]"
	@touch $@

install: $(STAMP)  ## Install the package and its tools into .venv, at the versions of constraints.txt

demo: $(STAMP)  ## Adapt the shipped core to a mouse it has never seen, score it, write omnimouse-demo/report.html
	$(BIN)/omnimouse demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -q

lint: $(STAMP)  ## Check style (ruff), types (mypy) and that rooms know only those below them (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

benchmark: $(STAMP)  ## Time and memory of a forward pass against flex attention
	$(BIN)/python benchmarks/attention.py

clean:  ## Remove caches, builds and the demo's output, not .venv
	rm -rf build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache omnimouse-demo
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
