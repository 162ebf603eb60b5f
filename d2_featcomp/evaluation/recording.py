"""What an evaluator takes from single images, as JSON has it, so that an evaluation can be resumed."""

import base64

import numpy as np
import torch

__all__ = ["ImageRecords", "UnrecordableError"]


class UnrecordableError(TypeError):
    """An evaluator keeps something that is not made of numbers, text, arrays, lists and dictionaries."""


class ImageRecords:
    """Makes a Detectron2 evaluator give what it takes from each image, and evaluate such records later.

    What an evaluator collects is whatever its `reset` makes anew, or its `process` changes: lists are
    joined over the images, arrays and numbers added, dictionaries merged entry by entry.

    Args:
        evaluator (DatasetEvaluator): of one kind of result; not several in a DatasetEvaluators.

    Attributes:
        possible (bool): whether what it starts with can be written; false e.g. where it writes files.
    """

    def __init__(self, evaluator):
        self._evaluator = evaluator
        before = dict(vars(evaluator))
        evaluator.reset()
        try:
            for name, value in vars(evaluator).items():
                if _is_new(before, name, value):
                    _to_plain(value)
            self.possible = True
        except UnrecordableError:
            self.possible = False

    def of_image(self, record, output):
        """
        Args:
            record (dict): of the image, as a network takes it.
            output (dict): of the network.

        Returns:
            dict: what the evaluator takes from it, of JSON's own types only.

        Raises:
            UnrecordableError: it keeps something that cannot be written; its state is spoilt then.
        """
        evaluator = self._evaluator
        before = dict(vars(evaluator))
        evaluator.reset()
        empty = {name: value for name, value in vars(evaluator).items() if _is_new(before, name, value)}
        fresh = dict(vars(evaluator))
        evaluator.process([record], [output])
        changed = {name for name, value in vars(evaluator).items() if _is_new(fresh, name, value)}
        taken = {}
        for name in sorted(empty.keys() | changed):
            value = getattr(evaluator, name)
            if name in changed and isinstance(value, (int, float)) and not isinstance(value, bool):
                value -= fresh.get(name, 0)
            taken[name] = _to_plain(value)
        return taken

    def evaluate(self, records):
        """
        Args:
            records (iterable[dict]): as :meth:`of_image` returned, in the order of the images.

        Returns:
            dict or None: as the evaluator's own `evaluate`.
        """
        evaluator = self._evaluator
        evaluator.reset()
        for taken in records:
            for name, value in taken.items():
                merged = _merged(getattr(evaluator, name, None), _from_plain(value))
                setattr(evaluator, name, merged)
        return evaluator.evaluate()


def _is_new(before, name, value):
    return name not in before or before[name] is not value


def _merged(whole, part):
    if whole is None or part is None or isinstance(part, (str, bool)):
        return part
    if isinstance(whole, list):
        whole.extend(part)
        return whole
    if isinstance(whole, dict):
        for key, value in part.items():
            whole[key] = _merged(whole.get(key), value)
        return whole
    return whole + part


_TAG = "__kind__"


def _to_plain(value):
    """JSON's own types stay; others become a dictionary with their kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [_to_plain(item) for item in value]}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "data": base64.b85encode(value).decode()}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and _TAG not in value:
            return {key: _to_plain(item) for key, item in value.items()}
        pairs = [[_to_plain(key), _to_plain(item)] for key, item in value.items()]
        return {_TAG: "dict", "items": pairs}
    if isinstance(value, torch.Tensor):
        return {_TAG: "tensor", "array": _array(value.detach().cpu().numpy())}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {_TAG: "array", **_array(value)}
    raise UnrecordableError(f"cannot record a {type(value).__name__}")


def _array(array):
    """Only the entries that are not 0: what one image adds to a confusion matrix is mostly empty."""
    flat = array.ravel()
    places = np.flatnonzero(flat)
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "places": places.tolist(),
        "values": flat[places].tolist(),
    }


def _from_plain(value):
    if isinstance(value, list):
        return [_from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {key: _from_plain(item) for key, item in value.items()}
    if kind == "tuple":
        return tuple(_from_plain(item) for item in value["items"])
    if kind == "bytes":
        return base64.b85decode(value["data"])
    if kind == "dict":
        return {_from_plain(key): _from_plain(item) for key, item in value["items"]}
    array = _to_array(value["array"] if kind == "tensor" else value)
    return torch.from_numpy(array) if kind == "tensor" else array


def _to_array(plain):
    array = np.zeros(plain["shape"], dtype=plain["dtype"])
    array.ravel()[plain["places"]] = plain["values"]
    return array
