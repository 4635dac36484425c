SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

WASM := $(CURDIR)/target/keen_edge.wasm
# Cargo.lock is not to change where nobody would commit it.
LOCKED := $(if $(filter true,$(CI)),--locked)

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: build
build: ## The filter: target/keen_edge.wasm
	@scripts/build.sh

.PHONY: run
run: build ## A mock Keen and Envoy with envoy.yaml (PORT, KEEN_PORT, ADMIN_PORT), until Ctrl-C
	@envoy="$$(scripts/envoy.sh)" && ENVOY="$$envoy" KEEN_EDGE_WASM="$(WASM)" cargo run $(LOCKED) --example run

.PHONY: test
test: build ## All tests that need no SDK, in a real Envoy
	@scripts/build.sh panic-switch
	@envoy="$$(scripts/envoy.sh)" && chromium="$$(scripts/chromium.sh)" && \
	ENVOY="$$envoy" CHROMIUM="$$chromium" KEEN_EDGE_WASM="$(WASM)" cargo test $(LOCKED) --workspace --exclude clients --exclude facade

.PHONY: test-clients
test-clients: build ## Unmodified Segment SDKs, through Envoy, to the mock Keen
	@envoy="$$(scripts/envoy.sh)" && chromium="$$(scripts/chromium.sh)" && \
	ENVOY="$$envoy" CHROMIUM="$$chromium" KEEN_EDGE_WASM="$(WASM)" cargo test $(LOCKED) --package clients --package facade

.PHONY: bench
bench: build ## keen-edge and its alternatives side by side (BENCH_ARGS="--rounds 9"); target/bench.json
	@scripts/bench.sh $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Fuzzes settings, requests, replies and delivery, FUZZ_SECONDS each (60)
	@scripts/fuzz.sh

.PHONY: lint
lint: ## Formatting, and clippy for this machine and for wasm32
	cargo fmt --all --check
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings
	@scripts/build.sh clippy

.PHONY: fmt
fmt: ## Formats the code
	cargo fmt --all

.PHONY: clean
clean: ## Removes target/
	cargo clean
