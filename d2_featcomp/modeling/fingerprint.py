"""Hash of all that the latents and their bitstreams depend on; which weights those are."""

import hashlib

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["FINGERPRINT_BYTES", "hash_weights", "read_weights", "state_key"]

FINGERPRINT_BYTES = 4


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


def state_key(tensors):
    """Makes a key that changes when one of the tensors does.

    Args:
        tensors (iterable[Tensor]): on any device.

    Returns:
        tuple: in-place changes raise a tensor's version, loading other tensors changes its address.
    """
    return tuple((tensor.data_ptr(), _version(tensor)) for tensor in tensors)


def _version(tensor):
    """Counts in-place changes; a tensor made in inference mode counts none."""
    return -1 if tensor.is_inference() else tensor._version


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
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.digest()
