# Each target makes what it needs and may be repeated; nothing is installed outside .venv
# except Chromium for the browser tests, and that only on Debian as root.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN_READY := $(VENV)/.ready-to-run
TEST_READY := $(VENV)/.ready-to-test
CHROMIUM := /usr/bin/chromium

# The first of these that is 3.11 to 3.13 and can make an environment; PYTHON=/path/to/python overrules.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 /usr/bin/python3)
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint bench chaos soak docs browser clean simulate ledger risk mutants

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN_READY) ## paper trade a synthetic market, with the console in a browser
	$(BIN)/tickerml run --profile demo

# These wait for processes and for a browser most of their time, so they run beside the others. The package is
# compiled first, or each of a thousand processes would do it where PYTHONDONTWRITEBYTECODE is set.
# What tries the command line of plugins computes rather than waits.
WAITING := tests/system $(filter-out tests/ui/test_cli_plugin%,$(wildcard tests/ui/test_*.py))
WAITING_LOG := .pytest_cache/waiting.log

test: $(TEST_READY) browser lint ## check everything: style, types, imports and tests
	@if [ "$${CI:-}" = true ]; then export TICKERML_REQUIRE_BROWSER=1; fi; \
	mkdir -p .pytest_cache; \
	$(BIN)/python -m compileall -q tickerml; \
	echo "$(BIN)/python -m pytest $(WAITING) > $(WAITING_LOG) &"; \
	$(BIN)/python -m pytest -p no:cacheprovider $(WAITING) > $(WAITING_LOG) 2>&1 & waiting=$$!; \
	trap 'kill $$waiting' INT TERM; \
	echo "$(BIN)/python -m pytest $(WAITING:%=--ignore=%)"; \
	$(BIN)/python -m pytest $(WAITING:%=--ignore=%); others=$$?; \
	echo "Waiting for what runs beside them, into $(WAITING_LOG)"; \
	wait $$waiting; waited=$$?; \
	cat $(WAITING_LOG); \
	[ $$others = 0 ] && [ $$waited = 0 ]

lint: $(TEST_READY) ## check style, types and imports alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(RUN_READY) ## measure the bus
	$(BIN)/python benchmarks/bus.py

chaos: $(TEST_READY) ## break real processes, MINUTES=60 in all, ROUNDS=0 (as needed) runs of each kind
	$(BIN)/python tests/chaos/campaign.py --minutes $(or $(MINUTES),60) --rounds $(or $(ROUNDS),0)

soak: $(TEST_READY) ## leave a system running for MINUTES=60 and see whether anything grows
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),60)

SEED ?= 0
SEEDS ?= 2000

simulate: $(RUN_READY) ## break a simulated system SEEDS=2000 times, from SEED=0 on
	$(BIN)/tickerml dev simulate --seed $(SEED) --seeds $(SEEDS)

ledger: $(TEST_READY) ## hold the ledger to its laws over OPERATIONS=1000000 in at most MINUTES=30, from SEED=0 on
	$(BIN)/python tests/campaigns/ledger.py --seed $(SEED) --minutes $(or $(MINUTES),30) --operations $(or $(OPERATIONS),1000000)

risk: $(TEST_READY) ## hold all rules of risk to their properties, OPERATIONS=1000000, at most MINUTES=30, from SEED=0 on
	$(BIN)/python tests/campaigns/risk.py --seed $(SEED) --minutes $(or $(MINUTES),30) --operations $(or $(OPERATIONS),1000000)

mutants: $(TEST_READY) ## see whether the tests notice what is changed in the code, for MINUTES=30, SEED=0, JOBS=1 at a time
	$(BIN)/python tests/campaigns/mutants.py --seed $(SEED) --minutes $(or $(MINUTES),30) --jobs $(or $(JOBS),1)

docs: $(RUN_READY) ## write the reference from the code
	$(BIN)/python docs/generate.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(PYTHONS); do \
	  if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" -V)"; exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "TickerML needs Python 3.11, 3.12 or 3.13 with its venv module; none of these is one: $(PYTHONS)." >&2; \
	echo "On Debian: apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 ..." >&2; \
	exit 1

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing TickerML and its console into $(VENV); the first time takes a minute or two"
	$(PIP) install --progress-bar on -c constraints.txt 'pip>=25.1' # the first that knows --group
	$(PIP) install --progress-bar on -c constraints.txt -e '.[console]'
	@touch $@

$(TEST_READY): $(RUN_READY)
	@echo "Installing the tools of the tests into $(VENV)"
	$(PIP) install --progress-bar on -c constraints.txt --group dev
	@touch $@

# The browser tests need Chromium. A desk without it leaves them out and is told so; CI may not.
browser:
	@if [ -x $(CHROMIUM) ]; then exit 0; fi; \
	if [ -e /etc/debian_version ] && [ "$$(id -u)" = 0 ]; then \
	  echo "Installing Chromium for the browser tests"; \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium || true; \
	fi; \
	if [ -x $(CHROMIUM) ]; then exit 0; fi; \
	if [ "$${CI:-}" = true ]; then echo "$(CHROMIUM) is missing, and in CI no test may be left out" >&2; exit 1; fi; \
	echo "Left out: the tests marked 'browser', for want of $(CHROMIUM)."; \
	echo "To include them: apt-get install chromium (as root), then make test again."
