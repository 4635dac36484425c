#!/usr/bin/env bash
# Builds the filter: target/keen_edge.wasm. `scripts/build.sh clippy` lints it for wasm32.
# `scripts/build.sh panic-switch` builds a filter that a request can end, for a test:
# target/keen_edge_panic_switch.wasm.
# `scripts/build.sh build PACKAGE` builds another filter of this workspace: target/PACKAGE.wasm.
#
# WASM_TOOLCHAIN=rustup  the Rust on the PATH, with rustup's wasm32 target
# WASM_TOOLCHAIN=debian  Debian's Rust, which compiles the standard library for wasm32 itself
# Unset: the first if its target is installed or can be added, else the second.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

verb="${1:-build}"
package="${2:-keen-edge}"
module="${package//-/_}.wasm"
built="$module"
triple=wasm32-unknown-unknown
max_size=520000 # bytes, after wasm-opt; tests/abi asserts it
debian_packages=(rustc-web cargo-web rust-web-src lld-22)
if [ "$verb" = clippy ]; then debian_packages+=(rust-web-clippy); fi
target_dir="${CARGO_TARGET_DIR:-$root/target}"

options=(--package "$package" --lib --release --target "$triple")
if [ "$verb" = panic-switch ]; then
  options+=(--features "$verb")
  built="keen_edge_${verb//-/_}.wasm"
  # A separate target directory, so that the filter itself is not rebuilt each time.
  target_dir="$target_dir/$verb"
fi
if [ "${CI:-}" = true ] && [ -e Cargo.lock ]; then options+=(--locked); fi

# Whether the Rust on the PATH can build for wasm32.
target_is_there() {
  local libraries
  libraries="$(rustc --print target-libdir --target "$triple" 2>/dev/null)" && [ -d "$libraries" ]
}

# With a timeout: without access to the internet the connection may hang.
add_target() {
  has rustup || return 1
  say "adding rustup's target $triple"
  timeout 120 rustup --quiet target add "$triple" </dev/null >&2
}

debian_is_there() {
  local package
  for package in "${debian_packages[@]}"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null)" = 'ii ' ] || return 1
  done
}

choose() {
  case "${WASM_TOOLCHAIN:-}" in
    rustup)
      has cargo || die "no cargo on the PATH; https://rustup.rs installs it"
      target_is_there || add_target || die "no $triple for this Rust. Run: rustup target add $triple"
      way=rustup
      ;;
    debian) way=debian ;;
    '')
      # Debian's packages are installed because the target could not be added before: do not try the network again.
      if has cargo && { target_is_there || { ! debian_is_there && add_target; }; }; then
        way=rustup
      elif has apt-get; then
        way=debian
      else
        die "no Rust that builds for $triple. Install rustup (https://rustup.rs), then: rustup target add $triple"
      fi
      ;;
    *) die "WASM_TOOLCHAIN must be rustup or debian, not $WASM_TOOLCHAIN" ;;
  esac
}

choose
has cc || apt_install gcc libc6-dev # build scripts are linked for this machine

if [ "$way" = rustup ]; then
  say "$verb for $triple with $(rustc --version)"
  out="$target_dir"
  cargo=(cargo)
else
  debian_is_there || apt_install "${debian_packages[@]}"
  say "$verb for $triple with Debian's $(/usr/bin/rustc --version), which builds the standard library too"
  # A separate target directory: each compiler would discard the other's output.
  out="$target_dir/debian"
  # -Zbuild-std needs a nightly compiler; RUSTC_BOOTSTRAP allows it in a stable one. Debian's linker has its version
  # in its name.
  cargo=(env -u RUSTUP_TOOLCHAIN PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-22 /usr/bin/cargo)
  options+=("-Zbuild-std=std,panic_abort")
fi

# Panics name their source files. Without the paths of this machine every machine builds the same module.
"${cargo[@]}" fetch --quiet ${CI:+--locked} --target "$triple"
remap="'--remap-path-prefix=$root=keen-edge'"
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do remap+=",'--remap-path-prefix=$registry='"; done
options+=(--config "target.$triple.rustflags=[$remap]")

if [ "$verb" = clippy ]; then
  exec "${cargo[@]}" clippy "${options[@]}" --target-dir "$out" -- -D warnings
fi
# Only as a cdylib: cargo omits link-time optimization for a library that is also an rlib.
"${cargo[@]}" rustc "${options[@]}" --crate-type cdylib --target-dir "$out"

# Binaryen makes the module a fifth faster and a tenth smaller. The filter works without it. Its installation is
# tried once.
has_binaryen() {
  if has wasm-opt && has wasm-metadce; then return; fi
  if [ -e "$root/target/no-wasm-opt" ]; then return 1; fi
  mkdir -p target && touch target/no-wasm-opt
  (apt_install binaryen) || return 1
  rm target/no-wasm-opt
}

# Prints the graph of used exports for wasm-metadce, from a file with one name per line.
used_exports() {
  local name names nodes=
  names="$(sed 's/.*/"&"/' "$1" | paste --serial --delimiters=,)"
  while read -r name; do nodes+=", {\"name\": \"$name\", \"export\": \"$name\"}"; done <"$1"
  printf '[{"name": "envoy", "root": true, "reaches": [%s]}%s]\n' "$names" "$nodes"
}

mkdir -p target
linked="$out/$triple/release/$module"
# Replaces the output in one step: an Envoy that reads it meanwhile gets the old file or the new one.
new="target/$built.$$.new"
if has_binaryen; then
  # The wasm features beyond its first version that Rust's wasm32 target uses.
  features=(--enable-bulk-memory --enable-sign-ext --enable-mutable-globals --enable-nontrapping-float-to-int
    --enable-multivalue --enable-reference-types --enable-simd)
  if [ "$package" = keen-edge ]; then
    # The SDK exports every callback of the ABI. Without the exports that the filter does not implement the module is
    # smaller, and Envoy does not enter it for them.
    used_exports scripts/wasm-exports.txt >target/exports.json
    wasm-metadce "${features[@]}" --graph-file target/exports.json "$linked" -o "$new" >/dev/null
    linked="$new"
  fi
  wasm-opt -O3 -Oz "${features[@]}" "$linked" -o "$new"
else
  say "not optimized: Debian's binaryen (wasm-opt, wasm-metadce) makes the module smaller and faster"
  cp "$linked" "$new"
fi
mv "$new" "target/$built"
size="$(wc -c <"target/$built")"
if [ "$built" = keen_edge.wasm ] && [ "$size" -gt "$max_size" ]; then
  say "target/$built: $size bytes, over the $max_size that docs/performance.md states"
else
  say "target/$built: $size bytes"
fi
