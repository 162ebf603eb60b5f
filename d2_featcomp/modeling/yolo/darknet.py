"""Darknet backbones of YOLO-v3.

Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv 1804.02767, 2018.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images, multiples of 32
"""

import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn

__all__ = ["Darknet", "Darknet53", "DarknetTiny", "Shortcut", "TinyPool", "build_conv_unit"]


def build_conv_unit(in_channels, out_channels, kernel_size, *, stride=1, norm="BN"):
    """Builds convolution, batch norm, leaky ReLU of slope 0.1: Darknet's "convolutional" layer.

    Args:
        in_channels, out_channels, kernel_size, stride (int): of the convolution.
        norm (str): a Detectron2 norm.

    Returns:
        Conv2d: with attributes `norm` and `activation`.
    """
    unit = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=nn.LeakyReLU(0.1),
    )
    if hasattr(unit.norm, "eps"):
        unit.norm.eps = 1e-6  # Darknet's; some variances of its trained networks are as small
    return unit


class Shortcut(nn.Module):
    """Adds the output of an earlier layer, `back` layers before this one."""

    def __init__(self, back):
        super().__init__()
        self.back = back

    def forward(self, x, earlier):
        """(N, C, H, W), (N, C, H, W) -> (N, C, H, W)."""
        return x + earlier


class TinyPool(nn.Module):
    """Darknet's 2 x 2 maximum. At stride 1 the size stays: beyond the edges is nothing."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        """(N, C, H, W) float -> (N, C, H / stride, W / stride)."""
        if self.stride == 1:
            x = F.pad(x, (0, 1, 0, 1), value=float("-inf"))
        return F.max_pool2d(x, 2, self.stride)


class Darknet(Backbone):
    """A chain of layers with the numbers that they have in Darknet's own configuration files.

    Args:
        layers (list[nn.Module]): of :func:`build_conv_unit`, :class:`Shortcut` or :class:`TinyPool`.
        out_features (dict[str, int]): name of an output -> number of the layer that gives it.
    """

    def __init__(self, *, layers, out_features):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._taps = {layer: name for name, layer in out_features.items()}
        self._out_features = sorted(out_features, key=out_features.get)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        channels, stride, self._strides = 0, 1, []
        for number, layer in enumerate(self.layers):
            if isinstance(layer, Conv2d):
                channels, stride = layer.out_channels, stride * layer.stride[0]
            elif isinstance(layer, TinyPool):
                stride *= layer.stride
            self._strides.append(stride)
            if number in self._taps:
                self._out_feature_channels[self._taps[number]] = channels
                self._out_feature_strides[self._taps[number]] = stride
        self._stride = stride
        # What a shortcut adds must be kept until it is added; nothing else is.
        self._needed = {
            number - layer.back
            for number, layer in enumerate(self.layers)
            if isinstance(layer, Shortcut)
        }

    @property
    def size_divisibility(self):
        return self._stride

    def forward(self, x):
        """Computes the features of images.

        Args:
            x (Tensor): (N, 3, h, w) float, RGB in [0, 1].

        Returns:
            dict[str, Tensor]: fine to coarse, each (N, C, h / stride, w / stride).
        """
        return self._run(x, range(len(self.layers)))[1]

    def _run(self, x, numbers, kept=None, outputs=None):
        """Runs some layers. Returns what the last one gives, and outputs as :meth:`forward` does."""
        kept, outputs = kept or {}, outputs or {}
        for number in numbers:
            layer = self.layers[number]
            x = layer(x, kept.pop(number - layer.back)) if isinstance(layer, Shortcut) else layer(x)
            self._keep(number, x, kept, outputs)
        return x, outputs

    def _keep(self, number, x, kept, outputs):
        if number in self._needed:
            kept[number] = x
        if number in self._taps:
            outputs[self._taps[number]] = x

    def list_split_layers(self):
        """Lists the layers at which the network can be split.

        Returns:
            list[int]: numbers of the convolutions with batch norm that nothing passes around.
        """
        shortcuts = [(n - s.back, n) for n, s in enumerate(self.layers) if isinstance(s, Shortcut)]
        return [
            number
            for number, layer in enumerate(self.layers)
            if isinstance(layer, Conv2d)
            and hasattr(layer.norm, "running_var")  # not of a norm of other kinds
            and number <= min(self._taps)
            and not any(start < number < end for start, end in shortcuts)
        ]

    def find_stride(self, number):
        """Returns int: the stride of the output of layer `number`, in pixels."""
        return self._strides[number]

    def compute_input(self, number, images):
        """Computes the input of a layer.

        Args:
            number (int): a layer, of :meth:`list_split_layers`.
            images (Tensor): as for :meth:`forward`.

        Returns:
            Tensor: (N, Q, H, W), what that layer gets.
        """
        return self._run(images, range(number))[0]

    def resume(self, number, y):
        """Computes the rest of the network from the output of a layer.

        Args:
            number (int): a layer, of :meth:`list_split_layers`.
            y (Tensor): (N, P, H, W), what that layer gives, activation included.

        Returns:
            dict[str, Tensor]: as :meth:`forward`.
        """
        kept, outputs = {}, {}
        self._keep(number, y, kept, outputs)
        return self._run(y, range(number + 1, len(self.layers)), kept, outputs)[1]

    cut_layers, stride_of, input_of = list_split_layers, find_stride, compute_input  # earlier names

    def output_shape(self):
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def Darknet53(cfg, input_shape):
    """Builds YOLO-v3's backbone: layers 0 to 74, outputs "dark3" (stride 8), "dark4" (16) and "dark5"
    (32).

    Args:
        cfg (CfgNode): `MODEL.YOLOV3.NORM` is used.
        input_shape (ShapeSpec): of the images.

    Returns:
        Darknet
    """
    norm = cfg.MODEL.YOLOV3.NORM
    channels, layers, ends = 32, [build_conv_unit(input_shape.channels, 32, 3, norm=norm)], []
    for blocks in (1, 2, 8, 8, 4):
        layers.append(build_conv_unit(channels, 2 * channels, 3, stride=2, norm=norm))
        channels *= 2
        for _ in range(blocks):
            layers.append(build_conv_unit(channels, channels // 2, 1, norm=norm))
            layers.append(build_conv_unit(channels // 2, channels, 3, norm=norm))
            layers.append(Shortcut(back=3))
        ends.append(len(layers) - 1)
    return Darknet(layers=layers, out_features={"dark3": ends[2], "dark4": ends[3], "dark5": ends[4]})


@BACKBONE_REGISTRY.register()
def DarknetTiny(cfg, input_shape):
    """Builds YOLO-v3-tiny's backbone: layers 0 to 12, outputs "dark4" (stride 16) and "dark5" (32).

    Args and result are those of :func:`Darknet53`.
    """
    channels, layers = input_shape.channels, []
    for number, width in enumerate((16, 32, 64, 128, 256, 512, 1024)):
        layers.append(build_conv_unit(channels, width, 3, norm=cfg.MODEL.YOLOV3.NORM))
        channels = width
        if number < 6:
            layers.append(TinyPool(stride=1 if number == 5 else 2))
    return Darknet(layers=layers, out_features={"dark4": 8, "dark5": 12})
