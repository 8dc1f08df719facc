# Two commands: `make segment` runs the main job, `make test` the whole suite. Each makes .venv if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MALLOC_TRIM_THRESHOLD_ = 8589934592
export MALLOC_TOP_PAD_ = 536870912
export MALLOC_MMAP_THRESHOLD_ = 4294967296

.PHONY: segment test lint audit fuzz clean

segment: $(VENV)/.run
	$(BIN)/hgisam segment sample_volumes -o out/demo

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

# bandit reads the code; pip-audit asks pypi.org which pinned versions have known holes. It needs the network, and what it
# could not ask about counts as a failure, not as clean.
audit: $(VENV)/.audit
	$(BIN)/bandit --quiet -c pyproject.toml -r hgisam tools
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --no-deps -r constraints.txt

# Without the settings of malloc above: memory that is kept for later would hide what a file takes.
fuzz: $(VENV)/.fuzz
	env -u MALLOC_TRIM_THRESHOLD_ -u MALLOC_TOP_PAD_ -u MALLOC_MMAP_THRESHOLD_ $(BIN)/python tools/fuzz_inputs.py --minutes 30 -o out/fuzz

# constraints.txt pins versions, not builds: on Linux PyPI's torch brings gigabytes of CUDA packages, and README says how to
# get the CPU build. A .venv without pip is one that was left half made: Debian's Python makes no other without python3-venv.
$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	    { echo "expected '$(PYTHON) -m venv' to work; on Debian and Ubuntu: apt install python3-venv; then make again" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,codecs]'
	touch $@

$(VENV)/.audit: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz,codecs]'
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
