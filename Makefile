SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

WASM := $(CURDIR)/target/keen_edge.wasm
# In CI a build must not change Cargo.lock: nobody would commit it.
LOCKED := $(if $(filter true,$(CI)),--locked)
# Everything a test needs: the filter, an Envoy and a Chromium.
TEST_ENV = envoy="$$(scripts/envoy.sh)" && chromium="$$(scripts/chromium.sh)" && \
	ENVOY="$$envoy" CHROMIUM="$$chromium" KEEN_EDGE_WASM="$(WASM)"

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: build
build: ## Build the filter: target/keen_edge.wasm
	@scripts/build.sh

.PHONY: run
run: ## Run Envoy with envoy.yaml and a mock Keen until Ctrl-C (PORT, KEEN_PORT, ADMIN_PORT)
	@scripts/run.sh

.PHONY: test
test: build ## Run all tests that need no SDK, many of them in a real Envoy
	@scripts/build.sh panic-switch
	@$(TEST_ENV) cargo test $(LOCKED) --workspace --exclude clients --exclude facade

.PHONY: test-clients
test-clients: build ## Run unmodified Segment SDKs through Envoy to the mock Keen
	@$(TEST_ENV) cargo test $(LOCKED) --package clients --package facade

.PHONY: bench
bench: build ## Compare cost with the alternatives (BENCH_ARGS="--rounds 9"); writes target/bench.json
	@scripts/bench.sh $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Fuzz configurations, requests, replies and delivery, FUZZ_SECONDS each (default 60)
	@scripts/fuzz.sh

.PHONY: mutants
mutants: ## Report changes of the core that no host test notices (MUTANTS_SHARD=1/20); takes hours
	@scripts/mutants.sh

.PHONY: lint
lint: ## Check formatting, clippy, rustdoc, shell scripts, licences and the oldest Rust
	@scripts/lint.sh

.PHONY: msrv
msrv: ## Check that the oldest supported Rust compiles the filter (part of lint)
	@scripts/msrv.sh

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean
clean: ## Remove target/
	cargo clean
