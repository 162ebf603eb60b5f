"""Config keys that give weights by name."""

import math

__all__ = ["read_named_weights"]


def read_named_weights(entries, key, wanted, example):
    """Reads pairs of a name and a weight.

    Args:
        entries (sequence): of pairs, as a config has them.
        key (str): theirs, below MODEL, for the message.
        wanted (str): what is named, for the message.
        example (str): likewise.

    Returns:
        dict[str, float]

    Raises:
        ValueError: an entry is no pair of a name and a number, 0 or more.
    """
    weights = {}
    for entry in entries:
        valid = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
        if not valid or not isinstance(entry[1], int | float) or not 0 <= entry[1] < math.inf:
            raise ValueError(
                f"MODEL.{key} holds {entry!r}: give pairs of {wanted} and a weight of 0 or more, "
                f"e.g. {example}"
            )
        weights[entry[0]] = float(entry[1])
    return weights
