# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# One more than cores: many tests wait.
WORKERS := $(shell expr $$(nproc) + 1)

.PHONY: help setup demo test test-fast test-slow test-containers test-vllm lint typescript experiment ablate retrain bench-step bench-critic bench-runs bench-gateway bench-affinity chaos lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: .venv/done .venv-vllm/done ## Make the environments: ours, and one of vLLM's own

demo: setup ## Watch an agent fix held-out bugs, alone and guided (about 12 minutes on two cores)
	$(BIN)/python -m examples.bugfix.demo

test: setup lint test-fast test-slow test-containers test-vllm ## All tests

test-fast: .venv/done ## Tests that need no vLLM, containers, all tasks or hostile commands
	$(PYTEST) -q -n $(WORKERS) --dist loadfile -m "not vllm and not slow and not containers"

test-slow: .venv/done ## Those that draw all of the demo's tasks, kill parts, or do their worst to a sandbox
	$(PYTEST) -q -m "slow and not vllm and not containers"

test-containers: .venv/done ## Those of containers, on a Podman that they install and start (as root)
	$(PYTEST) -q -n 2 --dist loadfile -m containers

test-vllm: setup .venv-scaffolds/done ## End-to-end tests on real vLLM, started once
	$(PYTEST) -q -m vllm

lint: .venv/done ## ruff, mypy, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for version in 3.10 3.14; do $(BIN)/mypy --python-version $$version -p pilotfish; done
	PYTHONPATH=.:clients/python $(BIN)/lint-imports --no-cache

typescript: .venv/done ## Write the TypeScript client's types anew, from the OpenAPI document
	mkdir -p clients/typescript/build
	$(BIN)/python -m service openapi > clients/typescript/build/openapi.json
	cd clients/typescript && npm ci --no-audit --no-fund && npm run generate -- --output src/schema.ts

experiment: setup ## Measure both operators on all held-out tasks (two hours on two cores; resumable)
	$(BIN)/python -m examples.bugfix.experiment

ablate: setup ## What each setting of training is worth (hours on two cores; resumable)
	$(BIN)/python -m examples.bugfix.ablation

retrain: setup ## Remake policy and critic from nothing (hours on two cores; resumable)
	$(BIN)/python -m examples.bugfix.recipe

bench-step: setup ## What guidance costs a step, beside the policy alone; JSON in build/bench
	$(BIN)/python -m benchmarks.step

bench-critic: setup ## What the critic costs to train and to score with; JSON in build/bench
	$(BIN)/python -m benchmarks.critic

bench-runs: .venv/done ## What the service itself takes of a run, with 200 and 1,000 at once; JSON in build/bench
	PYTHONPATH=.:clients/python $(BIN)/python -m benchmarks.runs

bench-affinity: setup ## What prefix caches are worth with and without session affinity; JSON in build/bench
	$(BIN)/python -m benchmarks.affinity

bench-gateway: setup ## What the service costs beside the model alone, others of its kind, with 500 sessions; JSON in build/bench
	$(BIN)/python -m benchmarks.gateway

chaos: .venv/done ## 60 runs while parts are killed every few seconds (about 5 minutes); JSON in build
	PYTHONPATH=.:clients/python $(BIN)/python -m tests.chaos.driver --out build/chaos.json

lock: .venv/done ## Write the versions in .venv to requirements.lock
	$(BIN)/pip freeze --exclude-editable | sed "s/+cpu$$//" > requirements.lock

clean: ## Remove environments and whatever was built
	rm -rf .venv .venv-vllm .venv-scaffolds build demo

.venv/done: pyproject.toml clients/python/pyproject.toml requirements.lock deploy/system.sh
	bash deploy/system.sh $(PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch -c requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock \
		-e clients/python -e '.[dev]'
	touch $@

.venv-vllm/done: deploy/vllm.sh
	bash deploy/vllm.sh $(PYTHON) .venv-vllm
	touch $@

# uv resolves these in seconds, pip in minutes; where uv cannot reach its index pip may know another.
.venv-scaffolds/done: tests/e2e/scaffolds.txt clients/python/pyproject.toml
	$(PYTHON) -m venv .venv-scaffolds
	.venv-scaffolds/bin/pip install --quiet --disable-pip-version-check uv
	.venv-scaffolds/bin/uv pip install --quiet --python .venv-scaffolds/bin/python \
		-r $< -e clients/python || \
		.venv-scaffolds/bin/pip install --quiet --disable-pip-version-check -r $< -e clients/python
	touch $@
