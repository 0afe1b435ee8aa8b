# Two commands do everything: `make demo` and `make test`. Both set up .venv where it is absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make bench` measures: a few minutes of it; `make bench SUITES=` measures everything.
SUITES ?= encoder_inference features embedding startup metrics score as_norm
INSTALLED := $(VENV)/.installed

.PHONY: demo test slow lint format bench clean

demo: $(INSTALLED)
	$(BIN)/speakerverif demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python tools/bench.py $(SUITES)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache
