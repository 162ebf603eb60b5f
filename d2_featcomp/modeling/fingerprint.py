"""Hash of all that the latents and their bitstreams depend on; which weights those are."""

import hashlib

import torch
from torch.overrides import TorchFunctionMode

from ..codecs.bitstream import FINGERPRINT_BYTES

__all__ = ["WatchedWeights", "hash_weights", "read_weights"]


class _ReadTensors(TorchFunctionMode):
    """Remembers every tensor that a PyTorch function is called with."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self._see(args)
        self._see((kwargs or {}).values())
        return function(*args, **(kwargs or {}))

    def _see(self, values):
        for value in values:
            if isinstance(value, torch.Tensor):
                self.seen.add(id(value))
            elif isinstance(value, (list, tuple)):
                self._see(value)


@torch.no_grad()
def read_weights(module, function):
    """Finds out which parameters and buffers a computation reads, by running it.

    Args:
        module (nn.Module): whose parameters and buffers are looked for.
        function (callable): without arguments; computes with the module.

    Returns:
        set[str]: their names, as `module.named_parameters()` and `named_buffers()` give them.
    """
    with _ReadTensors() as reading:
        function()
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name for name, tensor in tensors if id(tensor) in reading.seen}


class WatchedWeights:
    """Parameters and buffers of a module, looked up where it keeps them, so that a change is seen: in
    place, by loading others, or by moving them to another device. What is written through `.data`, or
    to modules that took the place of others, is not seen.

    Args:
        module (nn.Module): with all its children.
        names (container[str] or None): which of them, by their names; None: all.
        rename (callable): name in the module -> name here.
    """

    def __init__(self, module, names=None, rename=str):
        self._slots = []
        for prefix, child in module.named_modules():
            for tensors in (child._parameters, child._buffers):
                for key, tensor in tensors.items():
                    name = rename(f"{prefix}.{key}" if prefix else key)
                    if tensor is not None and (names is None or name in names):
                        self._slots.append((name, tensors, key))

    def items(self):
        """Returns list[(str, Tensor)]: what is there now."""
        return [(name, tensors[key]) for name, tensors, key in self._slots]

    def key(self):
        """Returns a list that differs after any change."""
        found = []
        for _, tensors, key in self._slots:
            tensor = tensors[key]
            # In-place changes raise a tensor's version, unless it was made in inference mode; loading
            # other tensors changes its address.
            version = -1 if tensor.is_inference() else tensor._version
            found.append((tensor.data_ptr(), version))
        return found


def hash_weights(tensors, text=""):
    """Hashes named tensors.

    Args:
        tensors (iterable[(str, Tensor)]): names and values, in an order that is always the same.
        text (str): hashed before them.

    Returns:
        bytes: `FINGERPRINT_BYTES` of them; equal for equal names and values, on any device.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BYTES)
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()
