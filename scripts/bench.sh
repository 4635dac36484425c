#!/usr/bin/env bash
# Compares keen-edge with its alternatives: prints a table, writes target/bench.json. Options: see `compare --help`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# A scenario whose requirements cannot be installed is skipped by name.
has wrk || apt_install wrk
has taskset || apt_install util-linux
for package in lua-cjson nginx libnginx-mod-http-lua libnginx-mod-http-js; do
  dpkg-query --show "$package" >/dev/null 2>&1 || (apt_install "$package") || say "skipped: scenarios that need $package"
done
ENVOY="$(scripts/envoy.sh)"
scripts/build.sh build minimal-filter
KEEN_EDGE_WASM="$root/target/keen_edge.wasm"
export ENVOY KEEN_EDGE_WASM
exec cargo run --quiet --release --package compare -- "$@"
