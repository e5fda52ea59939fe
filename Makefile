# Everything runs in .venv, which is made on first use. PYTHON may name another interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UNIFASHION = $(abspath $(BIN))/unifashion
STAMP := $(VENV)/.installed
OUT ?= demo
# of `make paper-smoke`
SMOKE ?= paper-smoke
# versions that the tests ran with; LOCK= (empty) takes the newest that setup.cfg allows
LOCK ?= requirements.lock
PINNED = $(if $(LOCK),--constraint $(LOCK),)
# of the inputs of `make fuzz`
SEED ?= 0
# a test process per core; files stay together, because they share what they train
SPREAD := -n auto --maxprocesses 8 --dist loadfile

# a comma, inside of what functions are called with
, := ,

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test test-all fuzz bench paper-smoke docs lint type format wheel tiny clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the package with its development tools, in the versions of requirements.lock

$(STAMP): setup.cfg pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip $(PINNED)
	$(BIN)/python -m pip install --quiet -e '.[dev]' $(PINNED) $(if $(LOCK),--build-constraint $(LOCK),)
	@touch $@

lock: setup  ## renew requirements.lock: the newest versions that setup.cfg allows, for every Python and system
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip compile setup.cfg --extra dev --extra docs --extra notebooks --universal --python-version 3.10 --upgrade --no-annotate \
	  --custom-compile-command "make lock" --quiet --output-file requirements.lock
	@echo "Now: make test-all"

# what a newcomer waits for: which stage it is, and how long it has been; bars within a stage say how much is left of it
said = @echo "== $(1), after $$(( $$(date +%s) - $$(cat $(OUT)/.begun) )) s"

demo: setup  ## wardrobe -> shards -> phase 1 -> phase 2 -> test, the shipped model's try-on -> demo/report.html
	@mkdir -p $(OUT) && date +%s > $(OUT)/.begun
	$(call said,1 of 5: draw the toy wardrobe$(,) train phase 1 (search$(,) captions$(,) painting))
	@cd $(OUT) && $(UNIFASHION) fit --config phase1.yaml
	$(call said,2 of 5: train phase 2 (a photo and what should be different))
	@cd $(OUT) && $(UNIFASHION) fit --config phase2.yaml
	$(call said,3 of 5: test it on garments that it has not seen)
	@cd $(OUT) && $(UNIFASHION) test --config phase2.yaml --ckpt_path runs/phase2/checkpoints/last.ckpt
	$(call said,4 of 5: try-on by the shipped model)
	@cd $(OUT) && $(UNIFASHION) test --config tryon.yaml --data.size demo --data.pairs false
	$(call said,5 of 5: the report)
	@cd $(OUT) && $(UNIFASHION) report runs --out report.html
	$(call said,done) && rm $(OUT)/.begun
	@echo "Look at it: $(OUT)/report.html"
	@cd $(OUT); if [ -t 0 ] && [ -t 1 ]; then \
	  printf 'Try the model in a browser now? [y/N] '; read -r answer; case "$$answer" in [yY]*) $(UNIFASHION) demo --browser || true;; esac; \
	else echo "Try the model in a browser: cd $(OUT) && $(UNIFASHION) demo"; fi

test: setup  ## quick tests, offline
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: setup  ## all tests, the slow ones too
	$(BIN)/python -m pytest $(SPREAD)

fuzz: setup  ## 20,000 damaged and hostile inputs to everything that reads files (under 15 minutes); failing ones are kept in fuzz-failures
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --seed $(SEED)

bench: setup  ## measure every goal of benchmarks/README.md beside its peer (a quarter of an hour); WRITE=1 renews the table there
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py $(if $(WRITE),--write,)

paper-smoke: setup  ## every stage of the paper at its true size, a step each, from imported random weights: CPU with 24 GB, 60 GB of disk
	PYTHONPATH=tests $(BIN)/python benchmarks/paper_smoke.py --out $(SMOKE)

docs: setup  ## the site of docs/ into site/, strictly: every link and anchor checked, addresses outside listed in site/outside.txt
	$(BIN)/python -m pip install --quiet -e '.[docs]' $(PINNED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff put things in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: setup  ## mypy, strict on the library and the fuzzer
	$(BIN)/mypy
	MYPYPATH=tests $(BIN)/mypy --package fuzz

wheel: setup  ## dist/*.whl
	$(BIN)/python -m build --wheel

tiny: setup  ## train checkpoints/tiny anew (see checkpoints/README.md)
	$(BIN)/python checkpoints/train_tiny.py

clean:  ## remove what was built, not .venv
	rm -rf build dist site src/*.egg-info demo paper-smoke fuzz-failures .hypothesis .pytest_cache .mypy_cache .ruff_cache
