#!/usr/bin/env bash
# Every check that needs no test: formatting, clippy, rustdoc, shellcheck, cargo-deny, and the oldest supported Rust.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

locked=()
if [ "${CI:-}" = true ]; then locked=(--locked); fi
cargo_deny_version=0.20.2

step() { say "lint: $*"; }

step "formatting"
cargo fmt --all --check

step "clippy, for this machine"
cargo clippy "${locked[@]}" --workspace --all-targets -- -D warnings

step "clippy, for wasm32"
scripts/build.sh clippy

step "rustdoc"
RUSTDOCFLAGS="-D warnings" cargo doc "${locked[@]}" --workspace --no-deps

step "shellcheck"
has shellcheck || apt_install shellcheck
shellcheck scripts/*.sh .ci/run

step "licences, banned crates and sources"
tool="$root/target/tools/bin/cargo-deny"
if [ "$("$tool" --version 2>/dev/null)" != "cargo-deny $cargo_deny_version" ]; then
  say "building cargo-deny $cargo_deny_version (once, some minutes)"
  cargo install --quiet "cargo-deny@$cargo_deny_version" --locked --root "$root/target/tools" </dev/null >&2 ||
    die "cargo could not build cargo-deny $cargo_deny_version"
fi
"$tool" --log-level error check licenses bans sources

step "the oldest supported Rust"
scripts/msrv.sh
