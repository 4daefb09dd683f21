.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo,postgres,onnx]'
	touch $(READY)

.PHONY: install
install: $(READY)  ## Make .venv with everything in it

.PHONY: demo
demo: $(READY)  ## Start the service, evaluate a checkpoint on digits, leave it running
	$(BIN)/python examples/demo.py

.PHONY: serve
serve: $(READY)  ## Start the service on 127.0.0.1:8000
	$(BIN)/holdout serve

.PHONY: test
test: $(READY)  ## Run the test suite
	$(BIN)/pytest -n 2 --dist loadfile

.PHONY: soak
soak: $(READY)  ## Run the suites that take minutes
	$(BIN)/pytest -m slow --timeout 1800

.PHONY: bench
bench: $(READY)  ## Measure, beside peers and limits
	$(BIN)/pytest -m benchmark -s --timeout 1800 tests/benchmarks

.PHONY: check
check: $(READY)  ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
