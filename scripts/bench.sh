#!/usr/bin/env bash
# keen-edge and its alternatives side by side: a table, and target/bench.json. Takes the options of `compare --help`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# What a row needs and cannot be installed leaves that row out, by name.
has wrk || apt_install wrk
has taskset || apt_install util-linux
for package in lua-cjson nginx libnginx-mod-http-lua libnginx-mod-http-js; do
  dpkg-query --show "$package" >/dev/null 2>&1 || (apt_install "$package") || say "left out: what needs $package"
done
ENVOY="$(scripts/envoy.sh)"
scripts/build.sh build minimal-filter
KEEN_EDGE_WASM="$root/target/keen_edge.wasm"
export ENVOY KEEN_EDGE_WASM
exec cargo run --quiet --release --package compare -- "$@"
