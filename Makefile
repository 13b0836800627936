# The commands of the project. `make` alone lists them. They need Python 3.11 or newer with venv, and nothing else.
#
# Two stamps inside .venv make every target instant once its preparation is done:
#   .run-ready   the locked dependencies of the software and the `keyhall` command
#   .dev-ready   the additional dependencies of tests, checks and the site of the documentation, and .venv/generator,
#                which has those of a public generator of clients: it needs an older release of something that the
#                software uses
# .venv/peer has what `make bench` compares Keyhall with; nothing else makes or needs it.

PYTHON ?= python3
# Twice the cores of a small machine: many tests wait for a lease, a lock or another process.
JOBS ?= 4

VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
GENERATOR := $(VENV)/generator
PEER := $(VENV)/peer
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installation resolves nothing: --no-deps installs exactly the lock, and `pip check` reports if the lock is incomplete.
INSTALL_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

# Compiled modules and tests are kept: without them every start of Python compiles all of them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

## Start

.PHONY: setup
setup: $(DEV_READY)  ## prepare .venv for running and developing

.PHONY: run
run: $(RUN_READY)  ## start web and bot on the embedded database; Ctrl-C stops them
	@exec $(BIN)/keyhall run

.PHONY: dev-up
dev-up: $(RUN_READY)  ## start the same in the background; log in data/dev.log
	@$(BIN)/python scripts/dev.py up

.PHONY: dev-down
dev-down: $(RUN_READY)  ## stop the process that dev-up started
	@$(BIN)/python scripts/dev.py down

.PHONY: dev-restart
dev-restart: $(RUN_READY)  ## dev-down, then dev-up
	@$(BIN)/python scripts/dev.py down
	@$(BIN)/python scripts/dev.py up

# Make passes ENV and FORCE on in the environment: no recipe names them, so nothing of them reaches a shell.
.PHONY: keys-generate
keys-generate: $(RUN_READY)  ## fill the placeholders of keys in env/.env.<ENV> (ENV=dev; FORCE=1 replaces every key)
	@$(BIN)/python -m scripts.env_keys generate

.PHONY: keys-validate
keys-validate: $(RUN_READY)  ## judge the keys in env/.env.<ENV>, a line for each (ENV=dev)
	@$(BIN)/python -m scripts.env_keys validate

## Prove

# pytest compiles every test in a way of its own and keeps the result. In a fresh clone each process of a run would do
# that for all of them, so two do it beforehand; what is wrong with a test, the run itself says.
COMPILED := $(VENV)/.tests-compiled
COLLECT := $(BIN)/python -m pytest --collect-only --quiet --quiet

$(COMPILED): | $(DEV_READY)
	@$(COLLECT) tests/unit tests/e2e >/dev/null 2>&1 & $(COLLECT) tests/integration tests/browser >/dev/null 2>&1; wait
	@touch $@

.PHONY: test
test: $(DEV_READY) | $(COMPILED)  ## run the whole suite on SQLite and PostgreSQL (JOBS=4)
	$(PYTEST)

# Nothing waits here, and each further process collects all tests once more.
.PHONY: test-fast
test-fast: $(DEV_READY)  ## run the tests that finish within 20 seconds
	$(PYTEST) --numprocesses 2 -m "not (browser or faults or postgres or slow)" tests/unit \
		tests/integration/test_authentication.py tests/integration/test_credential_service.py

.PHONY: faults
faults: $(DEV_READY)  ## run the long tests: kills, races, broken disks and clocks
	$(BIN)/python -m pytest -m faults

.PHONY: bench
bench: $(DEV_READY) $(PEER)/.ready  ## measure speed and memory, as ratios to floors of the same run (BENCH_ARGS=--help)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

.PHONY: recover
recover: $(DEV_READY)  ## time the worst day: a backup and the paper, an empty machine, the other database (RECOVER_ARGS=--help)
	$(BIN)/python -m tests.benchmarks.recover $(RECOVER_ARGS)

.PHONY: coverage
coverage: $(DEV_READY) | $(COMPILED)  ## run the whole suite and write branch coverage to htmlcov/
	$(PYTEST) --cov --cov-report=term --cov-report=html

.PHONY: lint
lint: $(DEV_READY)  ## check style, types and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: check
check: lint test  ## run lint, then the whole suite: the same as CI

## Keep

.PHONY: lock
lock:  ## pin the dependencies again, with hashes and without addresses (needs uv; LOCK_ARGS=--upgrade)
	@command -v uv >/dev/null || { echo "make lock: uv is not on PATH — install it from PyPI: pip install uv" >&2; exit 1; }
	uv pip compile $(LOCK_OPTIONS) pyproject.toml --output-file requirements/run.txt
	uv pip compile $(LOCK_OPTIONS) pyproject.toml --extra otel --constraints requirements/run.txt --output-file requirements/otel.txt
	uv pip compile $(LOCK_OPTIONS) pyproject.toml --extra otel --extra dev --extra docs --constraints requirements/run.txt --output-file requirements/dev.txt
	echo openapi-python-client | uv pip compile $(LOCK_OPTIONS) - --output-file requirements/generator.txt
	echo "$(PEER_NEEDS)" | tr ' ' '\n' | uv pip compile $(LOCK_OPTIONS) - --output-file requirements/peer.txt

PEER_NEEDS = aiosqlite fastapi fastapi-users[sqlalchemy] uvicorn[standard]

# Extras stay in the lock, so that it states them itself: coverage[toml], which pytest-cov requires.
LOCK_OPTIONS = --quiet --universal --generate-hashes --no-strip-extras --python-version 3.11 --no-header $(LOCK_ARGS)

.PHONY: docs
docs: $(DEV_READY)  ## build docs/ as a site in build/docs; a link that leads nowhere fails
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "Open build/docs/index.html"

.PHONY: screenshots
screenshots: $(DEV_READY)  ## take the pictures in docs/images again, of a furnished site (needs Chromium)
	@$(BIN)/python -m tests.screenshots

.PHONY: texts
texts: $(DEV_READY)  ## find the texts that people read, and bring app/localisation/*.po up to date with them
	@$(BIN)/python -m scripts.texts

.PHONY: clean
clean:  ## delete .venv, caches and reports; data/ stays
	rm -rf $(VENV) build keyhall.egg-info htmlcov .coverage .coverage.* .hypothesis
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## print this list
	@awk -F ':.*## ' '/^## / { print "\n" substr($$0, 4) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Preparation

.PHONY: venv
venv: $(BIN)/python

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	  echo "Keyhall needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo 'not installed')." >&2; \
	  echo "Install one, or name it: make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Environments beside .venv, each with one lock.
$(GENERATOR)/.ready $(PEER)/.ready: $(VENV)/%/.ready: requirements/%.txt | $(BIN)/python
	@echo "Installing requirements/$*.txt"
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	@touch $@

# Editable and without build isolation: the build backend is locked too, so nothing is downloaded without a hash.
$(RUN_READY): requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "Installing requirements/run.txt"
	@$(INSTALL_LOCKED) --requirement requirements/run.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check >/dev/null || { $(BIN)/python -m pip check; exit 1; }
	@touch $@

$(DEV_READY): $(RUN_READY) requirements/dev.txt $(GENERATOR)/.ready
	@echo "Installing requirements/dev.txt"
	@$(INSTALL_LOCKED) --requirement requirements/dev.txt
	@$(BIN)/python -m pip check >/dev/null || { $(BIN)/python -m pip check; exit 1; }
	@touch $@
