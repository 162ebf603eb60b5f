"""Reading files of weights: whatever they hold, no code of it is run."""

import _codecs
import collections
import pickle
import re

import numpy as np
import torch

__all__ = ["read_weight_file"]

_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
_TYPES = [type(np.dtype(code)) for code in "?bhilqBHILQefdgFDSU"]  # of numbers and text; no objects
# Names by which arrays and numbers are pickled, by NumPy 1 and 2.
_NUMPY = {
    f"{package}.multiarray.{name}": value
    for package in ("numpy.core", "numpy._core")
    for name, value in (("scalar", _SCALAR), ("_reconstruct", _ARRAY))
}
_PLAIN = {
    **_NUMPY,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": _codecs.encode,
}


class _PlainUnpickler(pickle.Unpickler):
    """Knows arrays, numbers, text and containers of them, and nothing else."""

    def find_class(self, module, name):
        try:
            return _PLAIN[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, where only arrays, numbers, text, lists and dictionaries "
                "are read, so that no code can hide in a file"
            ) from None


def read_weight_file(path):
    """Reads a file of weights, without running code in it.

    Args:
        path (str): `.pkl` is a pickle of NumPy arrays, as in Detectron2's and Detectron1's model zoos;
            `.safetensors` is what timm's authors publish; anything else, e.g. `.pth` and `.pyth`, is of
            torch.save.

    Returns:
        whatever the file holds: tensors (on the CPU) or arrays, numbers, text, lists, dictionaries.

    Raises:
        FileNotFoundError: no such file. ImportError: safetensors is not installed.
        pickle.UnpicklingError: it holds other objects, which could run code.
        Damaged files raise anything.
    """
    if path.endswith(".pkl"):
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file  # which timm brings

        return load_file(path)
    known = [np.ndarray, np.dtype, *_TYPES, *((value, name) for name, value in _NUMPY.items())]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|global:?) ([\w.]+\.\w+)", str(error))
        if not found:  # of a damaged file; PyTorch's advice would be to run what is in it
            raise pickle.UnpicklingError(
                "it is damaged, no file of weights, or not of torch.save's own pickle_protocol, 2"
            ) from None
        raise pickle.UnpicklingError(
            f"it holds {found[1]}, where only tensors, arrays, numbers, text, lists and dictionaries "
            "are read, so that no code can hide in a file; if you trust it, save its weights alone: "
            'torch.save({"model": torch.load(PATH, weights_only=False)["model"]}, NEW_PATH)'
        ) from None
