# The commands of the workbook. `make` alone lists them.
# Works with GNU make 3.81 (macOS) and newer, and under Git Bash on Windows.

.DEFAULT_GOAL := help

ifeq ($(OS),Windows_NT)
PYTHON ?= python
PY := .venv/Scripts/python.exe
else
PYTHON ?= python3
PY := .venv/bin/python
endif

# Hundreds of processes start here. Where Python may not keep what it has compiled, as in many containers, each compiles anew.
unexport PYTHONDONTWRITEBYTECODE

# What `make test` proves, in this order; each part runs with the network cut down to loopback. The tests wait more than they
# work: three at a time fill two cores.
OFFLINE := $(PY) -I helpers/authoring/offline.py
PYTEST := $(PY) -m pytest -n 3 -p helpers.authoring.schedule --nbval tests notebooks labs/solutions

# Do nothing, and say nothing, when the set-up $(1) (lab or test) is finished and up to date.
# Python itself may be missing or too old to read the script that does the rest.
define set_up
@{ $(PY) -I helpers/authoring/setup.py --ready $(1); } 2>/dev/null || { \
  command -v "$(PYTHON)" >/dev/null 2>&1 || { \
    echo "There is no $(PYTHON) here: install Python 3.11 or newer, or name one, as in: make PYTHON=python3.12 $@" >&2; exit 1; }; \
  "$(PYTHON)" -c "import sys; sys.version_info >= (3, 11) or sys.exit('$(PYTHON) is Python %d.%d: install Python 3.11 or newer, or name one, as in: make PYTHON=python3.12 $@' % sys.version_info[:2])" && \
  "$(PYTHON)" -I helpers/authoring/setup.py $(1); }
endef

# Run one part of `make test`: $(1) names it, $(2) is the command.
define stage
@echo "== $(1)"
@$(OFFLINE) $(2) || { echo "make test stopped: $(1) failed."; exit 1; }
endef

.PHONY: help lab test refresh labs soak bench lint lock wheels setup

help: ## list the commands
	@echo "The workbook's commands:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

lab: ## open the workbook in JupyterLab (sets everything up, the first time)
lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/helpers/jupyter
lab:
	$(call set_up,lab)
	@$(PY) -m jupyterlab

test: ## prove every helper and every notebook (the same set-up, then the tests)
	$(call set_up,test)
	$(call stage,ruff check,$(PY) -m ruff check .)
	$(call stage,ruff format,$(PY) -m ruff format --check .)
	$(call stage,mypy,$(PY) -m mypy)
	$(call stage,pytest,$(PYTEST))

refresh: ## run every notebook and store what changed in its outputs
	$(call set_up,test)
	@$(PY) -m helpers.authoring.refresh
	@$(PY) -m helpers.ledger

labs: ## make the labs' exercises and solutions from labs/src
	$(call set_up,test)
	@$(PY) -m helpers.authoring.labs
	@$(PY) -m helpers.authoring.teaching

soak: ## what takes too long for every run: checks of labs, weakened in every way, and twenty restarts under load
	$(call set_up,test)
	@$(OFFLINE) $(PY) -m pytest -n 2 --dist loadfile -m soak tests

bench: ## measure what it all costs, into tests/benchmarks/RESULTS.md (ONLY="P1 P5": some parts)
	$(call set_up,test)
	@$(PY) -m tests.benchmarks.bench $(ONLY)

lint: ## format the code and mend what can be mended
	$(call set_up,test)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

lock: ## write the locks from pyproject.toml (UPGRADE=1: with the newest versions)
	$(call set_up,test)
	@$(PY) -m helpers.authoring.lock $(if $(UPGRADE),--upgrade)

wheels: ## pack every package into wheels/, for a room without a network: there, make lab installs from it
	$(call set_up,lab)
	@$(PY) -m pip download --quiet --no-deps --require-hashes --only-binary :all: --dest wheels -r requirements.lock
	@if command -v npm >/dev/null; then cd helpers/apps/socketio_chat && \
	  npm ci --ignore-scripts --no-audit --no-fund --silent --cache ../../../wheels/npm; fi
	@echo "wheels/ is complete: copy this folder into a clone on a machine like this one, and run make lab there."

setup: ## only the set-up of `make lab`
	$(call set_up,lab)
