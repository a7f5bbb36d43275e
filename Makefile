# `make` alone lists what can be asked for.

PYTHON := .venv/bin/python
# Tools first in PATH, for molecule and ansible-lint start ansible-* by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

OLDEST_CORE := 2.16
# Two lanes of about the same length, for a machine of two cores; the second one waits for pods most of its time.
STEPS := unit lint matrix molecule -- e2e

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint sanity unit matrix molecule hosts e2e clean-cluster build

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

venv: ## make .venv and get the collections (again only when a requirement changed)
	@tests/tools/make_venv.sh

demo: venv ## start an embedded cluster and serve a model with SGLang on it
	$(PYTHON) tests/cluster up
	ansible-playbook site.yml -i inventories/local -e inference_engine=sglang
	@echo "It serves. Stop it with: make clean-cluster"

test: venv ## everything below but hosts: unit, lint, matrix and molecule, and e2e beside them
	@$(PYTHON) tests/tools/steps.py $(STEPS)

lint: venv ## YAML, Python, Ansible, documentation and changelog
	yamllint --strict .
	ruff check .
	ruff format --check --output-format concise .
	ansible-lint --offline
	antsibull-changelog lint
	@# "all" reads kubernetes.core's fragments where they are. It would copy them as git sees them: not at all.
	ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/.collections \
	  antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs all .
	@$(MAKE) --no-print-directory sanity

sanity: ## ansible-test's sanity tests (part of lint)
	tests/tools/sanity.sh

unit: venv ## the unit tests
	$(PYTHON) -m pytest

matrix: venv ## the unit tests under the oldest ansible-core, and the same manifests under both ends
	tests/tools/make_venv.sh $(OLDEST_CORE)
	.venv-core-$(OLDEST_CORE)/bin/python -m pytest
	tests/matrix/render.sh .venv-core-$(OLDEST_CORE) .venv

molecule: venv ## the scenarios that need no cluster
	.venv/bin/molecule test --report -s default

hosts: venv ## GPU hosts as Debians in podman: prepared, and rolled with real nodes (a quarter of an hour, not part of test)
	.venv/bin/molecule reset -s gpu_node
	.venv/bin/molecule test --report -s gpu_node

e2e: venv ## the whole site on the embedded cluster, up to a completion from a model
	@# What an interrupted run remembers would have create and prepare skipped.
	.venv/bin/molecule reset -s site
	.venv/bin/molecule test --report -s site
	$(PYTHON) -m pytest -m cluster

clean-cluster: ## stop the embedded cluster and remove its state
	$(PYTHON) tests/cluster down

build: venv ## build the collection's artifact into build/
	ansible-galaxy collection build --force --output-path build
