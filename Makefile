# `make help` lists the targets. Everything that make creates lies in .venv/ and .stack/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3.11
ARGS ?=
BIN := .venv/bin
SETUP_LOG := .stack/setup.log
# Several test processes share the cores: OpenMP threads that wait for each other would waste them.
ONE_THREAD := OMP_NUM_THREADS=1
# Set in some images. Each process, of which tests and the demo start many, would compile all code.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv jars up stop down status demo check test chaos lab bench docs lint lock audit clean

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do \
		printf '  make %-8s %s\n' "$$target" "$$text"; done
	@echo "  ARGS='...' is passed to up, demo, check, test, chaos and bench; PYTHON=... selects another 3.11."

venv: .stack/lib/.complete ## install what the demo and the local stack need in .venv/ and .stack/lib/

jars: .stack/lib/.complete ## install the jars of Kafka, Cassandra, Flink's connector and our functions

up: venv ## start Kafka, Cassandra, Flink and the read API on free loopback ports
	@$(BIN)/python -m stack up $(ARGS)

stop: ## stop them; the data stays in .stack/run/
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m stack stop; fi

down: stop ## the same

status: ## print which services run, where, and how much memory they use
	@$(BIN)/python -m stack status

demo: venv ## send real shop data through the whole path, show the result, and open the console
	@$(BIN)/liveprofile demo $(ARGS)

check: lint ## lint, layers and the fast unit tests: about a minute
	@$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 -m "not slow" tests/unit $(ARGS)

# Three processes: fault tests, which mostly wait; services and browser; embedded Flinks and units.
test: lint .stack/class-archive/.complete .stack/prometheus/.complete .stack/helm/.complete .stack/browser ## lint, layers and every test level
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

chaos: venv .venv/.ready-test ## random load and faults at full size: about two hours, before a release
	@$(ONE_THREAD) $(BIN)/python -m tests.chaos $(ARGS)

lab: venv .venv/.ready-test ## run the tests of the studies in lab/
	@$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 lab/tests $(ARGS)

bench: venv .venv/.ready-test ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS) && $(BIN)/python -m lab.benchmarks latency $(ARGS)

docs: .stack/docs-venv/.ready ## build the site of docs/ in .stack/site/, with search
	@rm -rf .stack/site-pages .stack/site && mkdir -p .stack/site-pages
	@cp -r docs/images docs/*.md .stack/site-pages/
	@sed -E 's#\]\(docs/#](#g; s#\(CHANGELOG\.md#(changelog.md#g' README.md > .stack/site-pages/index.md
	@sed -E 's#\]\(docs/#](#g; s#\(README\.md#(index.md#g' CHANGELOG.md > .stack/site-pages/changelog.md
	@sed -i -E 's#\(\.\./README\.md#(index.md#g; s#\(\.\./CHANGELOG\.md#(changelog.md#g' .stack/site-pages/*.md
	@sed -i -E 's#\[([^]]*)\]\((\.\./|lab/|mappings)[^)]*\)#\1#g' .stack/site-pages/*.md
	@.stack/docs-venv/bin/zensical build --clean --strict

lint: venv .venv/.ready-test ## check style with ruff and layers with import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/lint-imports --no-logo > .stack/layers.log || { cat .stack/layers.log; exit 1; }

lock: .venv/.ready ## write requirements*.txt, all versions with hashes, after a change of pyproject.toml
	@stack/lock.sh $(BIN)/uv

# Asks a service on the internet, and its answer changes without a commit: so no part of `test`.
audit: .venv/.ready ## look for known vulnerabilities of the locked packages
	@$(BIN)/uv --preview-features audit-command audit
	@rm uv.lock

clean: stop ## remove everything that make created
	@rm -rf .venv .stack *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.stack/prerequisites: stack/prerequisites.sh
	@stack/prerequisites.sh $(PYTHON)
	@mkdir -p $(@D) && touch $@

# Only the browser tests need Chromium.
.stack/browser: stack/prerequisites.sh
	@stack/prerequisites.sh $(PYTHON) chromium
	@mkdir -p $(@D) && touch $@

# TORCH_INDEX=... takes PyTorch from an index of CPU builds.
.venv/.ready: requirements-demo.txt stack/install_packages.sh stack/uv.txt | .stack/prerequisites
	@stack/step.sh "python packages" .venv $(SETUP_LOG) stack/install_packages.sh $(PYTHON) .venv requirements-demo.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Tests, lint, training and benchmarks.
.venv/.ready-test: requirements-test.txt .venv/.ready
	@stack/step.sh "python packages for tests" .venv $(SETUP_LOG).test \
		stack/install_packages.sh $(PYTHON) .venv requirements-test.txt
	@touch $@

# Only tests need it.
.stack/prometheus/.complete: stack/prometheus.sh
	@stack/step.sh "prometheus" .stack/prometheus $(SETUP_LOG).prometheus stack/prometheus.sh .stack/prometheus
	@touch $@

# Only tests need it.
.stack/helm/.complete: stack/helm.sh | .venv/.ready
	@stack/step.sh "helm" .stack/helm $(SETUP_LOG).helm stack/helm.sh $(BIN)/python .stack/helm
	@touch $@

.stack/docs-venv/.ready: requirements-docs.txt stack/install_packages.sh stack/uv.txt | .stack/prerequisites
	@stack/step.sh "packages of the site" $(@D) $(SETUP_LOG).docs \
		stack/install_packages.sh $(PYTHON) $(@D) requirements-docs.txt
	@touch $@

# The functions are compiled against the jars of apache-flink.
.stack/lib/.complete: liveprofile/flink/pom.xml $(wildcard jobs/java/*.java) .venv/.ready
	@stack/step.sh "java packages" .stack/lib $(SETUP_LOG).maven $(BIN)/python -m liveprofile.flink.jars
	@touch $@

# Tests start many JVMs.
.stack/class-archive/.complete: liveprofile/flink/class_archive.py .stack/lib/.complete
	@stack/step.sh "archive of java classes" $(@D) $(SETUP_LOG).classes $(BIN)/python -m liveprofile.flink.class_archive
	@touch $@
