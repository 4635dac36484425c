#!/usr/bin/env bash
# Makes a release in dist/ (or DIST_DIR) from target/keen_edge.wasm:
#
# keen_edge.wasm, keen_edge.wasm.sha256   the filter, and its checksum for `sha256sum --check` and Envoy's remote code
# keen-edge-filter-oci/                   OCI layout of deploy/container/Dockerfile.filter, tagged with the version
# keen-edge-VERSION.tgz                   the Helm chart
# config.schema.json                      the JSON Schema of the filter's configuration
# keen_edge.cdx.json                      SBOM of the filter in CycloneDX: the crates in the module
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

cyclonedx_version=0.5.9
dist="${DIST_DIR:-$root/dist}"
version="$(sed -nE 's/^version = "(.*)"$/\1/p' Cargo.toml | head -n 1)"
wasm=target/keen_edge.wasm
[ -e "$wasm" ] || die "no $wasm: run \`make build\`"

mkdir -p target
work="$(mktemp -d "$root/target/dist.XXXXXX")"
sbom_name="keen-edge-dist-sbom"
storage=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")

clean_up() {
  rm -rf "$work"
  # cargo-cyclonedx writes a file beside each Cargo.toml of the workspace.
  find . -path ./target -prune -o -name "$sbom_name.json" -exec rm -f {} +
}
trap clean_up EXIT

new="$work/dist"
mkdir "$new"
say "dist: the filter"
cp "$wasm" config.schema.json "$new/"
(cd "$new" && sha256sum keen_edge.wasm >keen_edge.wasm.sha256)

say "dist: the OCI layout of the filter's image"
buildah="$(scripts/deploy-tools.sh buildah)"
# Without a user namespace buildah needs root, but no daemon and no container runtime.
"$buildah" "${storage[@]}" bud --quiet --isolation chroot --timestamp 0 \
  -f deploy/container/Dockerfile.filter -t keen-edge-filter . >/dev/null
"$buildah" "${storage[@]}" push --quiet keen-edge-filter "oci:$new/keen-edge-filter-oci:$version"

say "dist: the Helm chart"
helm="$(scripts/deploy-tools.sh helm)"
"$helm" package --destination "$new" deploy/helm/keen-edge >/dev/null

say "dist: the SBOM"
tool="$root/target/tools/bin/cargo-cyclonedx"
if [ "$("$tool" cyclonedx --version 2>/dev/null)" != "cargo-cyclonedx-cyclonedx $cyclonedx_version" ]; then
  say "building cargo-cyclonedx $cyclonedx_version (once, some minutes)"
  cargo install --quiet "cargo-cyclonedx@$cyclonedx_version" --locked --root "$root/target/tools" </dev/null >&2 ||
    die "cargo could not build cargo-cyclonedx $cyclonedx_version"
fi
"$tool" cyclonedx --quiet --format json --spec-version 1.5 --target wasm32-unknown-unknown --no-build-deps \
  --override-filename "$sbom_name" >&2
# Removes the path of this checkout, which has no meaning on other machines.
sed "s|path+file://$root|path+file:///keen-edge|" "$sbom_name.json" >"$new/keen_edge.cdx.json"

rm -rf "$dist"
mkdir -p "$(dirname "$dist")"
mv "$new" "$dist"
say "dist: $dist"
ls "$dist"
