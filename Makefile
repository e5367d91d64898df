# Two commands for people who have just arrived: `make demo` and `make test`.
# Both set up everything they need in .venv, from pinned and hashed versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

.PHONY: demo test docs format lock slow clean

demo: $(VENV)/demo.stamp
	$(BIN)/python tools/demo.py

test: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

docs: $(VENV)/dev.stamp  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

slow: $(VENV)/dev.stamp  ## the long forms of the tests
	$(BIN)/pytest -m slow

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The development environment holds all that the demo needs, so it serves for both.
$(VENV)/demo.stamp: requirements/demo.lock pyproject.toml | $(UV)
	test -e $(VENV)/dev.stamp || $(UV) pip install --quiet --require-hashes -r requirements/demo.lock
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml | $(UV)
	$(UV) pip install --quiet --require-hashes -r requirements/dev.lock
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

$(UV): requirements/uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mnerfeat needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock

COMPILE := uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11

lock:  ## choose the newest versions anew (needs uv)
	$(COMPILE) --upgrade --extra dev -o requirements/dev.lock
	$(COMPILE) --extra extract --constraint requirements/dev.lock -o requirements/demo.lock
	echo uv | uv pip compile - --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade -o requirements/uv.lock

clean:
	rm -rf $(VENV) demo dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
