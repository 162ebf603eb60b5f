"""A spool of bitstreams that are not sent yet: on disk, they outlive the program and the network."""

import contextlib
import hashlib
import os
import re

from ..files import remove_partial_files, sync_folder, write_bytes, write_text

__all__ = ["Spool", "compute_digest", "is_stream_id", "make_stream_id", "read_name"]

SUFFIX = ".d2fc"
NAME_SUFFIX = ".name"
REJECTED = "rejected"
_ID = re.compile(r"\w[\w.=-]{0,199}-[0-9a-f]{16}", re.ASCII)
_NAME_LENGTH = 180
DIGEST_LENGTH = 16


def make_stream_id(name, data):
    """Makes the id of a bitstream: the name of its image, and a digest of its bytes.

    Args:
        name (str): in any script. ASCII letters, digits, "_", "." and "-" stay; of other characters
            each byte of UTF-8 becomes "=" and two hexadecimal digits. A name that this makes longer
            than 180 characters is cut, with a digest of the whole name in place of the rest.
        data (bytes): the bitstream.

    Returns:
        str: of at most 197 characters of ASCII; equal for equal names and bytes, and only for them.
    """
    parts = [c if re.fullmatch(r"[\w.-]", c, re.ASCII) else _escaped(c) for c in name] or ["="]
    plain = "".join(parts)
    if not re.match(r"\w", plain, re.ASCII) or plain.startswith("_="):  # an id begins with a letter
        plain = "".join(["_", _escaped(name[:1]) or "=", *parts[1:]])
    if len(plain) > _NAME_LENGTH:
        whole = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_LENGTH]
        plain = f"{plain[: _NAME_LENGTH - DIGEST_LENGTH - 1]}-{whole}"
    return f"{plain}-{compute_digest(data)}"


def _escaped(character):
    return "".join(f"={byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


def read_name(identity):
    """Reads from an id the name that :func:`make_stream_id` was given, where it fits into it."""
    plain = identity[: -DIGEST_LENGTH - 1]
    if plain.startswith("_="):
        plain = plain[1:]
    parts = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), plain.encode())
    return "" if plain == "=" else parts.decode("utf-8", "surrogateescape")


def compute_digest(data):
    """Computes the part of an id that tells the bytes."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def is_stream_id(text):
    """Tells whether a text is an id of :func:`make_stream_id`; such a text is a safe file name."""
    return bool(_ID.fullmatch(text))


class Spool:
    """A folder of bitstreams, a file each, named by its id. Several programs may share it.

    Args:
        folder (str): made if it does not exist.
    """

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        remove_partial_files(folder)

    def _path(self, identity, suffix=SUFFIX):
        return os.path.join(self.folder, f"{identity}{suffix}")

    def add(self, name, data):
        """Keeps a bitstream, on disk, until :meth:`remove`. Returns its id.

        Raises:
            OSError: the disk is full; nothing is kept then, and nothing left.
        """
        identity = make_stream_id(name, data)
        if read_name(identity) != name:
            write_bytes(name.encode("utf-8", "surrogateescape"), self._path(identity, NAME_SUFFIX))
        write_bytes(data, self._path(identity))
        return identity

    def waiting(self):
        """Lists the ids, the oldest first."""
        times = {}
        for entry in self._entries():
            identity = _read_identity(entry)
            if identity is not None:
                with contextlib.suppress(FileNotFoundError):  # another program has sent it
                    times[identity] = entry.stat().st_mtime_ns
        return sorted(times, key=lambda identity: (times[identity], identity))

    def strangers(self):
        """Lists what lies in the folder and is no bitstream that :meth:`add` wrote."""
        return sorted(
            entry.name
            for entry in self._entries()
            if entry.name.endswith(SUFFIX) and _read_identity(entry) is None
        )

    def _entries(self):
        with os.scandir(self.folder) as entries:
            return list(entries)

    def read(self, identity):
        """bytes, or None if it is not there any more.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with open(self._path(identity), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def name(self, identity):
        """Reads the name that a bitstream was added with."""
        try:
            with open(self._path(identity, NAME_SUFFIX), "rb") as file:
                return file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return read_name(identity)

    def remove(self, identity):
        for suffix in (SUFFIX, NAME_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(identity, suffix))

    def reject(self, identity, reason):
        """Puts a bitstream that the cloud refuses aside, with the reason beside it."""
        folder = os.path.join(self.folder, REJECTED)
        os.makedirs(folder, exist_ok=True)
        write_text(f"{reason}\n", os.path.join(folder, f"{identity}.txt"))
        self._move(identity, self.folder, folder)

    def requeue(self):
        """Takes back what :meth:`reject` has put aside.

        Returns:
            list[str]: the ids; they wait again, as old as they are.
        """
        aside = os.path.join(self.folder, REJECTED)
        if not os.path.isdir(aside):
            return []
        found = Spool(aside).waiting()
        for identity in found:
            self._move(identity, aside, self.folder)
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(aside, f"{identity}.txt"))
        return found

    def _move(self, identity, source, target):
        for suffix in (NAME_SUFFIX, SUFFIX):
            with contextlib.suppress(FileNotFoundError):  # another program has sent it
                os.replace(
                    os.path.join(source, f"{identity}{suffix}"),
                    os.path.join(target, f"{identity}{suffix}"),
                )
        sync_folder(target)


def _read_identity(entry):
    """Reads the id of a spool's file; None of what is none, e.g. a folder, or a name that is not
    UTF-8."""
    identity = entry.name[: -len(SUFFIX)]
    known = entry.name.endswith(SUFFIX) and is_stream_id(identity) and entry.is_file()
    return identity if known else None
