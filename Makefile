# Needs Python 3.11 or newer and nothing else; `make PYTHON=…` names one.
export PYTHON

.PHONY: help demo test docs faults mutants lint format up down containers clean
.DEFAULT_GOAL := help

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: ## Try it: embedded PostgreSQL, a real corpus, searches. ARGS="--rows 500 --studio"
	@scripts/setup encoder,embedded,studio
	@.venv/bin/pgembed demo $(ARGS)

test: ## Run every check and all tests. ARGS go to pytest.
	@scripts/setup encoder,embedded,studio,dev
	@scripts/check $(ARGS)

docs: ## Build the documentation as a site: build/site/index.html.
	@scripts/setup encoder,embedded,studio,dev
	@scripts/docs

faults: ## Disturb services and servers under load. ARGS="--rounds 50"
	@scripts/setup encoder,embedded,studio,dev
	@.venv/bin/python -m pytest -n 4 --dist worksteal tests/faults $(ARGS)

mutants: ## Break each invariant on purpose: its tests must fail. ARGS choose some
	@scripts/setup encoder,embedded,studio,dev
	@.venv/bin/python scripts/mutants.py $(ARGS)

lint: ## Format check, lint, types, imports.
	@scripts/setup encoder,embedded,studio,dev
	@scripts/lint

format: ## Format the code and fix what can be fixed.
	@scripts/setup encoder,embedded,studio,dev
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

up: ## Docker: database, schema and encoder service. ARGS="--scale encoder=3"
	@scripts/images
	@docker compose -f docker/compose.yaml up -d $(ARGS)

down: ## Stop that again. ARGS=--volumes deletes the data too.
	@docker compose -f docker/compose.yaml down $(ARGS)

containers: ## Build the images and run the container suite. ARGS go to pytest.
	@scripts/setup encoder,embedded,studio,dev
	@scripts/containers $(ARGS)

clean: ## Remove the environment and what was built.
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
