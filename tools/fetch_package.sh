#!/bin/sh
# Usage: tools/fetch_package.sh PYTHON wheel|source NAME==VERSION SHA256 FOLDER
# Downloads one file of the package index into FOLDER with pip, which compares its checksum; nothing is installed.
set -eu

python=$1 kind=$2 package=$3 checksum=$4 folder=$5
case $kind in
    wheel) kinds="--only-binary :all:" ;;
    source) kinds="--no-binary :all: --no-build-isolation" ;;
esac
mkdir -p "$folder"
echo "$package --hash=sha256:$checksum" > "$folder/hash.txt"
# shellcheck disable=SC2086 # two or three words
"$python" -m pip --disable-pip-version-check download --quiet --no-deps $kinds --require-hashes \
    --dest "$folder" --requirement "$folder/hash.txt" || {
    echo "error: cannot download $package, or it is not the file that it was" >&2
    exit 2
}
