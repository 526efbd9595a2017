# On a fresh machine, demo and test do the complete set-up.
PYTHON ?= python3
CONFIG ?= configs/demo.yaml
STUDY ?= configs/study.yaml
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" saves several GB of CUDA packages on a machine without GPU
PIP_ARGS ?=
# For dagster, dagster.yaml switches telemetry off; dg reads only the dagster.yaml of DAGSTER_HOME
export DAGSTER_DISABLE_TELEMETRY := yes

# Tests and runs start many processes: without kept bytecode each of them compiles every module again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: demo dev study test test-long test-slow check check-defs docs bench clean help

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(STAMP)   ## align the embedded 135M model on this machine (CONFIG=... for another run)
	$(BIN)/drirl run $(CONFIG)

dev: $(STAMP)    ## open the Dagster UI on http://127.0.0.1:3000
	$(BIN)/drirl dev $(CONFIG)

study: $(STAMP)  ## run and compare the cells of a study (STUDY=... for another one than configs/study.yaml)
	$(BIN)/drirl study $(STUDY)

test: $(STAMP)   ## all tests that need no GPU, no large model and little time
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-long: $(STAMP)  ## the tests that take longer: whole graphs on tiny models, kills, real processes
	$(BIN)/python -m pytest -m "long and not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)  ## the tests on the real 135M model
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## linter and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-defs: $(STAMP)  ## what Dagster itself checks: the project file, and that all definitions load
	$(BIN)/dg check toml
	$(BIN)/dg check defs
	$(BIN)/dg list defs

docs: $(STAMP)   ## the documentation as a site in site/, after making its reference from the code
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e ".[docs]"
	$(BIN)/python -m drirl_core.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## speed measurements; writes benchmarks/results/*.json
	$(BIN)/python -m benchmarks.sampling_speed
	$(BIN)/python -m benchmarks.training_speed
	$(BIN)/python -m benchmarks.load_time

clean:           ## remove the environment and everything that was built (artifacts, history, models)
	rm -rf $(VENV) .drirl build site *.egg-info

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt -e ".[dev]"
	-$(BIN)/drirl home
	@touch $@
