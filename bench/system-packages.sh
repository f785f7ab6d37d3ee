#!/usr/bin/env bash
# Installs the Debian packages that the benchmark needs, if run as root; otherwise prints the missing ones.
set -euo pipefail

mapfile -t wanted < <(sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$(dirname "$0")/debian-packages.txt")
missing=()
for package in "${wanted[@]}"; do
    [[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" == ii* ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

if [[ "$(id -u)" != 0 ]]; then
    echo "The benchmark needs the Debian packages ${missing[*]}; install them with apt-get." >&2
    exit 1
fi
# Only their programs are needed, so no daemon is started.
policy=/usr/sbin/policy-rc.d
if [[ ! -e "$policy" ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "${missing[@]}" < /dev/null
