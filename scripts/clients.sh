#!/usr/bin/env bash
# Installs the SDKs that tests run into target/clients, and prints where:
# scripts/clients.sh node | device | python | go | java | rust (of tests/clients) | facade (of tests/facade)
#
# What is there already stays: a stamp names the files it was installed from.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

group="${1:-}"
sdk="$root/tests/clients/sdk/$group"
if [ "$group" = facade ]; then sdk="$root/tests/facade/npm"; fi
home="$root/target/clients/$group"

# Each takes what is in $sdk, and installs it into $home.

install_node() {
  { has node && has npm; } || apt_install nodejs npm
  say "bringing ${sdk#"$root"/}/package.json's packages from npm into target/clients/$group"
  cp "$sdk/package.json" "$sdk/package-lock.json" "$home/"
  # None of them has an install script that is needed.
  (cd "$home" && npm install --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error) ||
    die "npm could not install ${sdk#"$root"/}/package.json; its output stands above"
  # A module finds packages from where it stands.
  cp "$sdk"/*.mjs "$home/"
}

install_facade() { install_node; }

install_device() { install_node; }

install_python() {
  has python3 || apt_install python3 python3-venv
  # Debian keeps venv in a package of its own.
  if ! python3 -m venv "$home/venv" >/dev/null 2>&1; then
    rm -rf "$home/venv"
    apt_install python3-venv
    python3 -m venv "$home/venv" || die "python3 -m venv $home/venv failed; its output stands above"
  fi
  # Versions of one package cannot live together: each has a folder, which PYTHONPATH names.
  while read -r requirement; do
    rm -rf "${home:?}/$requirement"
    say "bringing $requirement from PyPI into target/clients/python"
    "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --target "$home/$requirement" "$requirement" ||
      die "pip could not install $requirement; its output stands above"
  done < <(grep -v '^#' "$sdk/requirements.txt")
}

install_go() {
  has go || apt_install golang-go
  say "building analytics-go into target/clients/go"
  # Modules that can be deleted like any other file.
  (cd "$sdk" && GOFLAGS=-modcacherw GOMODCACHE="$home/mod" go build -o "$home/clients" .) ||
    die "go could not build tests/clients/sdk/go; its output stands above"
}

install_java() {
  { has mvn && has javac; } || apt_install maven default-jdk-headless
  say "bringing analytics-java from Maven into target/clients/java (50 MB)"
  mvn --quiet --batch-mode --file "$sdk/pom.xml" -Dmaven.repo.local="$home/repository" \
    dependency:copy-dependencies -DoutputDirectory="$home/jars" ||
    die "maven could not bring what tests/clients/sdk/java/pom.xml names; its output stands above"
  javac -nowarn -cp "$home/jars/*" -d "$home/classes" "$sdk"/src/*.java ||
    die "javac could not build tests/clients/sdk/java; its output stands above"
}

install_rust() {
  say "building the crate segment into target/clients/rust (a minute)"
  cargo build --quiet --locked --manifest-path "$sdk/Cargo.toml" --target-dir "$home/target" ||
    die "cargo could not build tests/clients/sdk/rust; its output stands above"
  cp "$home/target/debug/segment-client" "$home/"
}

case "$group" in
  node | device | python | go | java | rust | facade) ;;
  *) die "scripts/clients.sh node | device | python | go | java | rust | facade" ;;
esac
mkdir -p "$home"
# Tests run side by side, and each may call this.
if has flock; then
  exec 9>"$home.lock"
  flock 9
fi
recipe="$(find "$sdk" "${BASH_SOURCE[0]}" -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum)"
if [ ! -e "$home/installed" ] || [ "$(cat "$home/installed")" != "$recipe" ]; then
  rm -f "$home/installed"
  "install_$group" >&2 </dev/null
  echo "$recipe" >"$home/installed"
fi
echo "$home"
