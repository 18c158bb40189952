#!/usr/bin/env bash
# Make an arm64 Debian bookworm tree to run under emulation: rootfs.sh FOLDER. Its packages are fetched by apt with a
# configuration of its own, and unpacked; nothing on this machine changes. What Raspberry Pi OS Lite has and a node
# needs, no more: Python 3.11 without pip and ensurepip, and the usual small tools.
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$root" "$work"/{lists/partial,cache/archives/partial,state,etc}
key=/usr/share/keyrings/debian-archive-keyring.gpg
# The mirror this machine uses itself.
mirror=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
[ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list | head -n 1)
echo "deb [arch=arm64 signed-by=$key] $mirror bookworm main" > "$work/etc/sources.list"
touch "$work/state/status"
options=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::Etc::sourcelist=$work/etc/sources.list"
    -o Dir::Etc::sourceparts=/dev/null -o "Dir::State=$work" -o "Dir::State::Lists=$work/lists"
    -o "Dir::State::status=$work/state/status" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none)
apt-get "${options[@]}" update -qq
apt-get "${options[@]}" install -y -qq --no-install-recommends --download-only \
    python3 dash coreutils sed grep libstdc++6 ca-certificates >/dev/null
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
mkdir -p "$root"/{proc,dev,sys,root,tmp,etc}
ln -sf dash "$root/bin/sh"
cp /etc/resolv.conf "$root/etc/" 2>/dev/null || true
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
