# Every target makes what it needs, from a checkout with Python >= 3.11 and make. `make` lists the targets.

EVERYTHING := $(if $(filter undefined,$(origin AIRFLOW)),yes)
AIRFLOW ?= 3.3
ARGS ?=
AGAIN ?=
PYTHON ?=
export PYTHON
# Anything: the lowest versions that pyproject.toml allows, for tests that need no Airflow.
LOWEST ?=
export LOWEST

ifeq ($(filter $(AIRFLOW),3.3 2.11 none),)
$(error AIRFLOW=$(AIRFLOW) is not supported: use AIRFLOW=3.3 or AIRFLOW=2.11, or AIRFLOW=none for tests that need no Airflow)
endif

# An interpreter named by PYTHON= has environments of its own.
ON := $(if $(PYTHON),-python$(shell $(PYTHON) -c "import platform; print(platform.python_version())" 2>/dev/null))$(if $(LOWEST),-lowest)
TEST_ENV ?= .venv/airflow-$(AIRFLOW)$(ON)
LINT_ENV ?= .venv/lint$(ON)
DOCS_ENV ?= .venv/docs$(ON)
RUN = AIRFLOW_HOME=$(abspath $(TEST_ENV)/home) $(TEST_ENV)/bin/python
PYTEST ?= -m pytest

# Suites that touch no Airflow run once, where it is not installed. Every other suite runs on each Airflow.
WITHOUT_AIRFLOW = tests/cli tests/client tests/conformance tests/devnode tests/fuzz tests/harness tests/testing tests/test_package.py
ON_AIRFLOW = $(filter-out $(WITHOUT_AIRFLOW),$(sort $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py))) $(wildcard tests/test_*.py)))
SUITES = $(if $(filter none,$(AIRFLOW)),$(WITHOUT_AIRFLOW),$(ON_AIRFLOW))
# Much of what runs without Airflow waits for a timeout to pass.
WORKERS = $(if $(filter none,$(AIRFLOW)),4,2)
PARALLEL = -n $(WORKERS) --dist loadscope --no-loadscope-reorder
# Tests that ARGS name by path run without other workers, each of them in the environment of Airflow.
PATHS = $(filter tests%,$(ARGS))
# What is tested on each Python that is supported beside the oldest.
SMOKE = tests/client/test_like_qclient.py tests/client/test_over_servers.py tests/client/test_ring.py \
	tests/conformance/test_csv_json.py tests/conformance/test_differences.py tests/devnode/test_node.py tests/devnode/test_store.py tests/test_package.py

.PHONY: help test smoke lint format docs pictures demo ui cluster bench conformance fuzz coverage mutation guided real-server constraints floors drivers wheel audit release-check release clean

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-15s%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

test:  ## Run all tests, on Airflow 3.3. AIRFLOW=2.11: those that depend on it; ARGS="-k ring": arguments for pytest.
ifeq ($(EVERYTHING)$(PATHS),yes)
test:
	@$(MAKE) --no-print-directory test AIRFLOW=none && first=0 || first=1; \
		$(MAKE) --no-print-directory test AIRFLOW=3.3 && exit $$first
else
# With ARGS a part may have no test to run, which pytest calls 5. It calls 1 that tests failed: with AGAIN those run once more, one
# after the other, since on a busy machine a test that waits for another process may fail. CI lists them, for somebody to mend.
test: $(TEST_ENV)/ready
	@scripts/setup.sh real-server optional
	@cat $(TEST_ENV)/ready
	@$(RUN) $(PYTEST) $(if $(PATHS),,$(PARALLEL) -o testpaths="$(SUITES)") $(ARGS) $(if $(PATHS),,$(if $(ARGS),|| test $$? = 5)) \
		$(if $(ARGS),,$(if $(AGAIN),|| { test $$? = 1 && cp .pytest_cache/v/cache/lastfailed $(TEST_ENV)/failed-once \
		&& $(RUN) $(PYTEST) -n0 -o testpaths="$(SUITES)" --last-failed --last-failed-no-failures none; }))
endif

smoke:  ## Run a small part of the tests, without Airflow. PYTHON=/path/to/python3.13: on that interpreter; LOWEST=yes: on the floors.
	@$(MAKE) --no-print-directory test AIRFLOW=none ARGS="$(PARALLEL) $(SMOKE) $(ARGS)"

lint: $(LINT_ENV)/ready  ## Check style (ruff), types (mypy), imports (import-linter) and known weaknesses (bandit).
	@$(LINT_ENV)/bin/ruff check --output-format concise
	@$(LINT_ENV)/bin/ruff format --check --output-format concise
	@$(LINT_ENV)/bin/mypy
	@$(LINT_ENV)/bin/mypy scripts
	@$(LINT_ENV)/bin/lint-imports --no-cache >$(LINT_ENV)/imports.log || { cat $(LINT_ENV)/imports.log; exit 1; }
	@$(LINT_ENV)/bin/bandit -q -c pyproject.toml -r airflow_provider_qcache 2>$(LINT_ENV)/bandit.log \
		|| { cat $(LINT_ENV)/bandit.log; exit 1; }

format: $(LINT_ENV)/ready  ## Mend what ruff can mend by itself.
	@$(LINT_ENV)/bin/ruff check --fix
	@$(LINT_ENV)/bin/ruff format

docs: $(DOCS_ENV)/ready  ## Build the site in build/docs; a warning or a broken link is an error.
	@$(DOCS_ENV)/bin/python -m sphinx -q -W --keep-going -n -E -b html docs build/docs
	@echo "The site: build/docs/index.html"

pictures: $(TEST_ENV)/ready  ## Make the pictures of the docs anew, in Chromium.
	@QCACHE_PICTURES=docs/images $(RUN) -m pytest -n 0 tests/browser -k picture $(ARGS)

demo: $(TEST_ENV)/ready  ## Show DAGs at work on a year of flights: load, warm, query, lose a node, invalidate.
	@$(RUN) scripts/demo.py

ui: $(TEST_ENV)/ready  ## Show Airflow's pages with three dev nodes, the connection and the example DAGs, until Ctrl-C.
	@$(RUN) scripts/ui.py

cluster: .venv/airflow-3.3/ready  ## Show Airflow scaled out, until Ctrl-C: CeleryExecutor, two workers, Redis, PostgreSQL.
	@$(RUN) scripts/cluster.py

bench: $(TEST_ENV)/ready real-server  ## Measure the client, tables and the dev node beside what else does the same. ARGS=client: one of them.
	@$(RUN) -m benchmarks $(ARGS)

conformance: $(TEST_ENV)/ready real-server  ## Compare the dev node with the real server on 10,000 generated cases.
	@QCACHE_CONFORMANCE_CASES=10000 $(RUN) -m pytest tests/conformance $(ARGS)

fuzz: $(TEST_ENV)/ready  ## Run the fuzzers until Ctrl-C. ARGS="files --minutes 5": some of them, for some time.
	@scripts/setup.sh real-server optional
	@$(RUN) -m tests.fuzz $(ARGS)

# By branch, in every process that the tests start. AIRFLOW=none leaves out what needs Airflow.
OTHERS = --omit="airflow_provider_qcache/client/*,airflow_provider_qcache/devnode/*"
coverage:  ## Measure which branches the tests run, and fail below 99 % of the client, 95 % of the rest. AIRFLOW=none: without Airflow.
	@$(MAKE) --no-print-directory AIRFLOW=none .venv/airflow-none$(ON)/coverage
	@rm -rf .venv/coverage && mkdir -p .venv/coverage
	@$(MAKE) --no-print-directory test AIRFLOW=none AGAIN= PYTEST="-m coverage run -m pytest"
ifneq ($(AIRFLOW),none)
	@$(MAKE) --no-print-directory AIRFLOW=3.3 .venv/airflow-3.3$(ON)/coverage
	@$(MAKE) --no-print-directory test AIRFLOW=3.3 AGAIN= PYTEST="-m coverage run -m pytest"
endif
	@.venv/airflow-none$(ON)/bin/python -m coverage combine -q
ifneq ($(AIRFLOW),none)
	@.venv/airflow-none$(ON)/bin/python -m coverage report $(OTHERS) --fail-under=95
endif
	@.venv/airflow-none$(ON)/bin/python -m coverage report --include="airflow_provider_qcache/devnode/*"
	@.venv/airflow-none$(ON)/bin/python -m coverage report --include="airflow_provider_qcache/client/*" --fail-under=99

mutation:  ## Change the client's logic in small ways, and see its tests fail. ARGS="ring outcome": some modules.
	@$(MAKE) --no-print-directory AIRFLOW=none .venv/airflow-none$(ON)/mutation
	@AIRFLOW_HOME=$(abspath .venv/airflow-none$(ON))/home .venv/airflow-none$(ON)/bin/python scripts/mutation.py $(ARGS)

guided:  ## Fuzz the parsers of bytes from outside, guided by the branches they reach. ARGS="--minutes 60": so long.
	@$(MAKE) --no-print-directory AIRFLOW=none .venv/airflow-none$(ON)/guided
	@.venv/airflow-none$(ON)/bin/python -m tests.fuzz.guided $(ARGS)

real-server:  ## Install the real QCache on Python 2.7, in the user's cache directory.
	@scripts/setup.sh real-server

constraints:  ## Renew the constraints files with the newest versions on which the checks pass.
	@scripts/setup.sh constraints

floors:  ## Try each lowest version of pyproject.toml with the newest of the rest. ARGS=lz4==4.4.3: one of them.
	@scripts/setup.sh floors $(ARGS)

drivers:  ## Read queries by the drivers of Snowflake, Databricks and BigQuery, from servers on loopback that answer as those do.
	@scripts/setup.sh drivers

# The releases of Airflow that the suite does not run on; RELEASES="2.11 3.3" tries the wheel on those too.
RELEASES ?= 3.0 3.1 3.2
# Those of them on which a triggerer runs too.
TRIGGERER ?= $(RELEASES)
wheel: .venv/lint/ready  ## Build the package, and try its wheel on the releases of Airflow that RELEASES names.
	@TRIGGERER="$(TRIGGERER)" scripts/setup.sh wheel $(RELEASES)

audit: .venv/airflow-3.3/ready .venv/lint/ready  ## Look for known weaknesses of the pinned versions, or list what is newer.
	@scripts/setup.sh audit .venv/airflow-3.3 .venv/lint

release-check:  ## What only a release needs; it takes hours, and keeps its output in .venv/release-check. ARGS="wheel floors": a part.
	@scripts/release_check.sh $(ARGS)

VERSION ?=
release: $(TEST_ENV)/ready  ## Make the release that VERSION names, without uploading it. ARGS=--dry-run: in a copy.
	@$(RUN) scripts/release.py $(VERSION) $(ARGS)

clean:  ## Remove the environments and everything else that was made in the tree.
	@rm -rf .venv .cache build dist mutants .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(TEST_ENV)/ready: pyproject.toml airflow_provider_qcache/__init__.py constraints/airflow-$(AIRFLOW:none=3.3).txt constraints/tools.txt
	@scripts/setup.sh airflow $(AIRFLOW) $(TEST_ENV)

# What measures the tests is added to an environment of theirs.
$(addprefix $(TEST_ENV)/,coverage guided mutation): $(TEST_ENV)/ready constraints/measure.txt
	@scripts/setup.sh measure $(@F) $(TEST_ENV)

$(DOCS_ENV)/ready: pyproject.toml constraints/docs.txt constraints/tools.txt
	@scripts/setup.sh docs $(DOCS_ENV)

$(LINT_ENV)/ready: pyproject.toml constraints/lint.txt constraints/tools.txt
	@scripts/setup.sh lint $(LINT_ENV)
