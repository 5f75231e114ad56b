# The first of these makes .venv, the others use it; nothing is installed outside of it.
PYTHON ?= python3
BIN := .venv/bin
# Passed on: `make run ARGS="--port 8081"`, `make test ARGS="tests/test_config.py -k bounds"`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-faults test-system test-thespian lint format bench bench-quick configuration clean environment test-environment bench-environment

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: environment ## install into .venv if need be, then start the relay (ARGS are flags of `pulsar-relay serve`)
	@exec $(BIN)/pulsar-relay serve $(ARGS)

test: lint ## lint, check types, run all tests but faults and system (ARGS go to pytest; without any, four at a time)
	$(BIN)/python -m pytest -m "not faults and not system" $(or $(ARGS),-n 4)

test-faults: test-environment ## run what kills, stops and starves parts of a working relay (two at a time)
	$(BIN)/python -m pytest -m faults $(or $(ARGS),-n 2)

test-system: test-environment ## install proxies, Prometheus, Chromium, an OpenID provider and Pulsar, run what is tested with them, and installing itself
	@tests/system_packages
	@tests/system_modules
	$(BIN)/python -m pytest -m system $(ARGS)

test-thespian: test-environment ## run Thespian's own test suite on the relay's actor runtime
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/thespian_suite/run $(ARGS)

lint: test-environment ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: test-environment ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: bench-environment ## measure the relay beside its peers and write docs/performance.md (ARGS: of `benchmarks run`)
	@benchmarks/system_packages
	$(BIN)/python -m benchmarks run --output benchmarks/results/latest.json $(ARGS)
	$(BIN)/python -m benchmarks report benchmarks/results/latest.json

bench-quick: bench-environment ## does every scenario work, and roughly how fast? Under two minutes, writes nothing
	$(BIN)/python -m benchmarks run --quick $(ARGS)

configuration: environment ## write config.yaml, docs/configuration.md and the dashboards anew from their tables
	$(BIN)/python -m tools.configuration
	$(BIN)/python -m tools.dashboards

clean: ## remove .venv and what tools leave behind; data/ stays
	rm -rf .venv .venv.lock .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

environment:
	@$(PYTHON) tools/environment.py

test-environment:
	@$(PYTHON) tools/environment.py test

bench-environment:
	@$(PYTHON) tools/environment.py bench
