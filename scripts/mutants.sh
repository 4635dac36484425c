#!/usr/bin/env bash
# Changes one line of the core at a time and reports the changes that no host test notices: scripts/mutants.sh
#
# MUTANTS_SHARD=1/20  only every 20th change (0/20 to 19/20). A whole run takes hours.
#
# Only the tests on the host run: the unit tests, the golden cases, delivery, overflow and the properties. cargo-mutants is built
# into target/tools. Its report is in target/mutants.out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

version=27.1.0
tool="$root/target/tools/bin/cargo-mutants"
if [ "$("$tool" mutants --version 2>/dev/null)" != "cargo-mutants $version" ]; then
  say "building cargo-mutants $version"
  cargo install --quiet "cargo-mutants@$version" --locked --root "$root/target/tools" </dev/null >&2 ||
    die "cargo could not build cargo-mutants $version"
fi

options=(--package keen-edge --output "$root/target" --colors never --baseline skip --timeout 240)
for directory in delivery mapping keen users segment/message; do options+=(--file "src/$directory/**/*.rs"); done
if [ -n "${MUTANTS_SHARD:-}" ]; then options+=(--shard "$MUTANTS_SHARD" --sharding round-robin); fi

# The changed copies share one target directory. Debug information would take most of the time.
export CARGO_TARGET_DIR="$root/target/mutants" CARGO_PROFILE_DEV_DEBUG=false PROPTEST_CASES=32
tests=(--lib --test golden --test delivery --test overflow --test properties)
status=0
"$tool" mutants "${options[@]}" "$@" -- "${tests[@]}" || status=$?
# 2 and 3: some changes were not noticed, or timed out.
case "$status" in 0 | 2 | 3) ;; *) die "cargo-mutants failed with status $status" ;; esac
wc -l "$root"/target/mutants.out/{caught,missed,timeout,unviable}.txt
