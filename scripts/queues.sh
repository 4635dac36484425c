#!/usr/bin/env bash
# Installs a queue of tests/overflow-queues into target/queues/NAME and prints that directory:
# scripts/queues.sh moto | elasticmq
#
# An installed queue is kept until its files in tests/ change.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

queue="${1:-}"
recipes="$root/tests/overflow-queues/queues"
home="$root/target/queues/$queue"

install_moto() {
  has python3 || apt_install python3 python3-venv
  # Debian has venv in the package python3-venv.
  if ! python3 -m venv "$home/venv" >/dev/null 2>&1; then
    rm -rf "$home/venv"
    apt_install python3-venv
    python3 -m venv "$home/venv" || die "python3 -m venv $home/venv failed; see its output above"
  fi
  say "installing moto from PyPI into target/queues/moto"
  "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$recipe" ||
    die "pip could not install ${recipe#"$root"/}; see its output above"
}

install_elasticmq() {
  { has mvn && has java; } || apt_install maven default-jre-headless
  rm -rf "$home/jars"
  say "installing ElasticMQ (37 MB) from Maven into target/queues/elasticmq"
  mvn --quiet --batch-mode --file "$recipe" -Dmaven.repo.local="$root/target/queues/maven" \
    dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home/jars" ||
    die "maven could not install the dependencies of ${recipe#"$root"/}; see its output above"
}

case "$queue" in
  moto) recipe="$recipes/requirements.txt" ;;
  elasticmq) recipe="$recipes/elasticmq.pom.xml" ;;
  *) die "scripts/queues.sh moto | elasticmq" ;;
esac
mkdir -p "$home"
# Tests run in parallel, and each may call this script.
if has flock; then
  exec 9>"$home.lock"
  flock 9
fi
sum="$(cat "$recipe" "${BASH_SOURCE[0]}" | sha256sum)"
if [ ! -e "$home/installed" ] || [ "$(cat "$home/installed")" != "$sum" ]; then
  rm -f "$home/installed"
  "install_$queue" >&2 </dev/null
  echo "$sum" >"$home/installed"
fi
echo "$home"
