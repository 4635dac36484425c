#!/usr/bin/env bash
# Fuzzes each target for FUZZ_SECONDS (60), one after the other: scripts/fuzz.sh [TARGET...]
#
# Needs a nightly Rust, which rustup installs, and cargo-fuzz, which is built into target/tools. Failing inputs are in
# fuzz/artifacts. The next run continues with the inputs in fuzz/corpus.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

seconds="${FUZZ_SECONDS:-60}"
version=0.13.2
if [ $# -gt 0 ]; then targets=("$@"); else targets=(config request reply delivery); fi

if ! cargo +nightly --version >/dev/null 2>&1; then
  has rustup || die "fuzzing needs a nightly Rust. Install rustup, which brings it: https://rustup.rs"
  say "adding a nightly Rust"
  timeout 600 rustup --quiet toolchain install nightly --profile minimal --no-self-update </dev/null >&2 ||
    die "rustup could not install a nightly Rust. Run: rustup toolchain install nightly --profile minimal"
fi
has c++ || apt_install g++ # libFuzzer is C++

tool="$root/target/tools/bin/cargo-fuzz"
if [ "$("$tool" --version 2>/dev/null)" != "cargo-fuzz $version" ]; then
  say "building cargo-fuzz $version"
  cargo install --quiet "cargo-fuzz@$version" --locked --root "$root/target/tools" </dev/null >&2 ||
    die "cargo could not build cargo-fuzz $version"
fi

has python3 || apt_install python3
python3 fuzz/seeds.py fuzz/corpus >&2

# No sanitizer: the code is safe Rust. Overflow and bounds are checked as in debug builds.
options=(--sanitizer none --debug-assertions --target-dir "$root/target/fuzz")
for target in "${targets[@]}"; do
  say "fuzzing $target for $seconds s"
  log="target/fuzz-$target.log"
  # The body may be as large as limits.bodyBytes. Four bytes before it choose the head.
  max_len=16384
  if [ "$target" = request ]; then max_len=524292; fi
  if ! RUSTUP_TOOLCHAIN=nightly "$tool" fuzz run "${options[@]}" "$target" -- \
    -max_total_time="$seconds" -max_len="$max_len" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1 </dev/null; then
    tail -n 40 "$log" >&2
    die "fuzzing $target failed: see above and fuzz/artifacts/$target"
  fi
  runs="$(sed -nE 's/^stat::number_of_executed_units: *([0-9]+)/\1/p' "$log")"
  echo "fuzz $target: ${runs:-0} runs in $seconds s, no failure"
done
