# Every command of this repository. `make help` lists them; CI runs `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# One folder and one profile for every build, so that RocksDB is compiled once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/raftmq/target
CARGO := scripts/cargo.sh
BIN := $(CARGO_TARGET_DIR)/release
DATA ?= raftmq-data
NODE ?= n1

.PHONY: help build cluster status kill-leader wipe demo test lint docs pictures fix bench fault faults chaos controls control-build python-client sdk-clients clean-data

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | while IFS='|' read -r name what; do printf '  make %-14s %s\n' "$$name" "$$what"; done

build: ## Build every program (mqnamesrv, mqbroker, mqadmin, raftmq-dashboard, raftmq-cluster) into $CARGO_TARGET_DIR/release
	@$(CARGO) build --release --workspace

cluster: build ## Build, then run two name servers, a three-node broker group and the dashboard; data under DATA=raftmq-data; Ctrl-C stops
	@exec $(BIN)/raftmq-cluster up --data "$(DATA)"

status: ## Show the running cluster: leader, term, lag
	@$(BIN)/raftmq-cluster status --data "$(DATA)"

kill-leader: ## kill -9 the leader of the running cluster, and show the new one
	@$(BIN)/raftmq-cluster kill-leader --data "$(DATA)"

wipe: ## kill -9 a node of the running cluster and delete its disk (NODE=n1), and show the command that replaces it
	@$(BIN)/raftmq-cluster wipe "$(NODE)" --data "$(DATA)"

demo: build ## Produce and consume on a cluster of its own, kill -9 the leader in the middle, print the timeline
	@$(BIN)/raftmq-cluster demo

test: lint python-client sdk-clients ## Everything the gate runs: formatting, lints, tests, doc tests, dependency and licence rules
	@$(CARGO) build --release --workspace --locked
	@RAFTMQ_BIN_DIR="$(BIN)" RAFTMQ_PYTHON="$$(scripts/python-client.sh)" $(CARGO) test --release --workspace --locked --no-fail-fast 2>&1 | tee "$(CARGO_TARGET_DIR)/test.log"
	@awk '/^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } END { print passed " passed, " failed " failed, " skipped " skipped" }' "$(CARGO_TARGET_DIR)/test.log"

lint: ## Formatting and lints only
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

docs: build ## Write docs/configuration.md, docs/metrics.md and the alerts of docs/operations.md anew, and the tables of docs/faults.md
	@RAFTMQ_WRITE_DOCS=1 RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) test --release -p raftmq-tests --test configuration the_reference
	@RAFTMQ_WRITE_DOCS=1 RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) test --release -p raftmq-tests --test metrics figures_are
	@RAFTMQ_WRITE_DOCS=1 $(CARGO) test --release -p raftmq-tests --test fault_matrix the_page

pictures: build ## Take the pictures of the dashboard anew that README shows (docs/images)
	@RAFTMQ_WRITE_DOCS=1 RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) test --release -p raftmq-tests --test dashboard_browser

fix: ## Rewrite the formatting
	@$(CARGO) fmt --all

python-client: ## Fetch the official Python client that tests run
	@scripts/python-client.sh >/dev/null

sdk-clients: ## Fetch what tests run: the official Java, Node.js, Go and Rust clients, a browser, helm, and the programs around them
	@for client in java node go rust; do "scripts/$$client-client.sh" >/dev/null; done
	@scripts/deploy-tools.sh >/dev/null
	@scripts/browser.sh >/dev/null || echo "no browser: the dashboard is not looked at"

bench: build ## Run the benchmark and print its table (BENCH='--help' for its options)
	@RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) run --release --quiet -p raftmq-tests --features nats --bin bench -- run $(BENCH)

fault: build ## A workload under a fault on a group of its own (FAULT=kill-leader WORKLOAD=all SEED=), see docs/faults.md
	@FAULT="$(or $(FAULT),kill-leader)" WORKLOAD="$(WORKLOAD)" SEED="$(SEED)" RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) test --release -p raftmq-tests --test fault_matrix -- --ignored --exact chosen_cells --nocapture

faults: ## Every workload under every fault, each on a group of its own: an hour or more
	@$(MAKE) fault FAULT=every WORKLOAD=each

chaos: build control-build python-client sdk-clients ## The long fault runs: more seeds and longer than in `make test`
	@RAFTMQ_LONG=1 $(CARGO) test --release -p raft-store --test simulation
	@RAFTMQ_LONG=1 RAFTMQ_BIN_DIR="$(BIN)" RAFTMQ_PYTHON="$$(scripts/python-client.sh)" $(CARGO) test --release -p raftmq-tests --no-fail-fast -- --include-ignored --nocapture --test-threads 1

controls: build control-build ## Show that the power-loss runs and the simulation fail with a broker that breaks a promise of the log
	@RAFTMQ_BIN_DIR="$(BIN)" $(CARGO) test --release -p raftmq-tests --test controls -- --include-ignored --nocapture --test-threads 1
	@for promise in sync_noop append_unsynced vote_unsynced; do \
	  echo "simulation without $$promise must fail:"; \
	  if RAFTMQ_TEST_BREAK=$$promise RAFTMQ_SEEDS=0..300 $(CARGO) test --release -p raft-store --features test-faults --test simulation >"$(CARGO_TARGET_DIR)/simulation-$$promise.log" 2>&1; then \
	    echo "nothing was noticed, see $(CARGO_TARGET_DIR)/simulation-$$promise.log"; exit 1; \
	  fi; \
	  grep -m 1 "seed [0-9]*:" "$(CARGO_TARGET_DIR)/simulation-$$promise.log"; \
	done

control-build:
	@$(CARGO) build --release --locked -p raftmq-tests --features faults --bin mqbroker-faults

clean-data: ## Remove the local cluster's data
	@rm -rf -- "$(DATA)"
