# Two commands do everything: `make run` and `make test`. Everything else is a part of those two, or a longer check.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CLIENTS := tests/sdk/node
FOCUS_VALIDATOR := build/focus-validator

# For `make run`; what is empty is provided: the simulated cluster, limits in memory, a ledger in SQLite.
UPSTREAM ?=
REDIS_URL ?=
DATABASE_URL ?=
LISTEN ?=
RUN_ENV = $(if $(UPSTREAM),TOLLGATE_UPSTREAM='$(UPSTREAM)') $(if $(REDIS_URL),TOLLGATE_REDIS_URL='$(REDIS_URL)') \
	$(if $(DATABASE_URL),TOLLGATE_DATABASE_URL='$(DATABASE_URL)') $(if $(LISTEN),TOLLGATE_LISTEN='$(LISTEN)')

# More words for pytest (`make test ARGS="-k windows"`) and for the bench (`make bench ARGS=--quick`).
ARGS ?=
# Tests wait more than they compute: two processes run them in half the time of one.
PROCESSES ?= 2

.PHONY: help setup services clients validators run test lint types layers check bench simulate test-real docs lock image clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make the Python environment; the command lands at .venv/bin/tollgate

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@scripts/install-build-tools.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements-dev.lock into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

services: ## install what the tests need from Debian and is missing: servers, node, a browser, curl, a JDK
	@scripts/install-services.sh

clients: services $(CLIENTS)/node_modules/.ready ## install the JavaScript clients that the tests use

$(CLIENTS)/node_modules/.ready: $(CLIENTS)/package-lock.json $(CLIENTS)/package.json | services
	@echo "installing $(CLIENTS)/package-lock.json into $(CLIENTS)/node_modules"
	@cd $(CLIENTS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

validators: $(FOCUS_VALIDATOR)/.ready ## install the FinOps Foundation's validator of FOCUS files, for the tests

$(FOCUS_VALIDATOR)/.ready: scripts/install-focus-validator.sh scripts/focus-validator.lock scripts/focus-validator-needs.lock | setup
	@scripts/install-focus-validator.sh $(BIN)/python $(FOCUS_VALIDATOR)

run: setup ## run the proxy; options: UPSTREAM=URL REDIS_URL=URL DATABASE_URL=URL LISTEN=HOST:PORT
	@$(RUN_ENV) $(BIN)/tollgate demo

test: setup services clients validators ## run the tests; options: ARGS="-k name" PROCESSES=1
	@$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

lint: setup ## check the style
	@$(BIN)/ruff check

types: setup ## check the types
	@$(BIN)/mypy

layers: setup ## check which module may import which
	@$(BIN)/lint-imports

check: lint types layers test ## everything that must hold before a commit

bench: setup ## measure against a bare passthrough; options: ARGS="--quick --write-docs"
	@command -v gcc >/dev/null && command -v redis-server >/dev/null || scripts/apt-install.sh "make bench" gcc libc6-dev redis-server
	@$(BIN)/python -m bench.run $(ARGS)

simulate: setup ## show what limits do under load: used, worst window, streams cut; options: ARGS="--seed 2 --write-docs"
	@$(BIN)/python -m bench.holds $(ARGS)

test-real: setup ## hold the ledger against a real inference engine (downloads it; takes minutes)
	@bash tests/real/run.sh --write-docs

docs: setup ## write docs/configuration.md from the settings
	@mkdir -p build && $(BIN)/python -m proxy.settings.reference > build/configuration.md
	@mv build/configuration.md docs/configuration.md

lock: ## resolve the dependencies anew; needs uv
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --no-deps --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.12 scripts/focus-validator.in -o scripts/focus-validator.lock
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.12 --no-emit-package focus-validator --no-emit-package pandasql --no-emit-package setuptools --overrides scripts/focus-validator-overrides.in scripts/focus-validator.in scripts/focus-validator-needs.in -o scripts/focus-validator-needs.lock

image: ## build the container image
	docker build -t tollgate .

clean: ## remove what is made, but not var/: it holds a ledger
	rm -rf $(VENV) $(CLIENTS)/node_modules build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
