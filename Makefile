# Two commands do everything: `make demo` and `make test`. Both set up .venv where it is absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make bench` measures: a few minutes of it; `make bench SUITES=` measures everything.
SUITES ?= encoder_inference features embedding default_model startup metrics score as_norm
INSTALLED := $(VENV)/.installed

# For `make default-model`: the folder of the two corpora, the folder to write to, the models to join, one core for each.
DATA ?= ../shared/corpora
OUT ?= out/default
MEMBERS := disturbed clean plain
TRAINED := $(MEMBERS:%=train-%)

.PHONY: fuzz hostile faults demo test test-isa coverage slow lint format bench default-model $(TRAINED) clean

demo: $(INSTALLED)
	$(BIN)/speakerverif demo

# Each test file runs in one process; there are as many processes as cores.
PARALLEL := -n auto --dist loadfile

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

# The tests with the share of lines and branches that they run.
coverage: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term

# The numerical tests with the vector instructions that the processor has, with AVX2 and with SSE4 alone.
NUMERICAL := tests/audio tests/models tests/heads tests/scoring tests/evaluation tests/exchange tests/inference \
  tests/training tests/demos tests/recipes tests/test_default_model.py
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
SSE4 := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41

test-isa: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL) $(NUMERICAL)
	$(AVX2) $(BIN)/python -m pytest $(PARALLEL) $(NUMERICAL)
	$(SSE4) $(BIN)/python -m pytest $(PARALLEL) $(NUMERICAL)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Damaged recordings, lists, tables, models, recipes and stores for their readers: MINUTES in all, of the GROUPS (none: all).
MINUTES ?= 60
fuzz: $(INSTALLED)
	$(BIN)/python tools/fuzz.py $(GROUPS) --minutes $(MINUTES)

# 2,000 bad inputs through every command; some minutes.
hostile: $(INSTALLED)
	$(BIN)/python tools/hostile.py --count 2000

# Kills long-running commands at random moments, KILLS each, and compares their ends with undisturbed runs.
KILLS ?= 50
faults: $(INSTALLED)
	$(BIN)/python tools/faults.py --kills $(KILLS)

bench: $(INSTALLED)
	$(BIN)/python tools/bench.py $(SUITES)

$(TRAINED): train-%: $(INSTALLED)
	$(BIN)/speakerverif run recipes/default/$*.toml --data $(DATA) --out $(OUT)/$* --stages prepare,train --threads 1

default-model: $(TRAINED)
	$(BIN)/python tools/join_models.py recipes/default/joined.toml $(MEMBERS:%=$(OUT)/%/model) \
	  --manifest $(OUT)/$(firstword $(MEMBERS))/data/train.tsv --out $(OUT)/joined
	$(BIN)/python tools/split_speakers.py $(DATA)/speechocean762/dev/trials.txt $(DATA)/speechocean762/dev/trials_hard.txt \
	  --alike $(DATA)/speechocean762/dev/spk2gender $(DATA)/speechocean762/dev/spk2age --out $(OUT)/parts
	$(BIN)/python tools/pack_model.py $(OUT)/joined --train $(OUT)/$(firstword $(MEMBERS))/data/train.tsv \
	  --calibrate-on $(OUT)/parts/calibrate/trials.txt --audio-root $(DATA)/speechocean762 --out $(OUT)/model --json $(OUT)/pack.json

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

clean:
	rm -rf demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache
