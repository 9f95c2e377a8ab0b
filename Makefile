# Two commands: `make run` (the main job) and `make test`. Both set up what is missing first, and only that.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Every stage is a process of its own, and would compile the project anew each time: a tenth of a small stage's time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-fast test-nightly check setup clean
run: $(READY)
	$(BIN)/homegrown run

test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadgroup

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not nightly"

test-nightly: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadgroup -m nightly

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# A torch that is already in the environment (a GPU build, say) is kept: only then is its pin left out.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c "import torch" 2>/dev/null; then grep -v "^torch==" constraints.txt; else cat constraints.txt; fi > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable ".[dev]"
	$(BIN)/python -m flows.databases .
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
