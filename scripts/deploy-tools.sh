#!/usr/bin/env bash
# Builds a tool that the tests of deploy/ use, from the Go module proxy, and prints its path in target/deploy-tools/bin:
# scripts/deploy-tools.sh func-e | crane | registry | helm | kubectl-validate | compose-check
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
  # A program of this repository around a library, in tests/deploy/tools/<tool>.
  compose-check) package=. version= wrapper="$root/tests/deploy/tools/$tool" ;;
  *) die "scripts/deploy-tools.sh func-e | crane | registry | helm | kubectl-validate | compose-check" ;;
esac

recipe="$package@$version"
if [ -n "$wrapper" ]; then recipe="$(cat "$wrapper"/* | sha256sum)"; fi
is_built() { [ -x "$home/bin/$tool" ] && [ "$(cat "$home/bin/$tool.recipe" 2>/dev/null)" = "$recipe" ]; }

build() {
  has go || apt_install golang-go
  export GOMODCACHE="$home/go-mod" GOCACHE="$home/go-cache" GOBIN="$home/bin"
  # By default go makes the module cache read-only, and rm fails.
  export GOFLAGS=-modcacherw CGO_ENABLED=0
  local started=$SECONDS log="$home/$tool.log"
  local command=(go install -v -trimpath -ldflags "-s -w" "$package${version:+@$version}")
  if [ -n "$wrapper" ]; then
    cd "$wrapper"
    command=(go build -v -trimpath -ldflags "-s -w" -o "$home/bin/$tool" .)
  fi
  say "building $tool${version:+ $version} from the Go module proxy into target/deploy-tools"
  # go prints one line for each package that it compiles.
  if ! "${command[@]}" 2>&1 </dev/null | tee "$log" | awk -v tool="$tool" \
    '!/^go: / && ++compiled % 200 == 0 { print tool ": " compiled " packages compiled"; fflush() }' >&2; then
    tail -n 20 "$log" >&2
    die "go could not build $tool; the end of its output is above"
  fi
  echo "$recipe" >"$home/bin/$tool.recipe"
  say "$tool: built in $((SECONDS - started)) s"
}

mkdir -p "$home/bin"
if ! is_built; then
  # Tests run in parallel, and each may call this script. Two builds at a time would share the same cores.
  if has flock; then
    exec 9>"$home/build.lock"
    flock 9
  fi
  is_built || build
fi
echo "$home/bin/$tool"
