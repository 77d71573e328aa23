.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SQL := $(shell find sql -name '*.sql')
PYTHONS := 3.11 3.12 3.13 3.14
CHECKS := types format lint sql docs-check
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# The end-to-end test takes longest and mostly waits: it runs beside the others, from the beginning.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: help install run airflow psql check format lint types sql docs-check test test-scale unit browser pictures docs lock resolve

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## create the virtual environment with the pinned requirements

$(STAMP): requirements.txt pyproject.toml tests/typescript/package-lock.json
	@python3 -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "make: Python 3.11 or newer is needed, python3 is $$(python3 --version 2>&1); install it or put it first in PATH"; exit 1; }
	@python3 -m venv $(VENV)
	@echo "Installing the pinned requirements into $(VENV); this takes some minutes once"
	@# The pins are complete and have hashes. PyTorch has none, since its builds differ by machine, and may need more.
	@$(PIP) --no-deps --require-hashes --requirement <(grep -v '^torch==' requirements.txt) > $(VENV)/install.log 2>&1 \
	  && $(PIP) $$(grep -o '^torch==[^ ;]*' requirements.txt) >> $(VENV)/install.log 2>&1 \
	  || { echo "make: pip could not install; is the network up? The end of $(VENV)/install.log:"; tail -3 $(VENV)/install.log; exit 1; }
	@$(PIP) --no-deps --editable . >> $(VENV)/install.log 2>&1 \
	  || { echo "make: the package itself could not be installed; the end of $(VENV)/install.log:"; tail -3 $(VENV)/install.log; exit 1; }
	@if command -v npm > /dev/null; then \
	  npm ci --prefix tests/typescript --no-audit --no-fund --ignore-scripts --fetch-retries=0 --fetch-timeout=20000 \
	    >> $(VENV)/install.log 2>&1 || echo "make: npm is offline, the TypeScript test will be skipped; later, run npm ci --prefix tests/typescript"; fi
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >> $(VENV)/install.log 2>&1 || true  # pip compiles on one core
	@touch $@

run: install  ## run the whole loop on this machine until Ctrl-C; ONCE=1 stops when the loop has closed
	@exec $(BIN)/python -W ignore -m recsys_tasks.stack $(if $(ONCE),--once) $(if $(WORKERS),--workers $(WORKERS))

airflow: install  ## Airflow's command on the stack of make run: make airflow ARGS="dags list"
	@$(BIN)/python -W ignore -m recsys_tasks.stack.tools airflow $(ARGS)

psql: install  ## psql on the warehouse of make run: make psql ARGS="-c 'select count(*) from events'"
	@$(BIN)/python -W ignore -m recsys_tasks.stack.tools psql $(ARGS)

check: install  ## format, lint, types, SQL style and documentation links: under a minute
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target $(CHECKS)

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

sql: $(VENV)/.sql-checked

# sqlfluff has no cache of its own: only files that changed since the last success are linted.
$(VENV)/.sql-checked: $(SQL) pyproject.toml | install
	$(BIN)/sqlfluff lint --processes 2 --disable-progress-bar --nocolor $(if $(filter pyproject.toml,$?),sql,$?)
	@touch $@

docs-check: install
	@# With --quiet, mkdocs would not fail on broken links.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .site 2>&1 | grep -vE '^INFO'; exit $${PIPESTATUS[0]}

pictures: install browser  ## take the pictures of the docs from the running stack
	@$(BIN)/python -W ignore -m tests.pages.pictures

docs: install  ## build the documentation site into .site, with diagrams (needs npm)
	@mkdir -p docs/assets && cd docs/assets && npm pack --silent mermaid@11 > /dev/null \
	  && tar -xzf mermaid-11*.tgz package/dist/mermaid.min.js && mv package/dist/mermaid.min.js . && rm -rf package mermaid-11*.tgz
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .site && echo "Open .site/index.html"

unit: install  ## unit tests: under 90 seconds
	$(BIN)/pytest --numprocesses 2 tests/unit

browser:  ## install Chromium for the browser tests (Debian), if it is missing
	@command -v chromium chromium-browser google-chrome > /dev/null \
	  || { echo "Installing Chromium for the browser tests"; \
	       as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); $$as_root apt-get update -qq; \
	       $$as_root apt-get install -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; } \
	  || { echo "make: Chromium could not be installed. Install it and run make test again"; exit 1; }

test: install browser  ## all checks and tests, on real PostgreSQL, MLflow, Airflow and Chromium
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target resolve $(CHECKS)
	$(PYTEST) --ignore tests/scale

test-scale: install  ## the tests on several hosts: Celery workers, Redis and an S3 server
	@command -v redis-server > /dev/null \
	  || { echo "Installing Redis for the tests"; \
	       as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); $$as_root apt-get update -qq; \
	       $$as_root apt-get install -qq --no-install-recommends redis-server > /dev/null; } \
	  || { echo "make: Redis could not be installed. Install it and run make test-scale again"; exit 1; }
	$(BIN)/pytest tests/scale

resolve: install  ## check that the requirements resolve for every supported Python
	@for version in $(PYTHONS); do \
	  $(BIN)/uv pip compile --quiet --all-extras --python-version $$version --constraints requirements.txt pyproject.toml > /dev/null \
	    && echo "The requirements resolve for Python $$version" || exit 1; \
	done

lock:  ## compile requirements.txt from pyproject.toml, keeping its pins; UPGRADE=1 takes the newest versions
	python3 -m venv .lock && .lock/bin/pip install --quiet uv
	.lock/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --quiet $(if $(UPGRADE),--upgrade) --custom-compile-command 'make lock' --output-file requirements.txt
	@# pip may install any build of PyTorch's release, so that its pin has no hash.
	awk '/^[^ ]/ { torch = /^torch==/ } torch && /^ / { next } torch { sub(/ \\$$/, "") } { print }' requirements.txt \
	  > requirements.new && mv requirements.new requirements.txt; rm -rf .lock
