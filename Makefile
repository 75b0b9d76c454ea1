PYTHON ?= $(firstword $(shell command -v python3.11 python3))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
PRESET ?= laptop
ARGS ?=
REGISTRY ?= ceteris
TAG ?= dev
BASE_IMAGE ?=
BUILD_ARGS ?=
PUSH ?=

export PYTHONDONTWRITEBYTECODE :=

.PHONY: help study test test-all check docs bench images clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

study: $(INSTALLED) ## Run the whole study here (PRESET=laptop, ARGS=...)
	@$(BIN)/python -m pipelines local --preset $(PRESET) $(ARGS)

test: $(INSTALLED) ## Run the tests but the slow ones
	@echo "make test: pytest without the tests marked slow"
	@$(BIN)/python -m pytest -m "not slow and not gpu and not cluster" $(ARGS)

test-all: $(INSTALLED) ## Run the slow tests too
	@echo "make test-all: pytest with the tests marked slow"
	@$(BIN)/python -m pytest -m "not gpu and not cluster" $(ARGS)

check: $(INSTALLED) ## Check style, types, import boundaries, YAML
	@echo "make check: ruff, mypy, import-linter, yamllint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/yamllint --strict .

docs: $(INSTALLED) ## Write the tables of parameters, metrics and values into the READMEs
	@$(BIN)/python -m components.runtime.readme
	@$(BIN)/python -m charts.readme

bench: $(INSTALLED) $(PEERS)/.installed ## Compare speed with peers (ARGS="sharding s3": only these)
	@echo "make bench: the same work beside a peer; CPU seconds, and wall seconds where it waits"
	@PYTHONPATH=$(PEERS)/torch $(BIN)/python -m tests.bench $(ARGS)

images: ## Build the images (REGISTRY=ceteris TAG=dev; BASE_IMAGE=... BUILD_ARGS=... PUSH=1)
	@images/build "$(REGISTRY)" "$(TAG)" "$(PUSH)" $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_ARGS)

clean: ## Remove the environment and caches; runs/ stays
	@echo "make clean: removing $(VENV), $(PEERS) and caches, keeping runs/"
	@rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.txt requirements/launcher.txt requirements/vlm.txt requirements/train.txt requirements/cpu.txt requirements/lock.txt
	@echo "make: installing the locked packages into $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements/dev.txt
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@touch $@

$(PEERS)/.installed: requirements/peers.txt requirements/peers-torch.txt $(INSTALLED)
	@echo "make: installing what we are compared with into $(PEERS) (a few minutes, once)"
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements/peers.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $(PEERS)/torch -r requirements/peers-torch.txt
	@$(PEERS)/bin/python -m compileall -q -j 0 $(PEERS)/lib >/dev/null || true
	@touch $@
