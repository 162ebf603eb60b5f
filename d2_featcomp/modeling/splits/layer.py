"""Cuts inside a backbone, at one of its convolutions (BaF sec. 3).

Shape shorthand in this module:
    N: images of a batch; Q, P: channels of the layer's input and output; s: its stride
    H, W: height and width of its output
"""

import torch.nn.functional as F
from detectron2.config import configurable

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit

__all__ = ["ConvLayer", "Layer"]


class ConvLayer:
    """The layer at the cut, with the weights that it has in the network; nothing in it is trained here.

    Args:
        backbone (Backbone): with methods `cut_layers`, `input_of` and `resume`, as
            :class:`~d2_featcomp.modeling.yolo.Darknet` has them, and a list `layers`.
        number (int): of the layer.

    Raises:
        ValueError: the backbone cannot be cut, or not there.
    """

    def __init__(self, backbone, number):
        if not hasattr(backbone, "cut_layers"):
            raise ValueError(
                f"a {type(backbone).__name__} cannot be cut inside: choose a Darknet backbone, or a "
                "MODEL.FEATCOMP.SPLIT that cuts after the backbone"
            )
        if number not in backbone.cut_layers():
            raise ValueError(
                f"MODEL.FEATCOMP.LAYER is {number}: this backbone can be cut in its layers "
                f"{', '.join(map(str, backbone.cut_layers()))} (convolutions with batch norm that no "
                "shortcut and no output passes around)"
            )
        self.number = number
        self.conv = backbone.layers[number]
        self.stride = self.conv.stride[0]
        self.in_channels, self.out_channels = self.conv.in_channels, self.conv.out_channels

    @property
    def scale(self):
        """Tensor: (P,), of the batch norm: output = scale * convolution + shift."""
        norm = self.conv.norm
        return (norm.weight * (norm.running_var + norm.eps).rsqrt()).detach()

    @property
    def shift(self):
        """Tensor: (P,), see :attr:`scale`."""
        norm = self.conv.norm
        return (norm.bias - norm.running_mean * self.scale).detach()

    def __call__(self, x, channels=None):
        """Convolution and batch norm, by its running statistics.

        Args:
            x (Tensor): (N, Q, s * H, s * W) float.
            channels (Tensor or None): (C,) int64, the output channels to compute; None: all.

        Returns:
            Tensor: (N, C or P, H, W). Gradients flow into `x` alone.
        """
        weight, scale, shift = self.conv.weight.detach(), self.scale, self.shift
        if channels is not None:
            weight, scale, shift = weight[channels], scale[channels], shift[channels]
        z = F.conv2d(x, weight, None, self.conv.stride, self.conv.padding)
        return z * scale[:, None, None] + shift[:, None, None]

    def activate(self, z):
        """(N, P, H, W) -> the same, through the layer's activation."""
        return self.conv.activation(z) if self.conv.activation is not None else z


@FEATURE_SPLIT_REGISTRY.register()
class Layer(FeatureSplit):
    """Sends all P channels of one layer's output, after its activation: what BaF is compared with.

    Nothing in it is trained.

    Args:
        layer (ConvLayer): at the cut.
        stride (int): of the layer's output, in pixels.
    """

    anchor_split = "Layer"
    trains_edge = False

    @configurable
    def __init__(self, *, layer, stride):
        super().__init__()
        self.layer = layer
        self.stride = stride

    @classmethod
    def from_config(cls, cfg, backbone):
        layer = ConvLayer(backbone, cfg.MODEL.FEATCOMP.LAYER)
        return {"layer": layer, "stride": backbone.stride_of(layer.number)}

    def reduce(self, features):
        return [features["y"]]

    def restore(self, tensors, image_size):
        return {"y": tensors[0]}

    def reduced_shapes(self, image_size):
        return [(self.layer.out_channels, *(side // self.stride for side in image_size))]

    def edge(self, backbone, images):
        y = self.layer.activate(self.layer(backbone.input_of(self.layer.number, images)))
        return self.reduce({"y": y}), y[0].numel()

    def cloud(self, backbone, tensors, image_size, steps):
        return backbone.resume(self.layer.number, self.restore(tensors, image_size)["y"])

    def edge_state(self, backbone):
        yield from _state_of_layers(backbone, range(self.layer.number + 1))

    def cloud_state(self, backbone):
        yield from _state_of_layers(backbone, range(self.layer.number + 1, len(backbone.layers)))
        yield from super().cloud_state(backbone)

    def unfolded(self):
        return (self.layer.conv,)

    def cut_module(self, backbone):
        return self.layer.conv

    def replace(self, output, inputs):
        return self.restore(self.reduce({"y": output}), None)["y"], []

    def run_to_cut(self, backbone, images):
        self.layer.conv(backbone.input_of(self.layer.number, images))


def _state_of_layers(backbone, numbers):
    for number in numbers:
        prefix = f"backbone.layers.{number}."
        yield from backbone.layers[number].state_dict(prefix=prefix, keep_vars=True).items()
