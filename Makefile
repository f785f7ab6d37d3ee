# All commands for this checkout. They need Python 3.11 or newer with venv, and make.

# The pair of Python and Django: 'make test PYTHON=python3.13 DJANGO=6.1'.
PYTHON ?= python3
DJANGO ?= 5.2

# Each pair has its own environment, which is recreated if the path of the interpreter has changed.
# If this Python does not run, the variable is empty, and requirements/supported.sh reports that.
INTERPRETER := $(shell $(PYTHON) -c 'import os, sys; print("%d.%d" % sys.version_info[:2], \
	os.path.realpath(sys._base_executable))' 2>/dev/null)
VENV := .venvs/python$(firstword $(INTERPRETER))-django$(DJANGO)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements/uv.txt $(wildcard requirements/dev-django-$(DJANGO).txt)
MADE_WITH := $(shell cat $(VENV)/.interpreter 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo run quick test test-admin cov durations test-extra test-pair test-matrix servers servers-scripted attacks guests faults bench bench-quick docs check fix hooks lock release-check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create the environment from the lock files; .venv links to it
	@[ -L .venv ] || rm -rf .venv
	@ln -sfn $(VENV) .venv

# uv takes seconds where pip takes minutes. pip is the fallback if only pip is configured (for a private index).
$(STAMP): $(LOCKS) pyproject.toml $(if $(filter-out $(MADE_WITH),$(INTERPRETER)),FORCE)
	@requirements/supported.sh "$(PYTHON)" "$(DJANGO)"
	@echo "Installing the packages of requirements/ into $(VENV) ..."
	@# A working environment is not cleared, so that programs running in it continue to run.
	@[ "$(MADE_WITH)" = "$(INTERPRETER)" ] && $(BIN)/python -c 'import ssl' 2>/dev/null \
		|| $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(lastword $(LOCKS)) \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(lastword $(LOCKS))
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "$(INTERPRETER)" > $(VENV)/.interpreter
	@[ -e .venv ] || ln -sfn $(VENV) .venv
	@touch $@

.PHONY: FORCE
FORCE:

demo: $(STAMP) ## Send 60 mails through two local servers, switching between them
	$(BIN)/python -m config.local.demo

run: $(STAMP) ## Start all services on loopback to try them; Ctrl-C stops them
	$(BIN)/python -m config.local.run

# 'test' runs all tests on SQLite except those marked 'extra', which are slow and rarely fail. It runs on PostgreSQL
# the tests of statements that differ between databases, and on MariaDB the tests of concurrent writes. 'test-extra'
# adds the tests marked 'extra', the other database tests on PostgreSQL and without USE_TZ, the tests of statements on
# MariaDB and without USE_TZ, the tests that depend on the broker on RabbitMQ, and the fault matrix.
# The matrix runs alone, because its cases have time limits that a busy machine would exceed.
MATRIX := tests/acceptance/test_fault_matrix.py
# What is the same with every database and with every way to store times: octets, texts, the SMTP dialogue, external
# secrets.
SAME_EVERYWHERE := $(addprefix --ignore=tests/integration/test_,connection_test_advice.py fidelity.py local_processes.py \
	memory.py policy.py references.py sandbox.py send_mail_code.py servers_scripted.py smtp_login.py smtp_opening.py \
	smtp_pool.py smtp_replies.py smtp_session.py validate_smtp.py validate_storage.py)
# A million rows take a minute, so this test runs with one database only.
MILLION := --ignore=tests/integration/test_admin_million.py
# The attacks with values that a database may refuse to search or store, and with concurrent requests.
ATTACKS := $(addprefix tests/attacks/test_,02_refresh_tokens.py 03_pages.py 07_login_limit.py 11_input.py)
AT_ONCE := $(addprefix tests/integration/test_,activating_at_once.py admin_decisions.py smtp_config.py transitions.py)
# The tests of statements that differ between databases.
OF_THE_DATABASE := $(addprefix tests/integration/test_,activating_at_once.py admin_decisions.py attempt.py batches.py \
	breaker.py bulk.py content.py continuing.py erasure.py fields.py index_use.py inserting.py manual.py pause.py priorities.py \
	retention.py rotation.py routing.py smtp_config.py smtp_config_history.py submission.py sweeper.py \
	tasks_prepared.py transitions.py transitions_machine.py wake_ups.py) \
	tests/integration/oauth/test_tokens.py
# The tests that kill, freeze, empty and inspect the broker, and in which workers fetch and return messages and end.
OF_THE_BROKER := $(addprefix tests/acceptance/test_,broker.py calling.py canvas.py crash.py priorities.py prepared.py \
	queues.py secrecy.py switch.py task_events.py term.py)
# The order of events does not depend on the database, so other databases get only the shorter test of random orders.
SHORTER := --deselect=tests/integration/test_transitions_machine.py::test_the_promises_hold_for_longer

PYTEST = $(BIN)/python -m pytest
# Most tests wait for processes, replies and timeouts, so two processors can run four test files at the same time. Each
# file runs in one of four processes, which have their own services. AT_A_TIME=0 runs the files one after the other.
AT_A_TIME ?= 4
TOGETHER = $(PYTEST) --numprocesses=$(AT_A_TIME) --dist=loadfile --no-loadscope-reorder
# The cases of the matrix mostly wait, and those of a class share workers, a broker and a database.
BY_CLASS = $(PYTEST) --numprocesses=2 --dist=loadscope

test: $(STAMP) ## Run the tests
	tests/system-packages.sh
	$(TOGETHER) --ignore=$(MATRIX)
	TEST_DATABASE=postgresql $(TOGETHER) -m "django_db and not extra" $(OF_THE_DATABASE)
	TEST_DATABASE=mariadb $(PYTEST) -m "django_db and not extra" $(AT_ONCE)

# Included in 'make test', which runs all files. ONLY="-k keyboard" runs some of them.
ADMIN := $(wildcard tests/integration/test_admin_*.py) tests/browser tests/acceptance/test_dashboard_workers.py \
	$(addprefix tests/integration/test_,delivery_command.py subjects.py)
test-admin: $(STAMP) ## Run the tests of the admin, a part of 'make test'
	tests/system-packages.sh
	$(TOGETHER) $(ADMIN) $(ONLY)

# With the start of their services, these tests take a minute and a half on two processors.
quick: $(STAMP) ## Run a selection of tests that takes 90 seconds, while you work on a change
	$(PYTEST) --quiet --numprocesses=2 --dist=loadfile --no-loadscope-reorder --within 130 $(ONLY)

cov: $(STAMP) ## Run the tests on SQLite, and write the coverage to var/coverage
	tests/system-packages.sh
	$(TOGETHER) --ignore=$(MATRIX) --cov --cov-report=term --cov-report=html:var/coverage $(ONLY)

durations: $(STAMP) ## Measure the durations of the test files, for 'make quick'
	tests/system-packages.sh
	$(TOGETHER) --quiet --ignore=$(MATRIX) --junitxml=var/durations.xml
	$(BIN)/python -m tests.durations var/durations.xml

# LEFT_OUT="--ignore=tests/guests" leaves out some of the slow tests. pytest exits with 5 if it collects no test: there
# may be no slow one.
test-extra: $(STAMP) ## Run the remaining, slow tests
	tests/system-packages.sh
	$(BIN)/python -m tests.servers.installing
	$(TOGETHER) -m extra --ignore=$(MATRIX) $(LEFT_OUT) || [ $$? -eq 5 ]
	TEST_BROKER=rabbitmq $(TOGETHER) -m "" $(OF_THE_BROKER)
	TEST_USE_TZ=false $(TOGETHER) tests/acceptance/test_calling.py
	TEST_USE_TZ=false TEST_DATABASE=postgresql $(TOGETHER) -m django_db $(addprefix --ignore=,$(OF_THE_DATABASE)) \
		$(MILLION) $(SAME_EVERYWHERE) tests/integration $(ATTACKS)
	TEST_DATABASE=postgresql $(TOGETHER) -m "django_db and extra" $(SHORTER) $(OF_THE_DATABASE)
	TEST_USE_TZ=false TEST_DATABASE=mariadb $(TOGETHER) -m django_db $(SHORTER) $(OF_THE_DATABASE)
	$(BY_CLASS) -m "" $(MATRIX)

# The tests that depend on the version of Python or Django. All parts run, even if one of them fails.
PARTS ?= unit integration attacks walks foreign-project django-mail demo
test-pair: $(STAMP) ## Run the tests that depend on the versions; PARTS="unit demo" runs only these parts
	tests/system-packages.sh
	$(MAKE) --no-print-directory --keep-going $(addprefix pair-,$(PARTS))

.PHONY: pair-quick pair-warnings pair-unit pair-integration pair-attacks pair-walks pair-foreign-project pair-django-mail pair-demo
# For CI: as many tests as fit into this time.
pair-quick:
	$(TOGETHER) --within 90

pair-warnings:
	$(PYTEST) tests/acceptance/test_warnings.py

pair-unit:
	$(TOGETHER) tests/unit

# Includes a test that starts the processes, which fail on deprecation warnings.
pair-integration:
	$(TOGETHER) tests/integration tests/acceptance/test_warnings.py

pair-attacks:
	$(TOGETHER) -m "" tests/attacks

pair-walks:
	$(PYTEST) -m extra tests/acceptance/test_walks.py

# Includes the slow tests.
pair-foreign-project:
	$(TOGETHER) -m "" tests/acceptance/test_foreign_project.py tests/acceptance/test_foreign_suite.py

pair-django-mail:
	$(PYTEST) -m "" tests/django_mail

pair-demo:
	$(BIN)/python -m config.local.demo

# The Pythons are python3.11, python3.12 and python3.13 on the PATH.
PAIRS ?= 3.11-5.2 3.12-5.2 3.12-6.0 3.12-6.1 3.13-5.2 3.13-6.0 3.13-6.1
test-matrix: ## Run test-pair on each supported pair of Python and Django; PAIRS="3.13-6.1" runs only this one
	@requirements/supported.sh "$(PYTHON)" 5.2
	$(PYTHON) -m tests.matrix --pairs "$(PAIRS)" --parts "$(PARTS)"

servers-scripted: $(STAMP) ## Send mail to scripted servers that behave in unusual ways, and print the results
	$(PYTEST) --quiet tests/integration/test_servers_scripted.py

servers: $(STAMP) ## Send mail to real servers of other projects, and print the results
	$(BIN)/python -m tests.servers.installing
	$(TOGETHER) --quiet -m extra tests/servers

attacks: $(STAMP) ## Run attacks on secrets and people, and print the results
	$(PYTEST) --quiet -m "" tests/attacks

guests: $(STAMP) ## Use the app in various host projects, and print the results
	tests/system-packages.sh
	$(TOGETHER) --quiet -m extra tests/guests

faults: $(STAMP) ## Cause all faults of the fault matrix, and count the mails
	tests/system-packages.sh
	$(BIN)/python -m tests.faults
	$(PYTEST) --quiet -m "" tests/acceptance/canvas_kills.py
	TEST_BROKER=rabbitmq $(PYTEST) --quiet -m "" tests/acceptance/canvas_kills.py

bench: $(STAMP) ## Measure this project and its alternatives, and write docs/performance.md
	bench/system-packages.sh
	$(BIN)/python -m bench

bench-quick: $(STAMP) ## Measure the most important values in about two minutes
	bench/system-packages.sh
	$(BIN)/python -m bench --quick

docs: $(STAMP) ## Build the documentation as a site in var/docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --doctree-dir var/doctrees docs var/docs
	@echo "$(CURDIR)/var/docs/index.html"

# The checks are about the code: the .env of this machine must not change their results.
check: export DJANGO_SETTINGS_MODULE := tests.settings
check: $(STAMP) ## Check format, lint, types, import contracts, migrations, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/hadolint Dockerfile
	@# Not the script of the package, which exits with 0 on an invalid file.
	"$$($(BIN)/python -c 'import compose, pathlib; print(pathlib.Path(compose.__file__).with_name("docker-compose"))')" \
		--env-file /dev/null --profile '*' config --quiet

fix: $(STAMP) ## Format the code, and apply the fixes of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(STAMP) ## Make git run the quick checks before each commit
	$(BIN)/pre-commit install

# For all platforms, from the oldest Python that each Django supports.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)
LOCK = $(COMPILE) --python-version 3.11
lock: $(STAMP) ## Resolve the lock files again; UPGRADE=1 takes the newest versions
	$(LOCK) --group installer -o requirements/uv.txt
	$(LOCK) pyproject.toml --group dev --group django-5.2 -c requirements/uv.txt -o requirements/dev-django-5.2.txt
	for django in 6.0 6.1; do \
		$(COMPILE) --python-version 3.12 pyproject.toml --group dev --group django-$$django -c requirements/uv.txt \
			-o requirements/dev-django-$$django.txt || exit; \
	done
	$(LOCK) pyproject.toml --group run -c requirements/dev-django-5.2.txt -o requirements/run.txt
	$(LOCK) pyproject.toml --group docs -c requirements/dev-django-5.2.txt -o requirements/docs.txt
	$(LOCK) tests/servers/node.in -o tests/servers/node.txt
	for each in bench/requirements/*.in; do \
		$(LOCK) $$each -c requirements/run.txt -o $${each%.in}.txt || exit; \
	done

# As a user installs it: by pip, with the newest dependencies that the metadata allows, and without this checkout.
RELEASE := var/release
release-check: $(STAMP) ## Build the wheel and the sdist in dist/, check them, and use the installed wheel
	rm -rf dist $(RELEASE)
	$(BIN)/hatchling build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	$(RELEASE)/bin/python -I tests/installed.py "$$($(BIN)/hatchling version)"

clean: ## Remove the environments, local data, caches and build output
	rm -rf .venv .venvs var dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
