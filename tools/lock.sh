#!/bin/sh
# Usage: tools/lock.sh [PYTHON]
# Writes tools/requirements.lock from tools/requirements.txt: everything that these need, in versions for every
# supported Python and system, each with the SHA-256 of its files. Needs the package index.
set -eu

python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install --quiet uv==0.13.9
{
    echo '# Made by tools/lock.sh from requirements.txt.'
    "$folder/venv/bin/python" -m uv --quiet pip compile --universal --python-version 3.10 --generate-hashes \
        --no-annotate --no-header "$root/tools/requirements.txt"
} > "$folder/requirements.lock"
cp "$folder/requirements.lock" "$root/tools/requirements.lock"
