# Needs Python >= 3.11, make and a package index; everything else goes into .venv.
#   make setup PYTHON=python3.12          another interpreter
#   make setup TORCH_INDEX=URL            where to find another build of torch (CONTRIBUTING.md)
#   make setup PIP_ARGS="--quiet"         further arguments for every `pip install`
PYTHON ?= python3
TORCH_INDEX ?=
PIP_ARGS ?=
# What `make test` passes to pytest, for example PYTEST_ARGS="-m 'not slow' -x".
# A worker that has nothing left to do takes tests from the other.
PYTEST_ARGS ?= -n 2 --dist worksteal

TORCH := torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install $(PIP_ARGS)
# torch comes first and alone: what follows finds it installed, and nothing replaces it by a
# build that brings CUDA. Beside the plain 2.13.0, pip prefers an index's 2.13.0+cpu.
INSTALL_TORCH = install $(PIP_ARGS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome

STAMP := $(VENV)/.setup-stamp
DOCS_STAMP := $(VENV)/.docs-stamp
LOCK_VENV := build/lock-venv
OLDEST_VENV := build/oldest-venv
# Older Trainers resume on several ranks of GPUs only: torch cannot load a state to "cpu:0".
NO_CPU_RANKS := $(addprefix --ignore tests/integrations/,test_transformers_on_ranks.py test_torchrun.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast test-oldest test-wheel browser lint format types bench docs lock clean

help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything that the other targets need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Batchwright needs Python >= 3.11; this is " + sys.version.split()[0] + ": make setup PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) 'pip>=25.1'
	$(PIP) $(INSTALL_TORCH) --constraint constraints.txt $(TORCH)
	$(INSTALL) --constraint constraints.txt --group dev --editable '.[all]'
	@touch $@

# On one thread: two wait for one another wherever something else uses a core.
demo: setup ## Run the demonstration
	@mkdir -p build
	$(BIN)/batchwright compare examples/applications/translation.py --quick --restart \
	  --strategies plain,planned --threads 1 -o build/demo.json

# Under continuous integration (CI=true, or HYPOTHESIS_PROFILE=ci) properties are tested on the same
# examples in every run; elsewhere on new ones each time.
test: setup ## Lint, check types, build the docs, run every test and doctest
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint types docs browser
	$(BIN)/python -m pytest -p no:benchmark $(PYTEST_ARGS)

test-fast: setup ## Run the tests and doctests that take under a second each, and nothing else
	$(BIN)/python -m pytest -p no:benchmark $(PYTEST_ARGS) -m "not slow"

test-oldest: ## Run the fast tests, and those of trainers, with the oldest versions that pyproject.toml allows
	@test -x $(OLDEST_VENV)/bin/python || $(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip install $(PIP_ARGS) 'pip>=25.1'
	$(OLDEST_VENV)/bin/python -m pip $(INSTALL_TORCH) --constraint oldest.txt $(TORCH)
	$(OLDEST_VENV)/bin/python -m pip install $(PIP_ARGS) --constraint oldest.txt \
	  --editable '.[all,transformers,trl,sentence-transformers,accelerate,lightning]' peft tensorboard \
	  pytest hypothesis pytest-timeout pytest-xdist hatchling markdown-it-py
	$(OLDEST_VENV)/bin/python -m pytest -p no:benchmark $(PYTEST_ARGS) -m "not slow" \
	  -o filterwarnings= --ignore tests/examples --ignore tests/docs --ignore tests/keras \
	  --deselect tests/benchmarks/test_picture.py
	$(OLDEST_VENV)/bin/python -m pytest -p no:benchmark $(PYTEST_ARGS) -m slow \
	  -o filterwarnings= tests/integrations $(NO_CPU_RANKS)

test-wheel: setup ## Build wheel and sdist, try the wheel in fresh environments (PYTHONS="python3.11 ...")
	$(BIN)/python -m tests.wheels $(addprefix --python ,$(PYTHONS))

browser: ## Install Chromium for the tests of pages, where apt-get may do so
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	test "$$(id -u)" = 0 && root= || root="sudo -n"; \
	{ command -v apt-get >/dev/null && $$root true 2>/dev/null \
	  && echo "Installing Chromium with apt-get ..." \
	  && $$root timeout 120 apt-get update >/dev/null 2>&1 \
	  && $$root timeout 600 env DEBIAN_FRONTEND=noninteractive apt-get install -y \
	    -o DPkg::Lock::Timeout=60 --no-install-recommends chromium >/dev/null 2>&1; } \
	|| echo "No Chromium here, and none could be installed: pages are not tested in a browser."

lint: setup ## Check style, format and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

format: setup ## Repair what lint can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: setup ## Check types, strictly
	$(BIN)/mypy

bench: setup ## Run the benchmarks (quickly: BENCH_ARGS=--quick)
	$(BIN)/python -m pytest benchmarks/bench_planning.py --benchmark-only
	$(BIN)/python -m benchmarks.planning $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.claims $(BENCH_ARGS)

docs: $(DOCS_STAMP) ## Check that figures are the results', and build the documentation into site/
	$(BIN)/python -m benchmarks.quote --check
	$(BIN)/python -m benchmarks.picture --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(DOCS_STAMP): $(STAMP)
	$(INSTALL) --constraint constraints.txt --group docs
	@touch $@

lock: ## Write constraints.txt anew: the newest versions that work together
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install $(PIP_ARGS) 'pip>=25.1'
	$(LOCK_VENV)/bin/python -m pip $(INSTALL_TORCH) $(TORCH)
	$(LOCK_VENV)/bin/python -m pip install $(PIP_ARGS) --group dev --group docs --editable '.[all,ray]'
	{ sed -n '/^#/p' constraints.txt; \
	  $(LOCK_VENV)/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | sed -e 's/+cpu$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf $(LOCK_VENV)

clean: ## Remove what was built and cached (.venv stays: rm -rf .venv starts over)
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage*
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
