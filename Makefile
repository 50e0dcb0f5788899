# Every target explains itself: `make help`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test simulate soak simulate-mutants check format bench test-boot test-openstack test-restart kill-demo lock wheel \
  clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the orchestrator command in it

# uv makes the set-up four times faster; where it cannot do it, pip does the same work from the same locked hashes.
export UV_SYSTEM_CERTS := 1
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@{ $(BIN)/python -m pip install --quiet uv && \
	  VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock && \
	  VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --editable .; \
	} || { \
	  echo "uv cannot do it here; pip goes on" && \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --no-deps --editable .; \
	}
	@touch $@

demo: setup ## the main job on a local cloud, in under two minutes: machines come, work and go
	$(BIN)/orchestrator demo

serve: setup ## the same, kept running for playing with it (Ctrl-C ends it and its machines)
	$(BIN)/orchestrator demo --keep

test: setup ## all tests (SQLite and PostgreSQL, real agents, a local cloud)
	$(BIN)/python -m pytest -n 2

SEEDS ?= 1000
START ?= 0
simulate: setup ## the control code and agents under virtual time and faults: SEEDS=1000 START=0
	$(BIN)/orchestrator simulate --seeds $(SEEDS) --start $(START)

DAYS  ?= 30
soak: setup ## one simulated installation that lives for DAYS=30, with faults that come and go (SEED)
	$(BIN)/orchestrator simulate --days $(DAYS) --seed $(SEED)

simulate-mutants: setup ## each guard switched off in turn: the simulation must notice every one
	$(BIN)/orchestrator simulate --mutants

check: setup ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code in its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## every benchmark, one JSON line each
	$(BIN)/python -m benchmarks

test-boot: setup ## a real Debian guest boots our user data with real cloud-init (root, in a container)
	tests/boot/run

test-openstack: setup ## the contract suite on a real Keystone, Glance, Neutron and Nova (some minutes, their own environment)
	tests/openstack/run

test-restart: setup ## kill -9 at every fault point of the master and its agents, on both databases
	$(BIN)/python -m pytest -n 2 -m restart

TIMES ?= 200
SEED  ?= 1
kill-demo: setup ## the demo with its master killed TIMES times at random moments (SEED), then moto asked what is left
	$(BIN)/python tests/acceptance/kill_demo.py --times $(TIMES) --seed $(SEED)

lock: ## pin every dependency by hash (no host is named)
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --all-extras --group dev \
	  --python-version 3.11 pyproject.toml -o requirements.lock

wheel: setup ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove the environment and what was built
	rm -rf $(VENV) dist build *.egg-info
