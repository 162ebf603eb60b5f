"""A convolutional layer at which a backbone is split (BaF sec. 3).

Shape shorthand in this module:
    N: images of a batch; Q, P: channels of the layer's input and output; s: its stride
    H, W: height and width of its output
"""

import torch.nn.functional as F

__all__ = ["ConvLayer"]


class ConvLayer:
    """The layer at the split point, with its weights in the network; nothing in it is trained here.

    Args:
        backbone (Backbone): with methods `list_split_layers`, `compute_input` and `resume`, as
            :class:`~d2_featcomp.modeling.yolo.Darknet` has them, and a list `layers`.
        number (int): of the layer.

    Raises:
        ValueError: the backbone cannot be split, or not there.
    """

    def __init__(self, backbone, number):
        if not hasattr(backbone, "list_split_layers"):
            raise ValueError(
                f"a {type(backbone).__name__} cannot be split inside a layer: choose a Darknet "
                "backbone, or a MODEL.FEATCOMP.SPLIT that splits after the backbone"
            )
        known = backbone.list_split_layers()
        if number not in known:
            places = f"in its layers {', '.join(map(str, known))}" if known else "in none of its layers"
            raise ValueError(
                f"MODEL.FEATCOMP.LAYER is {number}: this backbone can be split {places} (convolutions "
                "with batch norm that no shortcut and no output passes around)"
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
