#!/usr/bin/env bash
# Installs a tool of tests/observability into target/ once, and prints its place.
# scripts/observability.sh prometheus   prints the directory with prometheus and promtool
# scripts/observability.sh collector    prints the path of an OpenTelemetry Collector
# scripts/observability.sh dashboard    prints the Grafana dashboard as deploy/grafana/dashboard.ts builds it
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# Uses the tools on the PATH, else Debian's. The package is unpacked only: its installation would start a server.
prometheus() {
  local dir="$root/target/prometheus"
  if has prometheus && has promtool; then
    dirname "$(command -v promtool)"
    return
  fi
  if ! [ -x "$dir/usr/bin/promtool" ]; then
    has apt-get || die "this needs Prometheus 2.42 or newer, prometheus and promtool, on the PATH"
    say "unpacking Debian's prometheus into target/prometheus (19 MB)"
    rm -rf "$dir"
    mkdir -p "$dir/deb"
    # In a container image without package lists the first download fails.
    (cd "$dir/deb" && { download || { apt_update && download; }; }) || {
      cat "$dir/download.log" >&2
      die "apt-get could not download prometheus; its output is above"
    }
    dpkg-deb --extract "$dir"/deb/prometheus_*.deb "$dir"
  fi
  echo "$dir/usr/bin"
}

download() { apt-get download prometheus >"$root/target/prometheus/download.log" 2>&1; }

# Needs root, or a sudo without a password.
apt_update() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
  "${as_root[@]}" apt-get update >/dev/null 2>&1
}

collector() {
  local source="$root/tests/observability/collector" key tool
  key="$(cat "$source/main.go" "$source/go.sum" | cksum | cut -d ' ' -f 1)"
  tool="$root/target/tools/otel-collector-$key"
  if ! [ -x "$tool" ]; then
    has go || die "this needs Go $(sed -n 's/^go //p' "$source/go.mod") or newer, from https://go.dev/dl"
    say "building an OpenTelemetry Collector (once, one to two minutes)"
    mkdir -p "$root/target/tools"
    (cd "$source" && GOCACHE="$root/target/go/cache" GOMODCACHE="$root/target/go/mod" GOFLAGS="-mod=readonly -modcacherw" \
      go build -trimpath -ldflags='-s -w' -o "$tool" . >&2) || die "go could not build $source; its output is above"
    # These caches take half a gigabyte, and nothing else uses them.
    rm -rf "$root/target/go"
  fi
  echo "$tool"
}

dashboard() {
  local source="$root/deploy/grafana" dir="$root/target/grafana"
  { has node && has npm; } || apt_install nodejs npm
  mkdir -p "$dir"
  cp "$source"/{dashboard.ts,tsconfig.json,package.json,package-lock.json} "$dir"
  cd "$dir"
  if ! cmp --silent package-lock.json installed-lock.json; then
    npm ci --no-audit --no-fund >&2 || die "npm could not install the packages of deploy/grafana; its output is above"
    cp package-lock.json installed-lock.json
  fi
  npm run --silent build || die "deploy/grafana/dashboard.ts does not compile; the output of tsc is above"
}

case "${1:-}" in
  prometheus | collector | dashboard)
    mkdir -p target
    # Tests run in parallel, and each may call this script.
    if has flock; then
      exec 9>"$root/target/observability-$1.lock"
      flock 9
    fi
    "$1"
    ;;
  *) die "scripts/observability.sh prometheus | collector | dashboard" ;;
esac
