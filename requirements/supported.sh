#!/bin/sh
# Stops with one sentence if the environment cannot be created: supported.sh PYTHON DJANGO
python=$1 django=$2

stop() {
    echo "make: $1" >&2
    exit 1
}

case $django in
5.2) least=3.11 ;;
6.0 | 6.1) least=3.12 ;;
*) stop "DJANGO must be 5.2, 6.0 or 6.1, not '$django'; try 'make demo DJANGO=5.2'." ;;
esac

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    stop "cannot run '$python' as Python; install Python $least or newer (Debian, Ubuntu: 'apt install python3 python3-venv'), or use another one: 'make demo PYTHON=python3.13'."

[ "${version%%.*}" -eq 3 ] && [ "${version#*.}" -ge "${least#*.}" ] ||
    stop "Django $django needs Python $least or newer, but '$python' is Python $version; install a newer one, or use one that is installed: 'make demo PYTHON=python3.13'."

"$python" -c 'import ssl, venv, ensurepip' 2>/dev/null ||
    stop "'$python' (Python $version) has no venv or no ssl module, which the environment needs; install them (Debian, Ubuntu: 'apt install python$version-venv'), or use another Python: 'make demo PYTHON=python3.13'."
