#!/bin/sh
# Usage: tools/make_photo_scenes.sh PYTHON
# Builds the data set `photo_scenes` below DETECTRON2_DATASETS (default: datasets) from the cut-outs of
# Debian's tuxpaint-stamps-default and the photographs of mate-backgrounds. The packages are downloaded
# with apt-get, which checks them against Debian's signatures, and unpacked beside the data set; nothing is
# installed and no root is needed.
set -eu

python=$1
tools=$(cd "$(dirname "$0")" && pwd)
root=${DETECTRON2_DATASETS:-datasets}
if "$python" "$tools/make_scenes.py" --name photo_scenes --check; then
    exit 0
fi
sources=$root/photo_scenes_sources
if [ ! -f "$sources/.complete" ]; then
    command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || {
        echo "error: this needs Debian's apt-get and dpkg-deb; elsewhere unpack the packages" \
            "tuxpaint-stamps-default and mate-backgrounds yourself and call tools/make_scenes.py" >&2
        exit 2
    }
    mkdir -p "$sources"
    (
        cd "$sources"
        echo "Downloading two Debian packages (208 MB) ..."
        apt-get download tuxpaint-stamps-default mate-backgrounds || {
            echo "error: cannot download the packages: check the network, and run apt-get update" >&2
            exit 2
        }
        for package in ./*.deb; do dpkg-deb -x "$package" .; done
        rm ./*.deb
        touch .complete
    )
fi
"$python" "$tools/make_scenes.py" --name photo_scenes \
    --cutouts "$sources/usr/share/tuxpaint/stamps" \
    --backgrounds "$sources/usr/share/backgrounds/mate/nature" \
    --classes animals food plants vehicles household hobbies --exclude cartoon
