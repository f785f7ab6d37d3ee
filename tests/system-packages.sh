#!/usr/bin/env bash
# Installs the Debian packages that the tests need, but only as root with CI set, so that it changes no other machine.
set -euo pipefail

[[ -n "${CI:-}" && "$(id -u)" == 0 ]] || exit 0

mapfile -t wanted < <(sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$(dirname "$0")/debian-packages.txt")
missing=()
for package in "${wanted[@]}"; do
    [[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" == ii* ]] || missing+=("$package")
done
if ((${#missing[@]})); then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Prevent packages from starting services: the tests start and end the services that they use.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e "$policy" ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    apt-get install -qq --yes --no-install-recommends "${missing[@]}"
fi
