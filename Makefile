# The two commands of the README. Each makes its own environment in .venv, from this folder's files alone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= demo-output

.PHONY: demo test lint types current clean

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[demo,dev]'
	touch $@

# Anonymize the sample images with the bundled networks; everything it makes lies in $(OUTPUT).
demo: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	$(BIN)/faceanon-engine anonymize demo/samples $(OUTPUT)
	$(BIN)/faceanon-engine status $(OUTPUT)
	@echo
	@echo "Originals beside their stand-ins: $(OUTPUT)/contact-sheet.png"
	@echo "What happened to every image:     $(OUTPUT)/manifest.sqlite"

# The package as it would be installed, from the files as they are now: an ordinary install is what mypy can follow.
current: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .

# Everything that CI runs.
test: lint types
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: current
	$(BIN)/mypy -p faceanon_engine

clean:
	rm -rf $(VENV) $(OUTPUT) build *.egg-info
