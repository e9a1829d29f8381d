# Two commands: `make demo` searches an architecture and shows it, `make test` checks everything.
# Both make .venv when it is missing; it needs Python 3.10 to 3.13 with venv, and a C++ compiler for torch.compile.

.DEFAULT_GOAL := help
.PHONY: help demo regenerate test test-slow lint format types docs install mm constraints clean distclean

RUN := .venv/bin/python -m
CODE := zoo search downstream tests benchmarks examples docs
PYTEST_ARGS ?=
export PYTHON
# More threads than free cores spin against each other: seen to cost a factor of eighty.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 chooses the interpreter, PYTEST_ARGS="-k name" what pytest runs.'

demo: install  ## search an architecture on handwritten digits, retrain it, show what it can do (5 minutes)
	@echo '==> Searching on handwritten digits; interrupted, the same command continues'
	.venv/bin/searchzoo search demo --out runs/demo

test: lint types mm  ## lint, formatting, types and the tests
	@echo '==> Tests'
	$(RUN) pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-slow: mm  ## the tests too slow for every change
	$(RUN) pytest -m slow --timeout 3600 --durations 10 $(PYTEST_ARGS)

lint: install  ## ruff: lint and formatting
	@echo '==> Lint and formatting'
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: mm  ## mypy
	@echo '==> Types'
	$(RUN) mypy

format: install  ## let ruff write the formatting and the safe corrections
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: install  ## the documentation as pages, in site/
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

install:  ## .venv with the pinned packages; nothing where it is up to date
	@sh scripts/install.sh

mm: install  ## and mmdetection and mmsegmentation, with the operators of mmcv compiled once (4 minutes)
	@sh scripts/install.sh mm

regenerate: install  ## search and train the bundled networks anew, on handwritten digits (20 minutes)
	.venv/bin/python scripts/regenerate.py

constraints: install  ## resolve constraints.txt anew for Python 3.10 to 3.13 (UPGRADE=--upgrade for newer versions)
	$(RUN) uv pip compile pyproject.toml constraints.in --universal --python-version 3.10 --all-extras \
		--no-annotate --no-python-downloads --output-file constraints.txt $(UPGRADE)

clean:  ## remove caches and build outputs
	rm -rf build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## and .venv and the demo's run
	rm -rf .venv runs/demo
