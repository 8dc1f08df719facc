# Two commands: `make segment` runs the main job, `make test` the whole suite. Each makes .venv if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MALLOC_TRIM_THRESHOLD_ = 8589934592
export MALLOC_TOP_PAD_ = 536870912
export MALLOC_MMAP_THRESHOLD_ = 4294967296

.PHONY: segment test lint clean

segment: $(VENV)/.run
	$(BIN)/hgisam segment sample_volumes -o out/demo

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

# torch first and pinned: an unpinned one may bring gigabytes of CUDA packages that a CPU machine cannot use.
$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,codecs]'
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
