#!/bin/sh
# Checks d2_featcomp on a GPU, without a network: tools/gpu_check.sh [options of tools/gpu_check.py].
# Wheels in .whl/, where there are any, are installed for this run alone. $PYTHON is what to run with (python3).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ls .whl/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" tools/gpu_check.py "$@"
