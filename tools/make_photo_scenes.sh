#!/bin/sh
# Usage: tools/make_photo_scenes.sh PYTHON
# The same as `featcomp datasets --build photo_scenes`, with that Python.
set -eu
exec "$1" -m d2_featcomp datasets --build photo_scenes
