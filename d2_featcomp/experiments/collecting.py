"""Contributions of single images to evaluators, kept as JSON and given back to them later.

An evaluator's class says in `collects` which of its attributes its `reset` empties and its `process`
adds to: lists, dictionaries of lists, or arrays of numbers, which are joined, merged and added over the
images. For Detectron2's own evaluators the table below says it. Of any other evaluator nothing is kept:
a measurement with it that was stopped starts again.
"""

import base64
import json

import numpy as np
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

__all__ = ["can_collect", "collect", "evaluate_collected"]

_COLLECTED = {
    COCOEvaluator: ("_predictions",),
    COCOPanopticEvaluator: ("_predictions",),
    LVISEvaluator: ("_predictions",),
    PascalVOCDetectionEvaluator: ("_predictions",),
    SemSegEvaluator: ("_conf_matrix", "_b_conf_matrix", "_predictions"),
}


def _attributes(evaluator):
    own = getattr(evaluator, "collects", None)
    if own is not None:
        return own
    # A subclass may collect more than its base does: only these very classes are known, and those that
    # change nothing of how images are taken.
    for base, names in _COLLECTED.items():
        if isinstance(evaluator, base):
            changed = any(
                name in vars(kind)
                for kind in type(evaluator).__mro__[: type(evaluator).__mro__.index(base)]
                for name in ("reset", "process")
            )
            return None if changed else names
    return None


def can_collect(evaluator):
    """Tells whether it is known what an evaluator collects.

    Args:
        evaluator (DatasetEvaluator): of one kind of result.

    Returns:
        bool
    """
    return _attributes(evaluator) is not None


def collect(evaluator, record, output):
    """Takes what an evaluator collects from one image.

    Args:
        evaluator (DatasetEvaluator): for which :func:`can_collect` is true; it is reset.
        record (dict): of the image, as a network takes it.
        output (dict): of the network.

    Returns:
        dict: of JSON's own types.

    Raises:
        ValueError: something in it cannot be written.
    """
    evaluator.reset()
    evaluator.process([record], [output])
    return {name: _to_plain(evaluator, name) for name in _attributes(evaluator)}


def evaluate_collected(evaluator, collected):
    """Evaluates what was collected from all images.

    Args:
        evaluator (DatasetEvaluator): as the one that collected; it is reset.
        collected (iterable[dict]): from :func:`collect`, in the order of the data set.

    Returns:
        dict or None: as the evaluator's own `evaluate`.
    """
    evaluator.reset()
    for parts in collected:
        for name, plain in parts.items():
            whole, part = getattr(evaluator, name), _from_plain(plain)
            if isinstance(whole, dict):
                for key, items in part:
                    whole[key].extend(items)
            elif isinstance(whole, list):
                whole.extend(part)
            else:
                setattr(evaluator, name, whole + part)
    return evaluator.evaluate()


def _to_plain(evaluator, name):
    value = getattr(evaluator, name)
    if isinstance(value, dict):  # whose keys may be no strings
        value = list(value.items())
    try:
        return json.loads(json.dumps(value, default=_encode))
    except TypeError as error:
        raise ValueError(f"{type(evaluator).__name__}.{name} cannot be written: {error}") from error


_BYTES, _ARRAY = "__bytes__", "__array__"


def _encode(value):
    if isinstance(value, bytes):
        return {_BYTES: base64.b85encode(value).decode()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # Only the entries that are not 0: what one image adds to a confusion matrix is mostly empty.
        flat = value.ravel()
        places = np.flatnonzero(flat)
        return {_ARRAY: [value.dtype.str, value.shape, places.tolist(), flat[places].tolist()]}
    raise TypeError(f"it holds a {type(value).__name__}")


def _from_plain(value):
    if isinstance(value, list):
        return [_from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _BYTES in value:
        return base64.b85decode(value[_BYTES])
    if _ARRAY in value:
        dtype, shape, places, entries = value[_ARRAY]
        array = np.zeros(shape, dtype=dtype)
        array.ravel()[places] = entries
        return array
    return {key: _from_plain(item) for key, item in value.items()}
