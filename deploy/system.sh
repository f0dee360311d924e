#!/usr/bin/env bash
# What the sandboxes need of the system: bubblewrap. Installed here where we may, else asked for.
set -euo pipefail
command -v bwrap >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq bubblewrap >/dev/null
    exit 0
fi
echo "bubblewrap is missing: install it (Debian, Ubuntu: sudo apt-get install bubblewrap)" >&2
exit 1
