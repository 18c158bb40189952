#!/bin/sh
# Make this board a node of an edgekit federation, without any network but the coordinator's.
#
#   sudo ./install.sh                                              install, and join later
#   sudo ./install.sh 'https://HOST:PORT#CODE' --data npz:FILE     install, join, and start the service
#
# What comes after the address goes to `edgekit join`. Everything lives in /opt/edgekit (the program) and
# /var/lib/edgekit (the node's keys, ledger and models); EDGEKIT_PREFIX and EDGEKIT_STATE choose other places.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
prefix=${EDGEKIT_PREFIX:-/opt/edgekit}
state=${EDGEKIT_STATE:-/var/lib/edgekit}
unit=${EDGEKIT_UNITS:-/etc/systemd/system}/edgekit-node.service
. "$here/bundle.env"

fail() { echo "install.sh: $1" >&2; exit 1; }

[ "$(uname -m)" = "$architecture" ] || fail "this bundle is for $architecture ($device), this machine is $(uname -m)"
command -v python3 >/dev/null || fail "python3 is missing: install Python $python first"
found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = "$python" ] || fail "this bundle is for Python $python, python3 here is $found: make one with --python $found"
[ "$(python3 -c 'import struct; print(struct.calcsize("P"))')" = 8 ] || fail "this bundle is for 64-bit systems; this Python is 32-bit"
if [ -d /run/systemd/system ] && [ "$state" != /var/lib/edgekit ]; then
    fail "EDGEKIT_STATE is for systems without systemd: the service keeps its state in /var/lib/edgekit"
fi
mkdir -p "$prefix" "$state" 2>/dev/null && [ -w "$prefix" ] && [ -w "$state" ] || fail "cannot write $prefix and $state: run with sudo"
free=$(df -Pk "$prefix" | tail -n 1 | tr -s ' ' | cut -d ' ' -f 4)
[ "$free" -gt 409600 ] || fail "$prefix has ${free} kB free, 400 MB are needed"

echo "installing edgekit $edgekit for $device into $prefix"
rm -rf "$prefix/venv.new"
# Without pip: Debian's Python brings none; the bundle has its own.
python3 -m venv --without-pip "$prefix/venv.new"
for pip in "$here"/wheels/pip-*.whl; do break; done
PYTHONPATH="$pip" "$prefix/venv.new/bin/python" -m pip install --quiet --no-index --no-deps \
    ${EDGEKIT_NO_COMPILE:+--no-compile} --disable-pip-version-check --root-user-action=ignore --find-links "$here/wheels" -r "$here/lock.txt"
if [ -d /run/systemd/system ]; then systemctl stop edgekit-node 2>/dev/null || :; fi
# The programs of a virtual environment know where they live.
rm -rf "$prefix/venv.old"
[ ! -d "$prefix/venv" ] || mv "$prefix/venv" "$prefix/venv.old"
mv "$prefix/venv.new" "$prefix/venv"
for program in "$prefix"/venv/bin/*; do
    case $(head -c 2 "$program" | tr -d '\0') in '#!') sed -i "1s|$prefix/venv.new/|$prefix/venv/|" "$program" ;; esac
done
rm -rf "$prefix/venv.old"
"$prefix/venv/bin/edgekit" --version

if [ $# -gt 0 ]; then
    "$prefix/venv/bin/edgekit" join "$@" --folder "$state/node" --enrol-only
fi
if [ -d /run/systemd/system ]; then
    sed "s|@prefix@|$prefix|g; s|@state@|$state|g" "$here/edgekit-node.service" > "$unit"
    systemctl daemon-reload
    if [ -f "$state/node/membership.json" ]; then
        systemctl enable edgekit-node
        systemctl restart edgekit-node
        echo "the node runs: journalctl -u edgekit-node -f"
    else
        systemctl enable edgekit-node
        echo "join with: sudo $prefix/venv/bin/edgekit join 'https://HOST:PORT#CODE' --data npz:FILE --folder $state/node --enrol-only && sudo systemctl start edgekit-node"
    fi
else
    echo "no systemd here; start the node with: $prefix/venv/bin/edgekit join --folder $state/node"
fi
