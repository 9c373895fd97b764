# Everything a newcomer needs: `make demo` and `make test` set up what they need themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python

.PHONY: help venv images demo test test-fast attacks check proto conversations bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

venv: ## the virtual environment, from the hashed lock file
	@tools/venv

images: venv ## the sandbox images (needs an engine; starts one if it must)
	@tools/with-engine sandbox-images/build --full

demo: venv ## the fitness-assistant example from start to end; leaves nothing running
	@tools/with-engine tools/demo

test: venv ## every test; needs root, installs and starts an engine if there is none
	@tools/secret-service
	@tools/with-engine bash -c 'sandbox-images/build --test && tools/test'

test-fast: venv ## the tests that need no engine
	@tools/secret-service
	@$(PY) -m pytest -n auto -m 'not docker'

attacks: venv ## the attack suite alone; writes docs/security/attacks.md. Needs root and an engine, as make test
	@tools/with-engine bash -c 'sandbox-images/build --full && \
	  $(PY) -m pytest tests/escape -p tests.escape.verdicts --attacks-page docs/security/attacks.md'

check: venv ## ruff, mypy, layers, generated code, API compatibility, unit file
	@tools/check

proto: venv ## write the generated code anew
	@proto/generate.sh

conversations: venv ## play the examples' scripts and write their conversation files anew
	@tools/with-engine bash -c 'sandbox-images/build --full && $(PY) -m examples.record'

bench: venv ## every promise of docs/design/targets.md, as a table; GROUP=claim for one
	@tools/with-engine bash -c 'sandbox-images/build && $(PY) -m benchmarks $(or $(GROUP),all)'

lock: venv ## resolve the dependencies anew
	@tools/lock

clean: ## remove the virtual environment and caches
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
