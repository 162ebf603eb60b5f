#!/bin/sh
# Usage: tools/install.sh PYTHON VENV
# Makes the virtual environment VENV with everything that d2_featcomp needs, at the versions pinned in
# tools/requirements.txt and requirements.lock; a file whose checksum is not there is refused. The file
# VENV/.complete is written last; without it nothing counts as installed.
set -eu

python=$1
venv=$2
root=$(cd "$(dirname "$0")/.." && pwd)
pins=$root/tools/requirements.txt
locked=$root/tools/requirements.lock

command -v "$python" > /dev/null || {
    echo "error: there is no $python: install Python 3.10 or newer, or set PYTHON=" >&2
    exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$python" --version 2>&1) is too old: d2_featcomp needs Python 3.10 or newer; set PYTHON=" >&2
    exit 2
}
wanted="$(cat "$pins" "$locked" "$root/setup.py" "$0" | cksum) $("$python" --version 2>&1) $root"
if [ -f "$venv/.complete" ] && [ "$(cat "$venv/.complete")" = "$wanted" ]; then
    exit 0
fi
rm -f "$venv/.complete"
if [ ! -e "$venv" ]; then
    mkdir -p "$(dirname "$venv")"
    free=$(df -Pk "$(dirname "$venv")" | awk 'NR == 2 {print int($4 / 1000000)}')
    [ "$free" -ge 6 ] || {
        echo "error: $venv needs 6 GB, and its disk has $free GB left: free some, or set VENV= to another disk" >&2
        exit 2
    }
fi
echo "Installing into $venv (6 GB, some minutes) ..."
"$python" -m venv "$venv" || {
    echo "error: cannot create a virtual environment: on Debian and Ubuntu, install python3-venv" >&2
    exit 2
}
pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}
install_locked() {
    pip install --quiet --no-deps --require-hashes "$@"
}
# What has no wheel is built with these, not with what pip would fetch for it.
sed -n -e '/^setuptools==/,/[^\\]$/p' -e '/^wheel==/,/[^\\]$/p' "$locked" > "$venv/build.txt"
install_locked --requirement "$venv/build.txt"
install_locked --no-build-isolation --requirement "$locked"
if ! "$venv/bin/python" -c 'import detectron2' 2>/dev/null; then
    # The wheel is tagged for one Python version, but its Python code runs on all of them.
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    sed -n 's/^# \(sal-detectron2==.*\)$/\1/p' "$pins" > "$venv/detectron2.txt"
    # From a folder of the same disk pip moves it into place in one step.
    TMPDIR=$(cd "$venv" && pwd)
    export TMPDIR
    install_locked --only-binary=:all: --python-version 3.10 --upgrade --target "$site" \
        --requirement "$venv/detectron2.txt"
fi
pip install --quiet --no-deps --no-build-isolation --editable "$root"
"$venv/bin/python" -c 'import d2_featcomp'
echo "$wanted" > "$venv/.complete"
