# `make help` lists what there is. All that make makes lies in .venv/ and .stack/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3.11
ARGS ?=
BIN := .venv/bin

.PHONY: help venv jars up stop status demo test bench lint clean

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do \
		printf '  make %-8s %s\n' "$$target" "$$text"; done
	@echo "  ARGS='...' is passed on to up, demo, test and bench; PYTHON=... picks another 3.11."

# Both at once: pip and Maven wait for the network most of the time.
venv: ## the virtual environment in .venv/ and the jars in .stack/lib/
	@$(MAKE) -j2 .venv/.ready .stack/lib/.complete

jars: .stack/lib/.complete ## the jars of Kafka, Cassandra and Flink's connector alone

up: venv ## start Kafka, Cassandra and Flink on free loopback ports
	@$(BIN)/python -m stack up $(ARGS)

stop: ## stop them; the data stays in .stack/run/
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m stack stop; fi

status: ## what runs, where, with how much memory
	@$(BIN)/python -m stack status

demo: venv ## real shop data through the whole path, with a tour of the result
	@$(BIN)/liveprofile demo $(ARGS)

# Three processes: one has the stack, which mostly waits, one the embedded Flinks, one the units.
test: venv ## every test level
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

bench: venv ## the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

lint: venv ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean: stop ## remove all that make made
	@rm -rf .venv .stack *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.stack/prerequisites: stack/prerequisites.sh
	@stack/prerequisites.sh $(PYTHON)
	@mkdir -p $(@D) && touch $@

.venv/.ready: requirements.txt pyproject.toml | .stack/prerequisites
	@echo "python: .venv/ (6 GB with torch's CUDA libraries; the first time takes minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -e . \
		| { grep --line-buffered -E '^(Collecting|Building|Installing|Successfully)' || true; } \
		| cut -c 1-120
	@touch $@

.stack/lib/.complete: liveprofile/flink/pom.xml | .stack/prerequisites
	@echo "jars: .stack/lib/ (Kafka, Cassandra, Flink's Kafka connector; 120 MB)"
	@$(PYTHON) -m liveprofile.flink.jars
	@touch $@
	@echo "jars: done"
