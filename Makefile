# make demo | make test | make check: each does all the set-up it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
STAMP  := $(VENV)/.installed
FUZZ   := $(VENV)/.installed-fuzz

.PHONY: demo test test-fast test-long check format bench bench-packages clean packages

demo: $(STAMP)
	$(BIN)/shipway demo

test: $(STAMP) packages
	$(PYTEST)

# What takes no more than a second or two each; three minutes in all.
test-fast: $(STAMP)
	$(PYTEST) -m "not slow" -q

# What takes minutes: hundreds of crashes, faults injected, readers fuzzed.
test-long: $(FUZZ) packages
	$(BIN)/python -m pytest -m long -rP

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

# Options in BENCH: make bench BENCH='--quick --json out.json'
bench: $(STAMP)
	$(BIN)/python -m bench $(BENCH)
	$(BIN)/python -m bench.moved $(if $(findstring --quick,$(BENCH)),--files 3000 --size 100000000)

# What Shipway is compared with; names of what is missing appear in the report.
bench-packages:
	@sh bench/install-packages.sh

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(FUZZ): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,fuzz]'
	@touch $@

# The real programs that the tests run against; without root they are used if present.
packages:
	@sh tests/install-packages.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
