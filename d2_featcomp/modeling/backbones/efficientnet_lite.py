"""EfficientNet-lite: EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946) for devices without fast
squeeze-and-excitation, which it leaves out.

Its activation is ReLU6; stem and head have the same channels in all variants. Stochastic depth, of the
published training, is left out.

Shape shorthand in this module:
    N: images of a batch; I, O: input and output channels; H, W: height and width
"""

import math
from functools import partial
from typing import NamedTuple

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from ..norms import require_norm
from .staged import StagedBackbone, build_fpn, require_features

__all__ = ["VARIANTS", "EfficientNetLite", "MBConv"]

# Factors of channels and of blocks.
VARIANTS = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_EPSILON, _MOMENTUM = 1e-3, 0.01  # of batch norms


class _Blocks(NamedTuple):
    """A row of blocks of lite0: how many, and the geometry of each; the stride is the first's."""

    count: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


_FIRST = _Blocks(1, 3, 1, 1, 16)
# What shares a stride is a stage, as in a ResNet.
_STAGES = {
    "res2": (_Blocks(2, 3, 2, 6, 24),),
    "res3": (_Blocks(2, 5, 2, 6, 40),),
    "res4": (_Blocks(3, 3, 2, 6, 80), _Blocks(3, 5, 1, 6, 112)),
    "res5": (_Blocks(4, 5, 2, 6, 192), _Blocks(1, 3, 1, 6, 320)),
}
_LAST = _STAGES["res5"][-1]  # like the first, one block in all variants


class HalvingConv2d(Conv2d):
    """A convolution of stride 2 that pads as TensorFlow does: its output has ceil(H / 2) rows, and where
    an odd number of rows is added, the larger part is below; columns alike."""

    norm_can_be_folded = True  # see fold_norms

    def forward(self, x):
        """(N, I, H, W) float -> (N, O, ceil(H / 2), ceil(W / 2))."""
        after = self.kernel_size[0] // 2
        before = [after - 1 + side % 2 for side in x.shape[-2:]]
        return super().forward(F.pad(x, (before[1], after, before[0], after)))


class MBConv(nn.Module):
    """An inverted residual block: 1x1 convolution to more channels, depthwise convolution, 1x1
    convolution; its input is added where it has the output's shape.

    Args:
        in_channels, out_channels (int): I, O.
        kernel_size, stride (int): of the depthwise convolution.
        expansion (int): channels of the depthwise convolution over I; 1: none is before it.
        norm (str): a Detectron2 norm.
    """

    def __init__(self, in_channels, out_channels, *, kernel_size, stride, expansion, norm):
        super().__init__()
        channels = in_channels * expansion
        self.expand = build_conv(in_channels, channels, 1, norm=norm) if expansion != 1 else None
        self.depthwise = build_conv(
            channels, channels, kernel_size, stride=stride, groups=channels, norm=norm
        )
        self.project = build_conv(channels, out_channels, 1, norm=norm, activated=False)
        self._is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x):
        """(N, I, H, W) float -> (N, O, ceil(H / stride), ceil(W / stride))."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self._is_residual else y


def build_conv(in_channels, out_channels, kernel_size, *, stride=1, groups=1, norm="BN", activated=True):
    """Builds convolution, norm and ReLU6.

    Args:
        in_channels, out_channels, kernel_size, stride, groups (int): of the convolution.
        norm (str): a Detectron2 norm.
        activated (bool): False leaves out ReLU6.

    Returns:
        Conv2d: with attributes `norm` and `activation`; its padding keeps the size, or halves it.
    """
    halves = stride == 2
    conv = (HalvingConv2d if halves else Conv2d)(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=0 if halves else kernel_size // 2,
        groups=groups,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=nn.ReLU6(inplace=True) if activated else None,
    )
    if hasattr(conv.norm, "running_mean"):
        conv.norm.eps = _EPSILON
        conv.norm.momentum = _MOMENTUM
    weight_init.c2_msra_fill(conv)
    return conv


class EfficientNetLite(StagedBackbone):
    """EfficientNet-lite0 to lite4, whose published weights take RGB pixels as (x - 127) / 128.

    Outputs are "res2" (stride 4) to "res5" (32), and "linear", the classifier's.

    Args:
        variant (str): "lite0" to "lite4".
        norm (str): a Detectron2 norm.
        in_channels (int): of the images.
        out_features (sequence[str]): what is returned.
        num_classes (int or None): of the classifier; None: there is none.

    Raises:
        ValueError: another variant, or a feature that is not there.
    """

    def __init__(
        self,
        variant="lite0",
        *,
        norm="BN",
        in_channels=3,
        out_features=tuple(_STAGES),
        num_classes=None,
    ):
        if variant not in VARIANTS:
            raise ValueError(
                f"MODEL.EFFICIENTNET_LITE.VARIANT is {variant!r}: choose from {', '.join(VARIANTS)}"
            )
        available = (*_STAGES, "linear") if num_classes else tuple(_STAGES)
        require_features(out_features, available, "MODEL.EFFICIENTNET_LITE.OUT_FEATURES")
        build_blocks = partial(_build_blocks, factors=VARIANTS[variant], norm=norm)
        first, channels = build_blocks(_STEM_CHANNELS, (_FIRST,))
        stem = nn.Sequential(build_conv(in_channels, _STEM_CHANNELS, 3, stride=2, norm=norm), *first)
        stages, stride = {}, 2
        last = max(available.index(name) for name in out_features)
        for name, rows in list(_STAGES.items())[: last + 1]:
            blocks, channels = build_blocks(channels, rows)
            stride *= 2
            stages[name] = nn.Sequential(*blocks), ShapeSpec(channels=channels, stride=stride)
        super().__init__(stem, stages, out_features)
        if "linear" in out_features:
            self.conv_head = build_conv(channels, _HEAD_CHANNELS, 1, norm=norm)
            self.linear = nn.Linear(_HEAD_CHANNELS, num_classes)
            self._out_features.append("linear")
            self._out_feature_channels["linear"] = num_classes
            self._out_feature_strides["linear"] = None

    def forward(self, x):
        """Computes the features of images.

        Args:
            x (Tensor): (N, 3, H, W) float.

        Returns:
            dict[str, Tensor]: fine to coarse, each (N, C, ceil(H / stride), ceil(W / stride)); "linear"
            is (N, num_classes), logits.
        """
        x, found = self._run(x)
        if "linear" in self._out_features:
            found["linear"] = self.linear(self.conv_head(x).mean(dim=(2, 3)))
        return found


def _build_blocks(channels, rows, *, factors, norm):
    """Builds rows of blocks; returns them (list[MBConv]) and the channels of the last."""
    width, depth = factors
    blocks = []
    for row in rows:
        out_channels = _round_channels(row.channels * width)
        count = row.count if row in (_FIRST, _LAST) else math.ceil(row.count * depth)
        for number in range(count):
            blocks.append(
                MBConv(
                    channels,
                    out_channels,
                    kernel_size=row.kernel_size,
                    stride=row.stride if number == 0 else 1,
                    expansion=row.expansion,
                    norm=norm,
                )
            )
            channels = out_channels
    return blocks, channels


def _round_channels(channels):
    """Rounds to a multiple of 8 that is no more than a tenth smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg, input_shape):
    """Builds an EfficientNet-lite.

    Args:
        cfg (CfgNode): `MODEL.EFFICIENTNET_LITE` and `MODEL.BACKBONE.FREEZE_AT` are used.
        input_shape (ShapeSpec): of the images.

    Returns:
        EfficientNetLite
    """
    settings = cfg.MODEL.EFFICIENTNET_LITE
    require_norm("EFFICIENTNET_LITE.NORM", settings.NORM)
    backbone = EfficientNetLite(
        settings.VARIANT,
        norm=settings.NORM,
        in_channels=input_shape.channels,
        out_features=settings.OUT_FEATURES,
    )
    return backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_fpn_backbone(cfg, input_shape):
    """Builds an EfficientNet-lite below an FPN.

    Args:
        cfg (CfgNode): beside the keys above, `MODEL.FPN` is used.
        input_shape (ShapeSpec): of the images.

    Returns:
        FPN
    """
    return build_fpn(cfg, build_efficientnet_lite_backbone(cfg, input_shape))
