# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 and make are all they need.
PYTHON ?= python3.11
BIN := .venv/bin
SOURCES := $(shell find edgekit server clients neuromorphic privacy devices -type f -not -name '*.pyc') pyproject.toml

PYTEST := $(BIN)/pytest --durations=20
# A file's tests stay with one worker, a federation of real processes is a group of its own (tests/conftest.py).
WORKERS := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-devices test-long lint docs bench clean

demo: .venv/installed
	$(BIN)/edgekit run

test: .venv/installed
	$(PYTEST) $(WORKERS) -m "not device and not long" $(ARGS)

# One after the other: browsers and emulated boards show what they do in real time. In two workers it takes two thirds of
# the time on a quiet machine, and some fail on a busy one.
test-devices: .venv/installed
	./tests/devices/install.sh
	$(PYTEST) -m "device and not long" $(ARGS)

# What takes too long for every change, all of it or a tenth: make test-long SLICE=3
test-long: .venv/installed
	$(PYTEST) $(WORKERS) -m long $(if $(SLICE),--slice $(SLICE)) $(ARGS)

# The last two look at the installed package, so they must not find the folder of the same name.
lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .venv && bin/lint-imports --config ../pyproject.toml --no-cache
	cd .venv && bin/mypy --config-file ../pyproject.toml -p edgekit

docs: .venv/installed
	$(BIN)/mkdocs build --quiet
	@echo build/site/index.html

bench: .venv/installed
	$(BIN)/python benchmarks/simulation.py
	$(BIN)/python benchmarks/trainers.py
	$(BIN)/python benchmarks/example.py
	$(BIN)/python benchmarks/tflite.py
	$(BIN)/edgekit spike setup-lava
	$(BIN)/python benchmarks/emulator.py
	$(BIN)/python benchmarks/spiking.py
	$(BIN)/python benchmarks/deployment.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/phones.py
	$(BIN)/python benchmarks/split.py
	$(BIN)/python benchmarks/parties.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/endurance.py
	$(BIN)/python benchmarks/zoo.py
	$(BIN)/python benchmarks/foreign.py
	$(BIN)/python benchmarks/compression.py

clean:
	rm -rf .venv build *.egg-info

# Everything that edgekit stands on, at the versions of constraints.txt; remade when those change.
.venv/packages: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "setuptools>=77,<81" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[all,trackers,dev]"
	touch $@

# edgekit itself, as the wheel that users get; tests and type checks run against it.
.venv/installed: .venv/packages $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	rm -rf build
	touch $@
