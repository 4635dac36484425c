#!/usr/bin/env bash
# Installs what tests run in Node or Python into target/clients, and prints where:
# scripts/clients.sh node | python (the SDKs of tests/clients) | facade (of tests/facade)
#
# What is there already stays: a stamp names the files it was installed from.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

group="${1:-}"
sdk="$root/tests/clients/sdk/$group"
if [ "$group" = facade ]; then sdk="$root/tests/facade/npm"; fi
home="$root/target/clients/$group"
mkdir -p "$home"

# Tests run side by side, and each may call this.
if has flock; then
  exec 9>"$home.lock"
  flock 9
fi

# installed FILE...: whether $home was installed from these very files.
installed() {
  [ -e "$home/installed" ] && [ "$(cat "$home/installed")" = "$(stamp "$@")" ]
}
stamp() { cat "$@" | sha256sum; }

case "$group" in
  node | facade)
    recipe=("$sdk/package.json" "$sdk/package-lock.json")
    if ! installed "${recipe[@]}"; then
      { has node && has npm; } || apt_install nodejs npm
      say "bringing ${sdk#"$root"/}/package.json's packages from npm into target/clients/$group"
      cp "${recipe[@]}" "$home/"
      # None of them has an install script that is needed.
      (cd "$home" && npm install --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 </dev/null ||
        die "npm could not install $sdk/package.json; its output stands above"
      stamp "${recipe[@]}" >"$home/installed"
    fi
    # A module finds packages from where it stands.
    cp "$sdk"/*.mjs "$home/"
    ;;
  python)
    recipe=("$sdk/requirements.txt")
    if ! installed "${recipe[@]}"; then
      has python3 || apt_install python3 python3-venv
      rm -rf "$home"
      mkdir -p "$home"
      # Debian keeps venv in a package of its own.
      if ! python3 -m venv "$home/venv" >/dev/null 2>&1; then
        rm -rf "$home/venv"
        apt_install python3-venv
        python3 -m venv "$home/venv" >&2 || die "python3 -m venv $home/venv failed; its output stands above"
      fi
      # Versions of one package cannot live together: each has a folder, which PYTHONPATH names.
      while read -r requirement; do
        say "bringing $requirement from PyPI into target/clients/python"
        "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
          --target "$home/$requirement" "$requirement" >&2 </dev/null ||
          die "pip could not install $requirement; its output stands above"
      done < <(grep -v '^#' "${recipe[0]}")
      stamp "${recipe[@]}" >"$home/installed"
    fi
    ;;
  *) die "scripts/clients.sh node | python | facade" ;;
esac
echo "$home"
