#!/usr/bin/env bash
# Installs the Debian packages the tests need. Changes a machine only where that is expected: as root, with CI set.
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
    # No package starts a service: the tests start what they need themselves, and end it.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e "$policy" ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    apt-get install -qq --yes --no-install-recommends "${missing[@]}"
fi
