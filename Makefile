# Each target stands alone: it makes .venv if that is missing, installs what it needs and runs.

PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve test bench latency scale plot records fuzz api soak chaos sanitize gpu walk changes clean

help:  ## Say what the targets do
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "make %-8s %s\n", $$1, $$2}'

serve: .venv/serve.stamp  ## Serve examples/models on ports 8000 (HTTP), 8001 (gRPC) and 8002 (metrics); more options in ARGS="..."
	$(BIN)/python examples/fetch_models.py
	$(BIN)/despina serve --model-repository examples/models $(ARGS)

# Files are shared out between so many processes, in their order: the longest are not left for last. More than two
# processes disturb the tests that look at a whole server.
WORKERS ?= 2
test: .venv/test.stamp  ## Run every test, the style checks among them, in WORKERS processes (default 2); pytest's options in ARGS="..."
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# What is measured is the package as a wheel has it, compiled; `COMPILED=` measures the sources as they are.
COMPILED ?= build/installed
AS_INSTALLED = $(if $(COMPILED),PYTHONPATH=$(CURDIR)/$(COMPILED)) $(BIN)/python
build/installed/despina/__init__.py: $(shell find schema engine native backends frontends -name '*.py') pyproject.toml | .venv/test.stamp
	rm -rf build/installed
	$(INSTALL) --no-deps --no-build-isolation --target build/installed .

bench: .venv/test.stamp $(COMPILED:%=%/despina/__init__.py)  ## Measure CPU and throughput, answers checked; options in ARGS="..."
	$(AS_INSTALLED) tests/bench/run.py $(ARGS)

latency: .venv/test.stamp $(COMPILED:%=%/despina/__init__.py)  ## Measure how long requests wait at fixed rates, p50 to the longest, answers checked; options in ARGS="..."
	$(AS_INSTALLED) tests/bench/open_loop.py $(ARGS)

scale: .venv/test.stamp $(COMPILED:%=%/despina/__init__.py)  ## Measure what more and more of one thing costs: models, connections, streams, the queue, loads; ARGS="--share 0.1" for a tenth
	$(AS_INSTALLED) tests/bench/scale.py $(ARGS)

plot: .venv/test.stamp  ## Draw what bench, latency and scale have written with ARGS="--json FILE"; here ARGS="FILE... --out FOLDER"
	$(INSTALL) --editable '.[bench]'
	$(BIN)/python tests/bench/plot.py $(ARGS)

records: .venv/test.stamp  ## Ask the reference server again what the tests have recorded of it (DESPINA_REFERENCE_TRITON names the script that runs it)
	$(BIN)/python -m pytest -q -m records tests/conformance $(ARGS)

fuzz: .venv/test.stamp  ## Fuzz every parser and protocol machine, each for SECONDS (default 60); a seed in ARGS="--seed N"
	@set -e; for target in fuzz/fuzz_*.py; do echo "$$target"; $(BIN)/python $$target --seconds $(or $(SECONDS),60) $(ARGS); done

api: .venv/test.stamp  ## Check the HTTP API against its own description, with EXAMPLES requests per operation (default 300)
	DESPINA_SCHEMATHESIS_EXAMPLES=$(or $(EXAMPLES),300) $(BIN)/python -m pytest -q tests/conformance/test_schemathesis.py $(ARGS)

soak: .venv/test.stamp  ## Play the simulation over many seeds, SEEDS of them (default 1000), and say what it has reached
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) $(ARGS)

chaos: .venv/test.stamp  ## End the processes of Python models in every way under load, for SECONDS (default 20), and say what clients got
	DESPINA_CHAOS_SECONDS=$(or $(SECONDS),20) $(BIN)/python -m pytest -q -s tests/conformance/test_chaos.py $(ARGS)

SANITIZE ?= address
# Tests make libraries crash, and look at the signal.
CRASHES := handle_segv=0:handle_abort=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0
sanitize: .venv/test.stamp  ## Run the C programs and the native backends of the tests on a library built with SANITIZE=address (the default; finds leaks, too) or SANITIZE=thread
	@mkdir -p build
	DESPINA_NATIVE_SANITIZE=$(SANITIZE) CC='cc -fsanitize=$(SANITIZE)' LSAN_OPTIONS=suppressions=$(CURDIR)/tests/capi/leaks.supp TSAN_OPTIONS=die_after_fork=0 \
		$(BIN)/python -m pytest -q tests/capi/test_programs.py $(ARGS)
	DESPINA_NATIVE_SANITIZE=$(SANITIZE) CC='cc -fsanitize=$(SANITIZE)' ASAN_OPTIONS=detect_leaks=0:$(CRASHES) TSAN_OPTIONS=die_after_fork=0:log_path=$(CURDIR)/build/thread:$(CRASHES) \
		LD_PRELOAD="$$(cc -print-file-name=lib$(if $(filter thread,$(SANITIZE)),tsan,asan).so) $$(cc -print-file-name=libstdc++.so)" $(BIN)/python -m pytest -q tests/native $(ARGS)

gpu:  ## Run the checks and figures that need a GPU, by GPU_PYTHON (default .venv's), where despina, cupy and tritonclient are installed
	$(or $(GPU_PYTHON),$(BIN)/python) tests/gpu/check.py

walk: .venv/test.stamp  ## Walk in as a person does, from the README to an end under load; prints each step and its time
	$(BIN)/python -m tests.walk

changes: .venv/test.stamp  ## Show what the next release will say; with VERSION=0.2.0 write it into CHANGELOG.md
	$(BIN)/python -m towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version next)

clean:  ## Remove .venv and every cache
	rm -rf .venv .editable .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Despina needs Python 3.11 or newer on the PATH (or make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/serve.stamp: pyproject.toml | .venv/bin/python
	$(INSTALL) --editable '.[cpu]'
	@touch $@

.venv/test.stamp: pyproject.toml | .venv/bin/python
	$(INSTALL) --editable '.[test]'
	@touch $@
