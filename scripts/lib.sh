# shellcheck shell=bash
# Functions shared by the scripts in this directory. Messages go to stderr, results to stdout.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Installs Debian packages, as root or with a sudo that needs no password. Otherwise prints the command to run.
apt_install() {
  has apt-get || die "this needs the Debian packages $*, but there is no apt-get; install their equivalents"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    { has sudo && sudo -n true 2>/dev/null; } || die "this needs $*. Run: sudo apt-get install $*"
    as_root=(sudo -n)
  fi
  say "installing $* with apt-get"
  # In a container image without package lists the first install fails.
  if ! apt_quietly install "$@"; then
    apt_quietly update || true
    apt_quietly install "$@" || {
      tail -n 20 "$apt_log" >&2
      die "apt-get could not install $*; the end of its output is above"
    }
  fi
}

apt_quietly() {
  local command="$1"
  shift
  local options=(-y)
  if [ "$command" = install ]; then options+=(--no-install-recommends); fi
  mkdir -p "$root/target"
  apt_log="$root/target/apt.log"
  # apt_install has set as_root.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$command" "${options[@]}" "$@" >"$apt_log" 2>&1 </dev/null
}
