#!/usr/bin/env bash
# Install the Debian packages that the device suites run: a browser for the pages, an emulator for boards, network
# namespaces for links that break, clocks that jump, a JDK. Needs root where one is missing.
set -euo pipefail
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
command -v ip >/dev/null || missing+=(iproute2)
command -v faketime >/dev/null || missing+=(faketime)
command -v g++ >/dev/null || missing+=(g++)
command -v javac >/dev/null || missing+=(default-jdk-headless)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "make test-devices needs ${missing[*]}: install them with apt-get install ${missing[*]}" >&2
    exit 1
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
