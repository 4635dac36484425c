#!/usr/bin/env bash
# Builds a tool that the tests of deploy/ use, from the Go module proxy, and prints its path in target/deploy-tools/bin:
# scripts/deploy-tools.sh func-e | crane | registry | helm | kubectl-validate | compose-check | istioctl | envoy-gateway
#
# A tool is built once; its version is in the table below. The Go caches are in target/deploy-tools, too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool="${1:-}"
home="$root/target/deploy-tools"
wrapper=
case "$tool" in
  func-e) package=github.com/tetratelabs/func-e/cmd/func-e version=v1.6.0 ;;
  crane | registry) package=github.com/google/go-containerregistry/cmd/$tool version=v0.22.1 ;;
  helm) package=helm.sh/helm/v4/cmd/helm version=v4.3.1 ;;
  kubectl-validate)
    package=sigs.k8s.io/kubectl-validate version=v0.0.5-0.20250915070809-d2f2d68fba09
    ;;
  # Istio tags no Go module; this commit is of version 1.31.
  istioctl)
    package=istio.io/istio/istioctl/cmd/istioctl version=v0.0.0-20260827124520-eed52ebb66ad
    ;;
  envoy-gateway) package=github.com/envoyproxy/gateway/cmd/envoy-gateway version=v1.9.1 ;;
  # A program of this repository around a library, in tests/deploy/tools/<tool>.
  compose-check) package=. version= wrapper="$root/tests/deploy/tools/$tool" ;;
  *) die "scripts/deploy-tools.sh: no tool '$tool'; the head of the script lists them" ;;
esac

has go || apt_install golang-go
mkdir -p "$home/bin"
# Tests run in parallel, and each may call this script. One build at a time: two would share the same cores.
if has flock; then
  exec 9>"$home/build.lock"
  flock 9
fi
recipe="$package@$version"
if [ -n "$wrapper" ]; then recipe="$(cat "$wrapper"/* | sha256sum)"; fi
if [ ! -x "$home/bin/$tool" ] || [ "$(cat "$home/bin/$tool.recipe" 2>/dev/null)" != "$recipe" ]; then
  export GOMODCACHE="$home/go-mod" GOCACHE="$home/go-cache" GOBIN="$home/bin"
  # By default go makes the module cache read-only, and rm fails.
  export GOFLAGS=-modcacherw CGO_ENABLED=0
  started=$SECONDS
  say "building $tool${version:+ $version} from the Go module proxy into target/deploy-tools"
  build=(go install -v -trimpath -ldflags "-s -w" "$package${version:+@$version}")
  if [ -n "$wrapper" ]; then
    cd "$wrapper"
    build=(go build -v -trimpath -ldflags "-s -w" -o "$home/bin/$tool" .)
  fi
  log="$home/$tool.log"
  # go prints one line for each package that it compiles.
  if ! "${build[@]}" 2>&1 </dev/null | tee "$log" | awk -v tool="$tool" \
    '!/^go: / && ++compiled % 200 == 0 { print tool ": " compiled " packages compiled"; fflush() }' >&2; then
    tail -n 20 "$log" >&2
    die "go could not build $tool; the end of its output is above"
  fi
  echo "$recipe" >"$home/bin/$tool.recipe"
  say "$tool: built in $((SECONDS - started)) s"
fi
echo "$home/bin/$tool"
