# make demo | make demo-all | make test | make up | make lint | make lock

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
# compiled modules are kept: importing torch and MLflow from source takes half a minute
export PYTHONDONTWRITEBYTECODE :=

export PYTEST_ADDOPTS
.PHONY: demo demo-all test test-slow up lint lock install clean

demo: install
	@$(BIN)/ssl-pipeline demo

demo-all: install
	@$(BIN)/ssl-pipeline demo --all

up: install
	@$(BIN)/ssl-pipeline up

test: install
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: install
	@$(BIN)/python -m pytest -m slow -n 2 --dist loadfile # much of it waits for servers

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/dg check yaml
	@$(BIN)/dg check defs

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo "error: $(PYTHON) is not Python 3.11 or 3.12: install one, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing into .venv (the first time, several gigabytes)"
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) cannot make a .venv: apt install python3-venv" >&2; rm -rf .venv; exit 1; }
	@$(BIN)/python -m pip install --quiet "uv>=0.9"
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock:
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra robustness --extra export --extra shared --extra bench --extra test --extra tensorflow --group demo --universal --python-version 3.11 --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv
