"""The edge sub-model in PyTorch: pictures to feature bitstreams, as :class:`OnnxEdge` in onnxruntime."""

from ..engine import make_input
from ..engine.timing import wait_for_gpu
from .sub_models import load_sub_model, read_config, read_description

__all__ = ["TorchEdge"]


class TorchEdge:
    """The edge sub-model of a network.

    Args:
        path (str): of edge.pth, or of a whole checkpoint; "" is MODEL.WEIGHTS.
        config_file (str): in place of the configuration in the file; "" takes that one.
        overrides (sequence[str]): KEY VALUE pairs.

    Attributes:
        feature_codec (FeatureCodec): codes the latents.
        categories (list[dict]): of the network's classes, as far as the file tells them.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: see :func:`read_config` and
        :func:`load_sub_model`.
    """

    def __init__(self, path="", config_file="", overrides=()):
        self._cfg = read_config(path, config_file, overrides)
        self._network = load_sub_model(self._cfg, self._cfg.MODEL.WEIGHTS, "edge")
        self.feature_codec = self._network.feature_codec
        self.categories = read_description(self._cfg.MODEL.WEIGHTS).get("categories", [])

    def compute(self, picture):
        """Computes the latents of a picture, (H, W, 3) uint8 RGB: EdgeFeatures, all work on a GPU
        done."""
        (features,) = self._network.edge_features([make_input(picture, self._cfg)])
        wait_for_gpu()
        return features

    def encode(self, features):
        """See :meth:`SplitInference.encode`."""
        return self._network.encode(features)
