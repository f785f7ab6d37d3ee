# Everything one does with this checkout. Needs Python 3.11 or newer with venv, and make.

# Which pair: 'make test PYTHON=python3.13 DJANGO=6.1'.
PYTHON ?= python3
DJANGO ?= 5.2

# Each pair has an environment of its own. It is made anew when the interpreter lies in another place than before.
# A Python of this name that does not run leaves this empty, and requirements/supported.sh says so.
INTERPRETER := $(shell $(PYTHON) -c 'import os, sys; print("%d.%d" % sys.version_info[:2], \
	os.path.realpath(sys._base_executable))' 2>/dev/null)
VENV := .venvs/python$(firstword $(INTERPRETER))-django$(DJANGO)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements/uv.txt $(wildcard requirements/dev-django-$(DJANGO).txt)
MADE_WITH := $(shell cat $(VENV)/.interpreter 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo run quick test cov durations test-extra test-pair test-matrix servers servers-scripted attacks guests faults bench bench-quick docs check fix hooks lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make the environment from the lock files; .venv leads to it
	@[ -L .venv ] || rm -rf .venv
	@ln -sfn $(VENV) .venv

# uv takes seconds where pip takes minutes; pip stays the way for those who configured only pip (an index of their own).
$(STAMP): $(LOCKS) pyproject.toml $(if $(filter-out $(MADE_WITH),$(INTERPRETER)),FORCE)
	@requirements/supported.sh "$(PYTHON)" "$(DJANGO)"
	@echo "Installing what requirements/ names into $(VENV) ..."
	@# An environment that works is not emptied, so that what runs in it goes on running.
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

run: $(STAMP) ## Start everything on loopback to play with, until Ctrl-C
	$(BIN)/python -m config.local.run

# 'test' runs on SQLite all but what is marked 'extra', which is slow and rarely fails; on PostgreSQL what has a form for
# each database; on MariaDB where two write at once. 'test-extra' adds what is 'extra', on PostgreSQL all else that uses
# the database, on MariaDB whatever only a database can decide, on RabbitMQ whatever only a broker can, without USE_TZ
# whatever has times, and the fault matrix. The matrix runs alone, because its cases have times that a busy machine would
# not keep.
MATRIX := tests/acceptance/test_fault_matrix.py
# What is the same whatever database it comes from, and in whatever form it stores times: octets, words, the dialogue,
# secrets that are kept elsewhere.
SAME_EVERYWHERE := $(addprefix --ignore=tests/integration/test_,connection_test_advice.py fidelity.py local_processes.py \
	memory.py policy.py references.py sandbox.py send_mail_code.py servers_scripted.py smtp_login.py smtp_opening.py \
	smtp_pool.py smtp_replies.py smtp_session.py validate_smtp.py validate_storage.py)
# A million rows take a minute, which is spent once.
MILLION := --ignore=tests/integration/test_admin_million.py
# What a database may refuse to look for or to keep, and where two ask at once.
ATTACKS := $(addprefix tests/attacks/test_,02_refresh_tokens.py 03_pages.py 07_login_limit.py 11_input.py)
AT_ONCE := $(addprefix tests/integration/test_,activating_at_once.py smtp_config.py transitions.py)
# Where statements have a form for each database.
OF_THE_DATABASE := $(addprefix tests/integration/test_,activating_at_once.py attempt.py batches.py breaker.py bulk.py \
	content.py continuing.py erasure.py fields.py index_use.py inserting.py manual.py pause.py priorities.py \
	retention.py rotation.py routing.py smtp_config.py smtp_config_history.py submission.py sweeper.py \
	tasks_prepared.py transitions.py transitions_machine.py wake_ups.py) \
	tests/integration/oauth/test_tokens.py
# Where the broker is killed, frozen, emptied and looked into, and where a worker takes from it, gives back to it and ends.
OF_THE_BROKER := $(addprefix tests/acceptance/test_,broker.py calling.py canvas.py crash.py priorities.py prepared.py \
	queues.py secrecy.py switch.py task_events.py term.py)
# Where times are stored, compared and shown, and where a worker waits for them.
OF_THE_TIME := tests/integration tests/acceptance/test_calling.py

PYTEST = $(BIN)/python -m pytest
# Most tests wait for processes, replies and limits of time, so that two processors have time for four files of tests.
# Each file runs in one of four processes with services of their own. AT_A_TIME=0 runs the files one after the other.
AT_A_TIME ?= 4
TOGETHER = $(PYTEST) --numprocesses=$(AT_A_TIME) --dist=loadfile --no-loadscope-reorder
# Its cases mostly wait, and those of a class share workers, a broker and a database.
BY_CLASS = $(PYTEST) --numprocesses=2 --dist=loadscope

test: $(STAMP) ## Run the tests
	tests/system-packages.sh
	$(TOGETHER) --ignore=$(MATRIX)
	TEST_DATABASE=postgresql $(TOGETHER) -m "django_db and not extra" $(OF_THE_DATABASE)
	TEST_DATABASE=mariadb $(PYTEST) -m "django_db and not extra" $(AT_ONCE)

# On two processors, the start of their services included, these take a minute and a half.
quick: $(STAMP) ## Run the tests that together take 90 seconds, while you work on something
	$(PYTEST) --quiet --numprocesses=2 --dist=loadfile --no-loadscope-reorder --within 130 $(ONLY)

cov: $(STAMP) ## Run the tests on SQLite, and write what they do not reach to var/coverage
	tests/system-packages.sh
	$(TOGETHER) --ignore=$(MATRIX) --cov --cov-report=term --cov-report=html:var/coverage $(ONLY)

durations: $(STAMP) ## Measure how long the files of tests take, for 'make quick'
	tests/system-packages.sh
	$(TOGETHER) --quiet --ignore=$(MATRIX) --junitxml=var/durations.xml
	$(BIN)/python -m tests.durations var/durations.xml

# 5 is pytest's 'no tests collected': there may be no slow test.
test-extra: $(STAMP) ## Run the slow rest of the tests
	tests/system-packages.sh
	$(BIN)/python -m tests.servers.installing
	$(TOGETHER) -m extra --ignore=$(MATRIX) || [ $$? -eq 5 ]
	TEST_BROKER=rabbitmq $(TOGETHER) -m "" $(OF_THE_BROKER)
	TEST_USE_TZ=false $(TOGETHER) $(SAME_EVERYWHERE) $(OF_THE_TIME)
	TEST_DATABASE=postgresql $(TOGETHER) -m django_db $(addprefix --ignore=,$(OF_THE_DATABASE)) $(MILLION) \
		$(SAME_EVERYWHERE) tests/integration $(ATTACKS)
	TEST_DATABASE=postgresql $(TOGETHER) -m "django_db and extra" $(OF_THE_DATABASE)
	TEST_DATABASE=mariadb $(TOGETHER) -m django_db $(OF_THE_DATABASE)
	$(BY_CLASS) -m "" $(MATRIX)

# The tests that depend on the version of Python or Django. All parts run, also after one of them has failed.
PARTS ?= unit integration attacks walks foreign-project django-mail demo
test-pair: $(STAMP) ## Run what depends on the pair; PARTS="unit demo" runs these parts
	tests/system-packages.sh
	$(MAKE) --no-print-directory --keep-going $(addprefix pair-,$(PARTS))

.PHONY: pair-unit pair-integration pair-attacks pair-walks pair-foreign-project pair-django-mail pair-demo
pair-unit:
	$(TOGETHER) tests/unit

# With the start of the processes, which deprecations would make fail.
pair-integration:
	$(TOGETHER) tests/integration tests/acceptance/test_warnings.py

pair-attacks:
	$(TOGETHER) -m "" tests/attacks

pair-walks:
	$(PYTEST) -m extra tests/acceptance/test_walks.py

# Their slow tests too.
pair-foreign-project:
	$(TOGETHER) -m "" tests/acceptance/test_foreign_project.py tests/acceptance/test_foreign_suite.py

pair-django-mail:
	$(PYTEST) -m "" tests/django_mail

pair-demo:
	$(BIN)/python -m config.local.demo

# The Pythons are looked up on the PATH as python3.11, python3.12 and python3.13.
PAIRS ?= 3.11-5.2 3.12-5.2 3.12-6.0 3.12-6.1 3.13-5.2 3.13-6.0 3.13-6.1
test-matrix: ## Run test-pair on each supported pair; PAIRS="3.13-6.1" runs this one
	@requirements/supported.sh "$(PYTHON)" 5.2
	$(PYTHON) -m tests.matrix --pairs "$(PAIRS)" --parts "$(PARTS)"

servers-scripted: $(STAMP) ## Print what comes of mail at servers that do as they like; part of 'make test'
	$(PYTEST) --quiet tests/integration/test_servers_scripted.py

servers: $(STAMP) ## Print what comes of mail at real servers; part of 'make test-extra'
	$(BIN)/python -m tests.servers.installing
	$(TOGETHER) --quiet -m extra tests/servers

attacks: $(STAMP) ## Attack secrets and people, and print what came of it
	$(PYTEST) --quiet -m "" tests/attacks

guests: $(STAMP) ## Print what the app does to projects of all kinds; part of 'make test-extra'
	tests/system-packages.sh
	$(TOGETHER) --quiet -m extra tests/guests

faults: $(STAMP) ## Break everything that can be broken here, and count the mails
	tests/system-packages.sh
	$(BIN)/python -m tests.faults
	$(PYTEST) --quiet -m "" tests/acceptance/canvas_kills.py
	TEST_BROKER=rabbitmq $(PYTEST) --quiet -m "" tests/acceptance/canvas_kills.py

bench: $(STAMP) ## Measure this project beside its peers, and write docs/performance.md
	bench/system-packages.sh
	$(BIN)/python -m bench

bench-quick: $(STAMP) ## Measure the most important in about two minutes
	bench/system-packages.sh
	$(BIN)/python -m bench --quick

docs: $(STAMP) ## Build the documentation as a site in var/docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --doctree-dir var/doctrees docs var/docs
	@echo "$(CURDIR)/var/docs/index.html"

# The checks look at the code: nothing of this machine's .env may change what they say.
check: export DJANGO_SETTINGS_MODULE := tests.settings
check: $(STAMP) ## Check format, lint, types, import contracts, migrations, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/hadolint Dockerfile
	@# Not the package's script: that one exits 0 on an invalid file.
	"$$($(BIN)/python -c 'import compose, pathlib; print(pathlib.Path(compose.__file__).with_name("docker-compose"))')" \
		--env-file /dev/null --profile '*' config --quiet

fix: $(STAMP) ## Format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(STAMP) ## Have git run the quick checks before each commit
	$(BIN)/pre-commit install

# For every machine, from the oldest Python that this Django runs on.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header $(if $(UPGRADE),--upgrade)
LOCK = $(COMPILE) --python-version 3.11
lock: $(STAMP) ## Resolve the lock files anew; UPGRADE=1 takes the newest versions
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

clean: ## Remove the environments, local data, caches and build output
	rm -rf .venv .venvs var dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
