#!/usr/bin/env bash
# Installs a tool that the tests of deploy/ use, and prints its path:
# scripts/deploy-tools.sh func-e | crane | helm | kustomize | compose-check | kubernetes-validate | buildah |
# istioctl | istio-config | envoy-gateway
#
# Most tools are built once, from the Go module proxy, into target/deploy-tools/bin, with the Go caches beside it. The
# table below has the versions.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool="${1:-}"
home="$root/target/deploy-tools"
wrapper=
case "$tool" in
  func-e) package=github.com/tetratelabs/func-e/cmd/func-e version=v1.6.0 ;;
  crane) package=github.com/google/go-containerregistry/cmd/crane version=v0.22.1 ;;
  helm) package=helm.sh/helm/v4/cmd/helm version=v4.3.1 ;;
  kustomize) package=sigs.k8s.io/kustomize/kustomize/v5 version=v5.8.1 ;;
  # Istio has no tags for Go modules. This commit belongs to version 1.31.
  istioctl)
    package=istio.io/istio/istioctl/cmd/istioctl version=v0.0.0-20260827124520-eed52ebb66ad
    ;;
  envoy-gateway) package=github.com/envoyproxy/gateway/cmd/envoy-gateway version=v1.9.1 ;;
  # A program of this repository that uses a library: tests/deploy/tools/<tool>.
  compose-check | istio-config) package=. version='' wrapper="$root/tests/deploy/tools/$tool" ;;
  # From PyPI, with the schemas of Kubernetes 1.25 to 1.37.
  kubernetes-validate) package=kubernetes-validate version=1.37.0 ;;
  # From Debian.
  buildah)
    has buildah || apt_install buildah
    command -v buildah
    exit
    ;;
  *) die "scripts/deploy-tools.sh: no tool '$tool'; the head of the script lists them" ;;
esac

recipe="$package@$version"
if [ -n "$wrapper" ]; then recipe="$(cat "$wrapper"/* | sha256sum)"; fi
is_built() { [ -x "$home/bin/$tool" ] && [ "$(cat "$home/bin/$tool.recipe" 2>/dev/null)" = "$recipe" ]; }

# install_from_pypi: installs into a separate virtual environment.
install_from_pypi() {
  has python3 || apt_install python3 python3-venv
  local venv="$home/$tool-venv"
  say "installing $package $version from PyPI into target/deploy-tools"
  # Debian has venv in the package python3-venv.
  if ! python3 -m venv "$venv" >/dev/null 2>&1; then
    rm -rf "$venv"
    apt_install python3-venv
    python3 -m venv "$venv" >&2 || die "python3 -m venv $venv failed; its output is above"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package==$version" >&2 </dev/null ||
    die "pip could not install $package==$version; its output is above"
  ln -sf "$venv/bin/$tool" "$home/bin/$tool"
  echo "$recipe" >"$home/bin/$tool.recipe"
}

build() {
  if [ "$tool" = kubernetes-validate ]; then
    install_from_pypi
    return
  fi
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

main() {
  mkdir -p "$home/bin"
  if ! is_built; then
    # Tests run in parallel, and each may call this script. Two builds at the same time would share the cores.
    if has flock; then
      exec 9>"$home/build.lock"
      flock 9
    fi
    is_built || build
  fi
  echo "$home/bin/$tool"
}

main
exit
