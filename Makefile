# The two commands of the README. Each makes its own environment in .venv; the package is installed there as a link to
# this folder, so that it is never older than the files.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
OUTPUT ?= demo-output

.PHONY: demo test lint types clean

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

# Anonymize the sample images with the bundled networks; everything it makes lies in $(OUTPUT).
demo: $(VENV)/.runtime
	$(BIN)/faceanon-engine anonymize demo/samples $(OUTPUT)
	$(BIN)/faceanon-engine status $(OUTPUT)
	@echo
	@echo "The results:                      $(OUTPUT)/release/"
	@echo "Originals beside their stand-ins: $(OUTPUT)/private/contact-sheet.png"
	@echo "What happened to every image:     $(OUTPUT)/private/manifest.sqlite"

# Everything that CI runs.
test: lint types
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy -p faceanon_engine

clean:
	rm -rf $(VENV) $(OUTPUT) build *.egg-info
