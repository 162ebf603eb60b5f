#!/bin/sh
# Usage: tools/fetch_debian.sh PYTHON FOLDER PACKAGE...
# Downloads Debian packages with apt-get, which checks their signatures, and unpacks them into FOLDER, unless they are
# there; nothing is installed and no root is needed.
set -eu

python=$1
shift
"$python" -c '
import sys
from d2_featcomp.data.debian import fetch_debian_packages
from d2_featcomp.errors import report_errors
with report_errors("fetch_debian.sh"):
    fetch_debian_packages(sys.argv[2:], sys.argv[1])
' "$@"
