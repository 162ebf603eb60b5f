#!/bin/sh
# Usage: projects/CompressibleMTL/make_middlebury.sh PYTHON
# Builds the folder middlebury below DETECTRON2_DATASETS (default: datasets): crops of two of Middlebury's stereo
# pairs with their disparity, the data set stereo:middlebury. Downloads Debian's opencv-doc with apt-get (the pair
# "Aloe", 2006), and the sources of scikit-image 0.16.2 with pip (the pair "Motorcycle", 2014); nothing is installed
# and no root is needed.
set -eu

python=$1
here=$(cd "$(dirname "$0")" && pwd)
root=${DETECTRON2_DATASETS:-datasets}/middlebury
if [ -f "$root/.complete" ]; then exit 0; fi

sources=$root/sources
sh "$here/../../tools/fetch_debian.sh" "$python" "$sources/debian" opencv-doc
if [ ! -f "$sources/scikit-image-0.16.2/.complete" ]; then
    sh "$here/../../tools/fetch_package.sh" "$python" source scikit-image==0.16.2 \
        dd7fbd32da74d4e9967dc15845f731f16e7966cee61f5dc0e12e2abb1305068c "$sources"
    tar -xzf "$sources/scikit-image-0.16.2.tar.gz" -C "$sources" scikit-image-0.16.2/skimage/data
    touch "$sources/scikit-image-0.16.2/.complete"
fi
motorcycle=$sources/scikit-image-0.16.2/skimage/data
aloe=$sources/debian/usr/share/doc/opencv-doc/examples/data
"$python" "$here/make_middlebury.py" --output "$root" \
    --pair "$motorcycle/motorcycle_left.png" "$motorcycle/motorcycle_disp.npz" 1 \
    --pair "$aloe/aloeL.jpg" "$aloe/aloeGT.png" 2
touch "$root/.complete"
