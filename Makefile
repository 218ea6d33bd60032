# Set-up and the commands of every day. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
DEMO_ARGS ?=
BENCH_ARGS ?=
TIERS ?=
REQUIRE_ALL ?=

# Handed to every pip below, if given; else your own pip settings count.
ifdef INDEX_URL
export PIP_INDEX_URL := $(INDEX_URL)
endif
ifdef EXTRA_INDEX_URL
export PIP_EXTRA_INDEX_URL := $(EXTRA_INDEX_URL)
endif
ifdef WHEELS
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

VENV := .venv
BIN := $(VENV)/bin
# A stamp is named after what is installed: nothing to do while the content is the same.
fingerprint = $(shell cat $(1) | git hash-object --stdin)
RUNTIME_FILES := requirements/host.txt requirements/runtime.txt
DEV_FILES := $(RUNTIME_FILES) requirements/dev.txt
PACKAGING := $(wildcard pyproject.toml setup.py)
RUNTIME := $(VENV)/.runtime-$(call fingerprint,$(RUNTIME_FILES) $(PACKAGING))
DEV := $(VENV)/.dev-$(call fingerprint,$(DEV_FILES) $(PACKAGING))

# The public index has torch's CUDA build only, where the platform is Linux on x86-64.
define CPU_TORCH_NOTE
    This is for torch's CPU build. If pip is not set up to find that one, it takes the CUDA build,
    several GB more: then stop here and give EXTRA_INDEX_URL=(the CPU index that pytorch.org names)
    or WHEELS=(a folder of wheels).
endef
export CPU_TORCH_NOTE

# $(call install,requirements file,all the files that it reads)
define install
	@echo "Installing into $(VENV) from $(1): $$(cat $(2) | grep -c ==) packages; if none is there yet:"
	@grep '^# size:' $(1) | sed 's/^# size:/   /'
	@[ "$$(uname -sm)" != "Linux x86_64" ] || echo "$$CPU_TORCH_NOTE"
	$(BIN)/python -m pip install --requirement $(1)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.runtime-* $(VENV)/.dev-*
	@touch $(RUNTIME) $@
endef

.PHONY: help demo test lint bench soak test-gpu clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## fine-tune on made-up data, here, without a container (DEMO_ARGS=...)
	@$(BIN)/ca-hpc demo $(DEMO_ARGS)

test: $(DEV) ## lint, types, all tests; as root with real SLURM and Apptainer (TIERS=..., REQUIRE_ALL=1)
	@$(BIN)/python -m tests.run_tiers $(TIERS) $(if $(filter 1,$(REQUIRE_ALL)),--require-all)

lint: $(DEV) ## linters and types only
	@$(BIN)/python -m tests.run_tiers lint

bench: $(DEV) ## speed, as ratios (BENCH_ARGS=...)
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(DEV) ## long repetitions
	@$(BIN)/python -m pytest -v -s tests/soak

test-gpu: $(DEV) ## what needs a GPU
	@$(BIN)/python -m pytest tests/gpu

clean: ## remove what was made in this folder, .venv too
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): | $(BIN)/python
	$(call install,requirements/runtime.txt,$(RUNTIME_FILES))

$(DEV): | $(BIN)/python
	$(call install,requirements/dev.txt,$(DEV_FILES))

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is not Python 3.11 with venv. Install it (Debian: apt install python3.11-venv)," >&2; \
		echo "or name one that is elsewhere: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 2; \
	}
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
