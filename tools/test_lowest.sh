#!/bin/sh
# Usage: tools/test_lowest.sh [PYTHON [EXTRAS]]
# Installs, for this Python, the lowest versions that setup.py allows and a package index has as wheels,
# and runs with them the tests of operations and codecs. PYTHON is python3 by default, EXTRAS
# edge,hevc,torch (6 GB in a temporary folder, see TMPDIR, which is removed afterwards). "edge,hevc" takes
# 500 MB and runs the tests that need no PyTorch.
set -eu

python=${1:-python3}
extras=${2:-edge,hevc,torch}
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
run=$folder/venv/bin/python
"$run" -m pip --disable-pip-version-check install --quiet uv setuptools
# What is asked for, from setup.py.
(cd "$root" && "$run" - "$extras" > "$folder/asked.txt") << 'END'
import sys
import setuptools
from distutils.core import run_setup
distribution = run_setup("setup.py", ["--version"], stop_after="init")
asked = list(distribution.install_requires)
for extra in sys.argv[1].split(","):
    asked += distribution.extras_require[extra]
print(*asked, sep="\n")
END
# Wheels alone, but for two packages of Python code that have none.
wheels=$(sed 's/[<>=].*//' "$folder/asked.txt" | grep -v -e fvcore -e iopath | sed 's/^/--only-binary /')
# shellcheck disable=SC2086
"$run" -m uv --quiet pip compile --python "$run" --resolution lowest-direct $wheels \
    --no-header --no-annotate --output-file "$folder/lowest.txt" "$folder/asked.txt" > "$folder/log.txt"
cat "$folder/lowest.txt"
"$run" -m pip --disable-pip-version-check install --quiet --no-deps --requirement "$folder/lowest.txt"
"$run" -m pip --disable-pip-version-check install --quiet pytest pytest-xdist hypothesis
cd "$root"
export PYTHONPATH="$root" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
case ,$extras, in
    *,torch,*)
        # Detectron2, as tools/install.sh has it, with what its Python code imports.
        site=$("$run" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        detectron2=$(sed -n 's/^# \(sal-detectron2==[^ ]*\).*/\1/p' tools/requirements.txt)
        "$run" -m pip --disable-pip-version-check install --quiet --no-deps --only-binary=:all: \
            --python-version 3.10 --upgrade --target "$site" "$detectron2"
        "$run" -m pip --disable-pip-version-check install --quiet --constraint "$folder/lowest.txt" \
            cloudpickle omegaconf hydra-core tensorboard 'setuptools<81' opencv-python-headless==4.9.0.80
        set -- tests/ops tests/codecs
        ;;
    *) set -- --noconftest tests/test_files.py tests/serving/test_spool.py tests/serving/test_inputs.py \
        tests/codecs/test_image_codecs.py tests/codecs/test_image_codec_damage.py \
        tests/codecs/test_packed_symbols.py tests/codecs/test_rate_control.py ;;
esac
"$run" -m pytest -c tests/pytest.ini --rootdir . -p no:cacheprovider -m 'not slow and not gpu' "$@"
