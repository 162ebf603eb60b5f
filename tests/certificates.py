"""Certificates of an authority of our own, made by the program openssl."""

import shutil
import subprocess


def find_openssl():
    return shutil.which("openssl")


class Authority:
    """Signs certificates.

    Args:
        folder (Path): for all files, PEM.
        name (str): of its own files.

    Attributes:
        certificate (str): path of its own.
    """

    def __init__(self, folder, name="ca"):
        self._folder, self._name = folder, name
        self.certificate = str(folder / f"{name}.pem")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        self._key = key
        usage = ("-addext", "keyUsage=critical,keyCertSign")
        run("req", "-x509", *key, "-subj", f"/CN={name}", *usage, *self._files(name, "-out"))

    def _files(self, name, out):
        return "-keyout", str(self._folder / f"{name}.key"), out, str(self._folder / f"{name}.pem")

    def sign(self, name, alternative="IP:127.0.0.1"):
        """(path of a certificate, path of its key)"""
        signer = ("-CA", self.certificate, "-CAkey", str(self._folder / f"{self._name}.key"))
        names = ("-addext", f"subjectAltName={alternative}")
        run(
            "req",
            "-x509",
            *self._key,
            "-subj",
            f"/CN={name}",
            *names,
            *signer,
            *self._files(name, "-out"),
        )
        return str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")


def run(*arguments):
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
