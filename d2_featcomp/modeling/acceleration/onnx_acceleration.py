"""The edge sub-model by onnxruntime, from an exported file."""

import torch

from ...onnx_session import open_session
from .acceleration import Acceleration

__all__ = ["OnnxAcceleration"]


class OnnxAcceleration(Acceleration):
    """Computes the edge sub-model by an exported file, edge.onnx or edge.int8.onnx, and the cloud's as
    "fused": so that such files can be evaluated as networks are.

    Args:
        path (str): of the file.
        fingerprint (bytes): of the network.

    Raises:
        ImportError, FileNotFoundError: see :func:`open_session`. ValueError: the file is of another
        network.
    """

    def __init__(self, path, fingerprint):
        super().__init__("fused")
        self._path, self._fingerprint = path, fingerprint
        self._session = open_session(path)
        found = self._session.get_modelmeta().custom_metadata_map.get("fingerprint", "")
        if found != fingerprint.hex():
            raise ValueError(
                f"{path!r} is of network {found or 'unknown'}, not {fingerprint.hex()}: "
                "export it from these weights, with this codec (MODEL.FEATCOMP.INFERENCE)"
            )

    def __deepcopy__(self, memo):
        return OnnxAcceleration(self._path, self._fingerprint)

    def __reduce__(self):
        return OnnxAcceleration, (self._path, self._fingerprint)

    def _build_edge(self, network):
        return self

    def encode_features(self, images):
        """As :meth:`SplitBackbone.encode_features`; computed on the CPU, one image after the other."""
        batch = [self._session.run(None, {"image": image[None]}) for image in images.cpu().numpy()]
        return [
            torch.stack(list(map(torch.from_numpy, each))).to(images.device)
            for each in zip(*batch, strict=True)
        ]
