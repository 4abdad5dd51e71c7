# Every target makes what it needs, from a checkout with Python >= 3.11 and make. `make` lists the targets.

AIRFLOW ?= 3.3
ARGS ?=
PYTHON ?=
export PYTHON

ifeq ($(filter $(AIRFLOW),3.3 2.11),)
$(error AIRFLOW=$(AIRFLOW) is not supported: use AIRFLOW=3.3 or AIRFLOW=2.11)
endif

# An interpreter named by PYTHON= has environments of its own.
ON := $(if $(PYTHON),-python$(shell $(PYTHON) -c "import platform; print(platform.python_version())" 2>/dev/null))
TEST_ENV ?= .venv/airflow-$(AIRFLOW)$(ON)
LINT_ENV ?= .venv/lint$(ON)
RUN = AIRFLOW_HOME=$(abspath $(TEST_ENV)/home) $(TEST_ENV)/bin/python

.PHONY: help test lint format demo bench conformance real-server constraints clean

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-13s%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

test: $(TEST_ENV)/ready  ## Run the tests on Airflow 3.3. AIRFLOW=2.11: on the other; ARGS="-k ring": arguments for pytest.
	@scripts/setup.sh real-server optional
	@cat $(TEST_ENV)/ready
	@$(RUN) -m pytest $(ARGS)

lint: $(LINT_ENV)/ready  ## Check style (ruff) and types (mypy).
	@$(LINT_ENV)/bin/ruff check --output-format concise
	@$(LINT_ENV)/bin/ruff format --check --output-format concise
	@$(LINT_ENV)/bin/mypy

format: $(LINT_ENV)/ready  ## Mend what ruff can mend by itself.
	@$(LINT_ENV)/bin/ruff check --fix
	@$(LINT_ENV)/bin/ruff format

demo: $(TEST_ENV)/ready  ## Show DAGs at work on a year of flights: load, warm, query, lose a node, invalidate.
	@$(RUN) scripts/demo.py

bench: $(TEST_ENV)/ready real-server  ## Compare the dev node's speed with the real server's.
	@$(RUN) -m benchmarks $(ARGS)

conformance: $(TEST_ENV)/ready real-server  ## Compare the dev node with the real server on 10,000 generated cases.
	@QCACHE_CONFORMANCE_CASES=10000 $(RUN) -m pytest tests/conformance $(ARGS)

real-server:  ## Install the real QCache on Python 2.7, in the user's cache directory.
	@scripts/setup.sh real-server

constraints:  ## Renew the constraints files with the newest versions on which the checks pass.
	@scripts/setup.sh constraints

clean:  ## Remove the environments and everything else that was made in the tree.
	@rm -rf .venv .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TEST_ENV)/ready: pyproject.toml airflow_provider_qcache/__init__.py constraints/airflow-$(AIRFLOW).txt constraints/tools.txt
	@scripts/setup.sh airflow $(AIRFLOW) $(TEST_ENV)

$(LINT_ENV)/ready: pyproject.toml constraints/lint.txt constraints/tools.txt
	@scripts/setup.sh lint $(LINT_ENV)
