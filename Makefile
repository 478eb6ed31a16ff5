# make demo     the whole loop on digits, in minutes
# make test     lint, types, import rules, tests
# make quick    lint, types and the fastest tests of every file, in under a minute
# make numeric  the tests of numbers again, under two other kernels of OpenBLAS
# make bench    every speed as a ratio to what bounds it; fails below 0.9 of benchmarks/floors.toml
# make docs     the site of the pages and the API, in build/docs
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Processes that share the test files.
WORKERS ?= 2
# Files in the order in which they are collected: the longest first (tests/conftest.py).
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

NUMERIC := tests/extract/measures tests/analysis/blocks tests/analysis/pairs tests/analysis/classes tests/analysis/neighbours

.PHONY: demo test quick fastest numeric bench docs lint clean

demo: $(VENV)/installed
	$(BIN)/alike demo

test: lint
	$(BIN)/pytest $(SIDE_BY_SIDE)

# Side by side: types take one core meanwhile.
quick: $(VENV)/installed
	$(MAKE) -j2 lint fastest

fastest:
	$(BIN)/pytest --quick

# Nehalem runs on every x86-64 processor, Haswell on those with AVX2.
numeric: $(VENV)/installed
	OPENBLAS_CORETYPE=Nehalem $(BIN)/pytest $(SIDE_BY_SIDE) $(NUMERIC)
	if grep -q avx2 /proc/cpuinfo; then OPENBLAS_CORETYPE=Haswell $(BIN)/pytest $(SIDE_BY_SIDE) $(NUMERIC); fi

# BENCH=--write makes the ratios of this processor the floors; BENCH='pairs store' runs some parts.
bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.bench $(BENCH)

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
