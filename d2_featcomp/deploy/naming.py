"""Names for the results of files, none of which replaces another's."""

import itertools
import os

__all__ = ["list_possible_names", "name_files"]


def name_files(paths):
    """Names files by their stems; where several would have one name, by as much of their paths as tells
    them apart: "x" or, beside "x.jpg", "x.png" or, of two folders, "a_x.png" and "b_x.png".

    Args:
        paths (sequence[str]): of files.

    Returns:
        list[str]: a name each, without separators of paths; no two are equal, also where upper and lower
        case are one.
    """
    parts = [_split(path) for path in paths]
    used = [0] * len(paths)  # parts of the path in a name; 0 is the stem
    while True:
        names = [_join(*pair) for pair in zip(parts, used, strict=True)]
        alike = _alike(names)
        longer = [i for i in alike if used[i] < len(parts[i])]
        if not longer:
            break
        for index in longer:
            used[index] += 1
    taken = {name.lower() for name in names}
    for index in _alike(names):  # e.g. one file, given twice
        free = (f"{names[index]}_{count}" for count in itertools.count(1))
        names[index] = next(name for name in free if name.lower() not in taken)
        taken.add(names[index].lower())
    return names


def list_possible_names(path):
    """Lists the names that :func:`name_files` may give a file, by which other files are beside it.

    Args:
        path (str): of the file.

    Returns:
        list[str]: the shortest, its stem, first; without those of files of one path.
    """
    parts = _split(path)
    return [_join(parts, used) for used in range(len(parts) + 1)]


def _split(path):
    return os.path.abspath(path).split(os.sep)[1:]


def _join(parts, used):
    return "_".join(parts[-used:]) if used else os.path.splitext(parts[-1])[0]


def _alike(names):
    seen = {}
    for index, name in enumerate(names):
        seen.setdefault(name.lower(), []).append(index)
    return sorted(index for group in seen.values() if len(group) > 1 for index in group)
