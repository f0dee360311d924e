#!/usr/bin/env bash
# What is needed of the system: bubblewrap for the sandboxes; virtual environments; for vLLM, which
# compiles its models, a compiler, Python's headers and on the CPU libnuma; for tests of several
# hosts, iproute2; for those of the TypeScript client, Node and npm. Installed here where we may, else
# asked for.
#   deploy/system.sh PYTHON
set -euo pipefail
python=$1
missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v g++ >/dev/null || missing+=(g++)
PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null || missing+=(iproute2) # the tests' networks
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    missing+=(python3-dev)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
[[ $(/sbin/ldconfig -p) == *libnuma.so.1* ]] || missing+=(libnuma1)
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    exit 0
fi
echo "missing: ${missing[*]} (Debian, Ubuntu: sudo apt-get install ${missing[*]})" >&2
exit 1
