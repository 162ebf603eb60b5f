"""Records of single images on disk, so that a stop loses nothing."""

import contextlib
import fcntl
import json
import os

from detectron2.utils import comm

__all__ = ["Records", "locked"]


@contextlib.contextmanager
def locked(folder):
    """Keeps other programs from measuring into the same folder at the same time.

    Args:
        folder (str or None): None locks nothing.

    Raises:
        ValueError: one does.
    """
    if folder is None or not comm.is_main_process():
        yield
        return
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as file:
        try:
            # Not flock: what this process forks, to read data, would hold that on after its end.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another program is measuring into {folder!r}: wait for it, or choose another folder"
            ) from error
        yield


class Records:
    """Lines "position of the image, tab, name, tab, JSON" in a file a process. A line counts when it is
    whole.

    Args:
        folder (str): that all processes see.
        key (str): the records' name.
    """

    def __init__(self, folder, key):
        self._stem = os.path.join(folder, key)
        self._file = None

    def _paths(self):
        folder, start = os.path.split(self._stem)
        names = (name for name in os.listdir(folder) if name.startswith(f"{start}."))
        return [os.path.join(folder, name) for name in sorted(names) if name.endswith(".records")]

    def find(self):
        """Looks through the files of all processes.

        Returns:
            dict: (position, name) -> where it is, for :meth:`read`.
        """
        places = {}
        for path in self._paths():
            with open(path, "rb") as file:
                start = 0
                for line in file:
                    position, _, rest = line.partition(b"\t")
                    name, tab, _ = rest.partition(b"\t")
                    if line.endswith(b"\n") and tab and position.isdigit():
                        places[int(position), name.decode()] = path, start
                    start += len(line)
        return places

    @staticmethod
    def read(places):
        """Reads what was recorded.

        Args:
            places (iterable): values of what :meth:`find` returned.

        Yields:
            what was recorded there.
        """
        with contextlib.ExitStack() as stack:
            files = {}
            for path, start in places:
                if path not in files:
                    files[path] = stack.enter_context(open(path, "rb"))
                files[path].seek(start)
                yield json.loads(files[path].readline().split(b"\t", 2)[2])

    def append(self, position, name, value):
        """Writes one record, in this process's file.

        Args:
            position (int): of the image in the data set.
            name (str): without tabs.
            value: of JSON's own types.

        Raises:
            OSError: the disk is full.
        """
        if self._file is None:
            path = f"{self._stem}.{comm.get_rank()}.records"
            _cut_torn_line(path)
            # One write a line, so that a full disk is noticed at once.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed below
        line = f"{position}\t{name}\t{json.dumps(value, separators=(',', ':'))}\n".encode()
        if self._file.write(line) != len(line):
            raise OSError(f"cannot write to {self._file.name!r}: free disk space, then run it again")

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self):
        """Removes the files of all processes."""
        for path in self._paths():
            os.remove(path)


def _cut_torn_line(path):
    """Removes what an interrupted write left behind the last whole line."""
    if not os.path.exists(path):
        return
    with open(path, "rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
