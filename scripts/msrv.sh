#!/usr/bin/env bash
# Checks that the filter, the mock Keen and the run program compile with the oldest supported Rust:
# `rust-version` in Cargo.toml. Rustup installs that Rust.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

version="$(sed -nE 's/^rust-version = "([0-9.]+)"$/\1/p' Cargo.toml)"
[ -n "$version" ] || die "Cargo.toml has no rust-version"

if ! has rustup; then
  say "left out: Rust $version, because there is no rustup"
  exit
fi
if ! cargo "+$version" --version >/dev/null 2>&1; then
  say "adding Rust $version"
  if ! timeout 300 rustup --quiet toolchain install "$version" --profile minimal --no-self-update </dev/null >&2; then
    say "left out: Rust $version, because rustup could not install it"
    exit
  fi
fi
say "checking with Rust $version"
cargo "+$version" check --quiet --locked --target-dir target/msrv --package keen-edge --package mock-keen --package run
