"""Copies of both sub-models that are faster."""

import copy
import threading

import torch

from ..fingerprint import WatchedWeights, hash_weights
from ..split_backbone import SplitBackbone
from .compiled_edge import CompiledEdge
from .enlarged_maps import convolve_repeated_values_once
from .folding import fold_norms, use_one_dnn
from .quick_encoders import find_quick_encoder

__all__ = ["INFERENCE", "Acceleration", "require_inference"]

INFERENCE = ("plain", "fused", "compiled", "bfloat16")


def require_inference(inference):
    """Raises ValueError if MODEL.FEATCOMP.INFERENCE is neither of `INFERENCE` nor an ONNX file."""
    if inference not in INFERENCE and not inference.endswith(".onnx"):
        raise ValueError(
            f"MODEL.FEATCOMP.INFERENCE is {inference!r}: choose one of {', '.join(INFERENCE)}, or an "
            "edge.onnx of featcomp export"
        )


class Acceleration:
    """Makes, and keeps, a faster copy of each sub-model of a split network.

    Args:
        inference (str): one of `INFERENCE` but "plain".
    """

    def __init__(self, inference):
        self.inference = inference
        self._weights = self._content = None
        self._copies = {}  # sub-model -> (key of the weights, copy)
        self._lock = threading.Lock()

    def __deepcopy__(self, memo):
        return Acceleration(self.inference)

    def __reduce__(self):
        return Acceleration, (self.inference,)

    def find(self, network, sub_model):
        """Returns the copy of a sub-model, made anew if the network's weights have changed.

        Args:
            network (nn.Module): meta-architecture with a :class:`SplitBackbone`, in evaluation mode.
            sub_model (str): "edge" or "cloud".

        Returns:
            _Edge, with a method `encode_features`, or nn.Module, a meta-architecture.
        """
        with self._lock:
            if self._weights is None:
                self._weights = WatchedWeights(network)
                here = [(name, value) for name, value in self._weights.items() if not value.is_meta]
                self._content = hash_weights(here)
            key = self._content, self._weights.key()
            known = self._copies.get(sub_model)
            if known is None or known[0] != key:
                build = self._build_edge if sub_model == "edge" else _build_cloud
                known = self._copies[sub_model] = key, build(network)
            return known[1]

    def look_again(self):
        """Compares the values of the weights, too, when a copy is asked for the next time."""
        with self._lock:
            self._weights = None

    def _build_edge(self, network):
        edge = _folded_copy(network.backbone)
        edge.to(memory_format=torch.channels_last)
        compiled = self.inference == "compiled"
        if not compiled:
            use_one_dnn(edge)
        dtype = torch.bfloat16 if self.inference == "bfloat16" else torch.float32
        edge.to(dtype)
        encode = find_quick_encoder(edge) or edge.encode_features
        return _Edge(CompiledEdge(encode) if compiled else encode, dtype)


class _Edge:
    """The edge sub-model of a copy."""

    def __init__(self, encode, dtype):
        self._encode, self._dtype = encode, dtype

    def encode_features(self, images):
        """As :meth:`SplitBackbone.encode_features`."""
        return self._encode(images.to(dtype=self._dtype, memory_format=torch.channels_last))


def _build_cloud(network):
    cloud = _folded_copy(network)
    # Pooling of regions reads one channel after the other; that costs more than convolutions gain.
    if network.backbone.split_point.name == "image" or not hasattr(network, "roi_heads"):
        cloud.to(memory_format=torch.channels_last)
    if next(cloud.parameters()).device.type == "cpu":  # a GPU would wait to see which values repeat
        convolve_repeated_values_once(cloud)
    return cloud


def _folded_copy(module):
    copied = copy.deepcopy(module).requires_grad_(False)
    (split_backbone,) = (each for each in copied.modules() if isinstance(each, SplitBackbone))
    layer = getattr(split_backbone.split_point, "layer", None)  # its norm is read, so it is not folded
    fold_norms(copied, keep=() if layer is None else (layer.conv,))
    return copied
