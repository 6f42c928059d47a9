# Everything a contributor runs. Each target sets up what it needs; the only requirements are
# Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The tests sync thousands of small files: in memory, where that is, so that a slow disk costs nothing.
TEST_FOLDER ?= $(shell test -w /dev/shm && test `df -Pk /dev/shm | awk 'END {print $$4}'` -gt 4000000 && echo /dev/shm)
# More than cores: a good part of the suite waits for processes and sockets.
PYTEST := $(if $(TEST_FOLDER),PYTEST_DEBUG_TEMPROOT=$(TEST_FOLDER) )$(BIN)/python -m pytest -q -n 4
DEMO_MIB ?= 1024
# Not of every Python: attacks on the product, processes, what starts pytest itself, and pure functions.
QUICK := tests/faults tests/powercut tests/e2e tests/core tests/fuzz tests/benchmarks \
  tests/engine/test_crash_model.py tests/test_reliability.py
# Versions of huggingface_hub that judge what is written and served; an environment each, made once.
HF := 0.35 1.11 2.4

FUZZ_SECONDS ?= 60

.PHONY: help demo memory test test-quick test-all torture mutations reliability fuzz bench lint types check lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "modelhaul needs Python 3.11 or newer; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(VENV)/installed ## download a 1 GiB model from a local hub, kill it half-way, resume, prove it
	$(BIN)/python -m tools.demo --mib $(DEMO_MIB)

memory: $(VENV)/installed ## peak memory of a download of 4 GiB over 32 connections
	$(BIN)/python -m benchmarks.memory

.venv-hf-%/installed: requirements/hf-%.txt | $(VENV)/installed
	$(PYTHON) -m venv --clear --without-pip .venv-hf-$*
	$(BIN)/python -m pip --python .venv-hf-$*/bin/python install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r $<
	touch $@

test: $(VENV)/installed $(HF:%=.venv-hf-%/installed) ## run the test suite
	$(PYTEST)

test-quick: $(VENV)/installed ## the parts that may depend on the Python, with fewer examples per property
	QUICK=1 $(PYTEST) -m "not command" $(QUICK:%=--ignore=%) tests

test-all: ## run the test suite on every supported Python that is installed
	@./tools/each-python test test

# An environment of its own: atheris brings a fuzzing engine, and not for every Python and system.
$(VENV)-fuzz/installed: requirements/fuzz.txt
	$(PYTHON) -m venv --clear $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/fuzz.txt -e .
	touch $@

fuzz: $(VENV)-fuzz/installed ## fuzz every parser for a minute each (FUZZ=index for one, FUZZ_SECONDS=600)
	for target in $(or $(FUZZ),`$(VENV)-fuzz/bin/python -m tests.fuzz --list`); do \
	  $(VENV)-fuzz/bin/python -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -timeout=15 || exit 1; \
	done

torture: $(VENV)/installed ## what takes minutes or root, and the mutations; the power cuts need root
	TORTURE=1 $(PYTEST) -m "torture or whole"
	$(BIN)/python tools/mutations.py

mutations: $(VENV)/installed ## remove checks from the engine one by one: does a fault test notice?
	$(BIN)/python tools/mutations.py

reliability: $(VENV)/installed ## write the table of docs/reliability.md from the marks of the tests
	$(BIN)/python tools/reliability.py

# A peer that cannot be installed is no reason to stop: its rows are skipped, with the reason.
$(VENV)-peers/installed: requirements/peers.txt
	$(PYTHON) -m venv --clear $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/peers.txt
	touch $@

bench: $(VENV)/installed ## compare with other downloaders (an hour; BENCH=lan-http for one scenario)
	./tools/install-peers
	-$(MAKE) --no-print-directory $(VENV)-peers/installed
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed ## mypy, strict
	$(BIN)/mypy

check: lint types test ## what CI checks, without the demo

lock: ## resolve the dependencies anew into requirements/; of huggingface_hub the versions stay
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet uv
	$(VENV)-lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --upgrade --quiet pyproject.toml -o requirements/run.txt
	$(VENV)-lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --upgrade --quiet pyproject.toml requirements/build.in --group test --group lint -o requirements/dev.txt
	for version in $(HF); do \
	  $(VENV)-lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --no-emit-index-url --upgrade --quiet requirements/hf-$$version.in -o requirements/hf-$$version.txt; done

clean: ## remove environments and what the demo made
	rm -rf .venv .venv-* .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
