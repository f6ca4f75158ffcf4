# Everything sets up .venv by itself (python3 >= 3.11 and make are enough) and reuses it while pyproject.toml and constraints.txt stay as they are.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RESULTS ?= results
DEMO_RUNS := demo-safe demo-average demo-brittle
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all check format docs site figures bench chaos test-vllm test-ray test-interop clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "safemt-api needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,charts,data]'
	@touch $(READY)

demo: $(READY) ## three simulated models on the demonstration set, one report of them, and a study of five with and without a moderator
	@for persona in safe average brittle; do \
		$(BIN)/safemt-api eval --model sim-$$persona --run demo-$$persona --results $(RESULTS) > $(RESULTS)/demo-$$persona.txt || exit $$?; \
	done
	@$(BIN)/safemt-api report $(DEMO_RUNS) --results $(RESULTS)
	@$(BIN)/safemt-api study demo --results $(RESULTS) > $(RESULTS)/demo-study.txt
	@echo "Each run's own tables and page: $(RESULTS)/demo-*.txt, $(RESULTS)/demo-*/report.html; the study's: $(RESULTS)/demo-study.txt, $(RESULTS)/demo/report.html"

test: $(READY) ## the tests
	$(PYTEST) -q -n auto

test-slow: $(READY) ## the slow tests: every fault as a whole run, attacks, damage
	$(PYTEST) -q -n auto -m "slow and not vllm"

test-all: test test-slow ## both

check: $(READY) ## lint, format, types, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_docs.py tests/test_imports.py tests/test_exported_names.py

format: $(READY) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## write the help texts into README.md and docs/, and the typed keywords of evaluate, anew
	$(BIN)/python -m tests.runs.test_keywords
	$(BIN)/python -m tests.test_docs

site: $(READY) ## build the documentation site into site/, warnings as errors
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/zensical build --strict --clean

figures: $(READY) ## run what README.md and docs/ show anew, and write what it prints
	$(BIN)/python -m tests.documents

bench: $(READY) ## measure speed, memory, pace and schedule against their goals
	$(BIN)/python -m benchmarks

chaos: $(READY) ## kills and faults for a long time
	$(BIN)/python -m benchmarks.chaos

test-vllm: $(READY) ## against a real vLLM server, in an environment of its own
	$(PYTEST) -q -m vllm tests/vllm

test-ray: ## runs placed by Ray, in an environment of its own
	@test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	.venv-ray/bin/python -m pytest -q -m "slow or not slow" tests/test_ray_run.py

test-interop: ## the Inspect export in the real inspect_ai and its viewer, in an environment of its own
	@test -x .venv-interop/bin/python || $(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,interop]'
	.venv-interop/bin/python -m pytest -q tests/report/test_inspect_log.py

clean: ## remove .venv and caches; results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
