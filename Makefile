.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install run test check lock

help:  ## list what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(STAMP)  ## only the virtual environment with the pinned requirements

$(STAMP): requirements.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "make: Python 3.11 is needed, python3 is $$(python3 --version 2>&1); install it or put it first in PATH"; exit 1; }
	@python3 -m venv $(VENV)
	@echo "Installing the pinned requirements into $(VENV); this takes some minutes once"
	@# The pins are complete, so nothing needs resolving but torch, which asks for more where it comes with CUDA.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement requirements.txt > $(VENV)/install.log 2>&1 \
	  && $(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt) >> $(VENV)/install.log 2>&1 \
	  || { echo "make: pip could not install; is the network up? The end of $(VENV)/install.log:"; tail -3 $(VENV)/install.log; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable . >> $(VENV)/install.log 2>&1 \
	  || { echo "make: the package itself could not be installed; the end of $(VENV)/install.log:"; tail -3 $(VENV)/install.log; exit 1; }
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >> $(VENV)/install.log 2>&1 || true  # start-up reads it, pip makes it slowly
	@touch $@

run: install  ## the whole loop on this machine until Ctrl-C; ONCE=1 stops when it has closed
	@exec $(BIN)/python -W ignore -m recsys_tasks.stack $(if $(ONCE),--once)

check: install  ## format, lint, types and SQL style: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --processes 2 --disable-progress-bar --nocolor sql

test: check  ## all checks and tests, on real PostgreSQL, MLflow and Airflow
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder  # the end-to-end test takes longest: first

lock:  ## write requirements.txt anew from what pyproject.toml resolves to in a fresh environment
	python3 -m venv .lock && .lock/bin/pip install --quiet '.[serving,shared,tracing,pipeline,dev]' \
	  && (sed -n "/^#/p" requirements.txt; .lock/bin/pip freeze --exclude session-recommender | sed "s/+cpu//") > requirements.new \
	  && mv requirements.new requirements.txt; rm -rf .lock
