#!/usr/bin/env bash
# Prints the path of Chromium: $CHROMIUM, else one on the PATH, else Debian's.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ -n "${CHROMIUM:-}" ]; then
  command -v "$CHROMIUM" || die "CHROMIUM is $CHROMIUM, which is not a program"
  exit
fi
for name in chromium chromium-browser google-chrome; do
  if command -v "$name"; then exit; fi
done
apt_install chromium
command -v chromium || die "Debian's chromium is installed, but not on the PATH"
