"""The backbone of NanoDet-g: a cross-stage partial network of plain convolutions, and a pyramid on it.

Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPRW 2020; Liu et
al., "Path Aggregation Network for Instance Segmentation", CVPR 2018. Layout as in the file of weights.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images, multiples of 32; s: a stride
"""

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn

__all__ = ["PAN", "CSPNet", "build_cspnet_pan_backbone"]


class ConvUnit(nn.Sequential):
    """A 3 x 3 convolution and a leaky ReLU of slope 0.1."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1), nn.LeakyReLU(0.1)
        )


class TinyBlock(nn.Module):
    """Two convolutions of half the channels; the outputs of both are the block's."""

    def __init__(self, channels):
        super().__init__()
        self.first = ConvUnit(channels, channels // 2)
        self.second = ConvUnit(channels // 2, channels // 2)

    def forward(self, x):
        """(N, C, H, W) float -> (N, C, H, W)."""
        x = self.first(x)
        return torch.cat([self.second(x), x], dim=1)


class CSPStage(nn.Module):
    """A convolution, blocks and another convolution after it; the outputs of both convolutions are the
    stage's.

    Args:
        channels (int): C, of the input; the output has twice as many.
        blocks (int): number of blocks.
        stride (int): of the first convolution.
    """

    def __init__(self, channels, blocks, stride):
        super().__init__()
        self.enter = ConvUnit(channels, channels, stride)
        self.blocks = nn.Sequential(*(TinyBlock(channels) for _ in range(blocks)))
        self.leave = ConvUnit(channels, channels)

    def forward(self, x):
        """(N, C, H, W) float -> (N, 2 C, H / stride, W / stride)."""
        x = self.enter(x)
        return torch.cat([self.leave(self.blocks(x)), x], dim=1)


class CSPNet(Backbone):
    """Stem (convolution and maximum, stride 4) and four stages.

    Args:
        in_channels (int): of the images.
        stem_channels (int): of the stem's output.
        blocks (sequence[int]): of each stage; its first has stride 1, the others 2.
    """

    def __init__(self, *, in_channels, stem_channels, blocks):
        super().__init__()
        self.stem = nn.Sequential(
            ConvUnit(in_channels, stem_channels, 2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        widths = [stem_channels * 2**number for number in range(len(blocks))]
        self.stages = nn.ModuleList(
            CSPStage(width, count, 1 if number == 0 else 2)
            for number, (width, count) in enumerate(zip(widths, blocks, strict=True))
        )
        self._shapes = {
            f"csp{number + 2}": ShapeSpec(channels=2 * width, stride=4 * 2**number)
            for number, width in enumerate(widths)
        }

    def forward(self, images):
        """(N, 3, h, w) float -> dict[str, Tensor], "csp2" (stride 4) to "csp5" (32)."""
        x, outputs = self.stem(images), {}
        for name, stage in zip(self._shapes, self.stages, strict=True):
            x = outputs[name] = stage(x)
        return outputs

    def output_shape(self):
        return dict(self._shapes)


class PAN(Backbone):
    """A path aggregation network without convolutions of its own but the lateral ones: levels are
    resized bilinearly and added, from the coarsest down and then from the finest up.

    Args:
        bottom_up (CSPNet): whose last three outputs become the levels "p3", "p4" and "p5".
        channels (int): of every level.
    """

    def __init__(self, *, bottom_up, channels):
        super().__init__()
        self.bottom_up = bottom_up
        shapes = list(bottom_up.output_shape().items())[-3:]
        self._in_features = [name for name, _ in shapes]
        self.laterals = nn.ModuleList(nn.Conv2d(shape.channels, channels, 1) for _, shape in shapes)
        self._shapes = {
            f"p{shape.stride.bit_length() - 1}": ShapeSpec(channels=channels, stride=shape.stride)
            for _, shape in shapes
        }

    @property
    def size_divisibility(self):
        return 32

    def forward(self, images):
        """(N, 3, h, w) float -> dict[str, Tensor], "p3" to "p5", each (N, channels, h / s, w / s)."""
        features = self.bottom_up(images)
        levels = [
            lateral(features[name])
            for name, lateral in zip(self._in_features, self.laterals, strict=True)
        ]
        for fine in (1, 0):
            levels[fine] = levels[fine] + _resize(levels[fine + 1], levels[fine])
        for coarse in (1, 2):
            levels[coarse] = levels[coarse] + _resize(levels[coarse - 1], levels[coarse])
        return dict(zip(self._shapes, levels, strict=True))

    def output_shape(self):
        return dict(self._shapes)


def _resize(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
def build_cspnet_pan_backbone(cfg, input_shape):
    """Builds the backbone of NanoDet-g.

    Args:
        cfg (CfgNode): with the keys of :func:`add_nanodet_config`.
        input_shape (ShapeSpec): of the images.

    Returns:
        PAN
    """
    nanodet = cfg.MODEL.NANODET
    bottom_up = CSPNet(
        in_channels=input_shape.channels, stem_channels=nanodet.STEM_CHANNELS, blocks=nanodet.BLOCKS
    )
    return PAN(bottom_up=bottom_up, channels=nanodet.CHANNELS)
