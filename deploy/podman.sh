#!/usr/bin/env bash
# What the tests of container sandboxes need: Podman with runc, and what their small image is made of.
# Installed here where we may, else asked for.
set -euo pipefail
missing=()
for tool in podman:podman runc:runc busybox:busybox-static git:git ps:procps openssl:openssl; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool#*:}")
done
[ -x /usr/bin/python3 ] || missing+=(python3)
if [ ${#missing[@]} != 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            "${missing[@]}" >/dev/null </dev/null
    else
        echo "missing: ${missing[*]} (Debian: sudo apt-get install ${missing[*]})" >&2
        exit 1
    fi
fi
if [ "$(id -u)" != 0 ]; then
    echo "the tests start an engine of their own, which needs root" >&2
    exit 1
fi
