PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test lint typecheck bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	touch $@

setup: .venv/installed ## make .venv and install the command

demo: setup ## colour a photograph of examples/
	$(BIN)/colorize examples/erie-county-bank-buffalo-1908.jpg --samples 4 --output demo-output --force
	@echo "The pictures are in demo-output/"

test: .venv/installed-dev ## all tests
	$(BIN)/python -m pytest

lint: .venv/installed-dev ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: .venv/installed-dev ## types
	$(BIN)/mypy

bench: setup ## what each stage costs here
	$(BIN)/colorize bench
	$(BIN)/colorize bench --model published -n 1 --repeats 1 --naive

clean:
	rm -rf .venv dist demo-output
