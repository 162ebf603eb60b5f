"""Files of Debian packages, without installing them."""

import glob
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["fetch_debian_packages"]

_COMPLETE = ".complete"


def fetch_debian_packages(names, folder):
    """Downloads packages with apt-get, which checks them against Debian's signatures, and unpacks them.
    What is unpacked already is left as it is. No root is needed.

    Args:
        names (sequence[str]): of packages.
        folder (str): gets their files; made if there is none.

    Raises:
        FileNotFoundError: this machine has no apt-get or no dpkg-deb. OSError: apt-get cannot get them.
    """
    mark = os.path.join(folder, _COMPLETE)
    complete = "".join(f"{name}\n" for name in names)
    if os.path.isfile(mark) and Path(mark).read_text(encoding="utf-8") == complete:
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FileNotFoundError(
            "this needs Debian's apt-get and dpkg-deb; elsewhere unpack the packages "
            f"{' and '.join(names)} yourself and call what uses them, e.g. featcomp make-scenes"
        )
    os.makedirs(folder, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", *names], cwd=folder, check=True)
        for package in sorted(glob.glob(os.path.join(glob.escape(folder), "*.deb"))):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
            os.remove(package)
    except subprocess.CalledProcessError as error:
        raise OSError(
            f"cannot download or unpack {' and '.join(names)}: check the network, and run apt-get update"
        ) from error
    Path(mark).write_text(complete, encoding="utf-8")
