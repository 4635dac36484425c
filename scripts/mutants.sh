#!/usr/bin/env bash
# Changes one place of the core at a time and reports the changes that no host test notices: scripts/mutants.sh
#
# MUTANTS_SHARD=1/20                     only every 20th change (0/20 to 19/20). A whole run takes hours.
# MUTANTS_FILE=src/delivery/retry.rs     only changes of this file, or of those that match a glob
#
# Two passes: first the unit tests, then, for the changes that they miss, the golden cases, the properties, delivery and
# overflow. Changes that no caller can see are left out in .cargo/mutants.toml. The report of the first pass is in
# target/mutants.out.old, that of the second one in target/mutants.out. cargo-mutants is built into target/tools.
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

# The changed copies share one target directory. Debug information would take most of the time.
export CARGO_TARGET_DIR="$root/target/mutants" CARGO_PROFILE_DEV_DEBUG=false PROPTEST_CASES=32
out="$root/target/mutants.out"
options=(--package keen-edge --output "$root/target" --colors never "$@")
core=(src/{delivery,mapping,keen,users,segment/message}/'**/*.rs')
if [ -n "${MUTANTS_FILE:-}" ]; then core=("$MUTANTS_FILE"); fi
for file in "${core[@]}"; do options+=(--file "$file"); done
shard=()
if [ -n "${MUTANTS_SHARD:-}" ]; then shard=(--shard "$MUTANTS_SHARD" --sharding round-robin); fi

mutate() {
  local status=0
  "$tool" mutants "${options[@]}" --baseline skip --timeout 120 "$@" || status=$?
  # 2 and 3: some changes were not noticed, or timed out.
  case "$status" in 0 | 2 | 3) ;; *) die "cargo-mutants failed with status $status" ;; esac
}

rm -rf "$out" "$out.old"
# As an argument of cargo it also holds for the build, which would compile all test programs.
mutate "${shard[@]}" --cargo-arg=--lib
count() { cat "${@/#/$out/}" | wc -l; }
unviable=$(count unviable.txt) missed=$(count missed.txt)
viable=$(($(count caught.txt timeout.txt) + missed))
if [ "$missed" -gt 0 ]; then
  # `--iterate` leaves out what this file names: all but the missed ones.
  "$tool" mutants "${options[@]}" --list | grep -vxFf "$out/missed.txt" >"$out/previously_caught.txt" || true
  mutate --iterate --cargo-arg=--test={golden,properties,delivery,overflow}
  missed=$(count missed.txt)
fi
say "$((viable - missed)) of $viable changes were noticed; $unviable others do not compile"
cat "$out/missed.txt"
