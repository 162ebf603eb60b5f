"""JSON that every program reads: the standard knows no NaN and no infinity."""

import json
import math

__all__ = ["format_json"]


def format_json(data, indent=None):
    """Formats data as JSON.

    Args:
        data: of JSON's own types; numbers that are not finite become null.
        indent (int or None): see :func:`json.dumps`.

    Returns:
        str
    """
    return json.dumps(_replace(data), indent=indent, allow_nan=False)


def _replace(value):
    if isinstance(value, dict):
        return {key: _replace(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
