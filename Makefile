# Everything runs in .venv, which is made on first use. PYTHON may name another interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNIFASHION = $(abspath $(BIN))/unifashion
STAMP := $(VENV)/.installed
OUT ?= demo
# a test process per core; files stay together, because they share what they train
SPREAD := -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint type format wheel tiny clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the package with its development tools

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: setup  ## wardrobe -> shards -> phase 1 -> phase 2 -> test, the shipped model's try-on -> demo/report.html
	mkdir -p $(OUT)
	cd $(OUT) && $(UNIFASHION) fit --config phase1.yaml
	cd $(OUT) && $(UNIFASHION) fit --config phase2.yaml
	cd $(OUT) && $(UNIFASHION) test --config phase2.yaml --ckpt_path runs/phase2/checkpoints/last.ckpt
	cd $(OUT) && $(UNIFASHION) test --config tryon.yaml --data.size demo --data.pairs false
	cd $(OUT) && $(UNIFASHION) report runs --out report.html
	@echo "Look at it: $(OUT)/report.html"

test: setup  ## quick tests, offline
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: setup  ## all tests, the slow ones too
	$(BIN)/python -m pytest $(SPREAD)

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff put things in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: setup  ## mypy, strict on the library
	$(BIN)/mypy

wheel: setup  ## dist/*.whl
	$(BIN)/python -m build --wheel

tiny: setup  ## train checkpoints/tiny anew (see checkpoints/README.md)
	$(BIN)/python checkpoints/train_tiny.py

clean:  ## remove what was built, not .venv
	rm -rf build dist src/*.egg-info demo .pytest_cache .mypy_cache .ruff_cache
