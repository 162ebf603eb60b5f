"""Neck and predictors of YOLO-v3 (Redmon and Farhadi 2018, sec. 2.1 to 2.3).

Shape shorthand in this module:
    N: images of a batch; A: anchors of a scale (3); K: classes
    H, W: height and width of a scale's grid
"""

import itertools

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d
from torch import nn

from .darknet import build_conv_unit

__all__ = ["YOLOV3Head"]


class _Scale(nn.Module):
    """One scale: `neck` goes on to the next finer one, `predictor` gives the raw predictions."""

    def __init__(self, in_channels, neck, width, outputs, norm):
        super().__init__()
        units = []
        for channels, kernel_size in neck:
            units.append(build_conv_unit(in_channels, channels, kernel_size, norm=norm))
            in_channels = channels
        self.neck = nn.Sequential(*units)
        self.channels = in_channels
        self.predictor = nn.Sequential(
            build_conv_unit(in_channels, width, 3, norm=norm), Conv2d(width, outputs, 1)
        )


class YOLOV3Head(nn.Module):
    """From the backbone's outputs to raw predictions, coarsest scale first.

    Each finer scale gets a 1 x 1 convolution of the coarser one's neck, enlarged twice, before its own
    features.

    Args:
        in_channels (list[int]): of the backbone's outputs, coarse to fine.
        necks (list[list[(int, int)]]): for each scale, channels and kernel size of each convolution.
        widths (list[int]): for each scale, channels before the last convolution.
        lateral (list[int]): channels of the 1 x 1 convolution to each but the first scale.
        num_anchors (int): A.
        num_classes (int): K.
        norm (str): a Detectron2 norm.
    """

    @configurable
    def __init__(self, *, in_channels, necks, widths, lateral, num_anchors, num_classes, norm="BN"):
        super().__init__()
        outputs = num_anchors * (5 + num_classes)
        self.scales, self.laterals = nn.ModuleList(), nn.ModuleList()
        for index, (channels, neck, width) in enumerate(zip(in_channels, necks, widths, strict=True)):
            if index:
                before = self.scales[-1].channels
                self.laterals.append(build_conv_unit(before, lateral[index - 1], 1, norm=norm))
                channels += lateral[index - 1]
            self.scales.append(_Scale(channels, neck, width, outputs, norm))

    @classmethod
    def from_config(cls, cfg, input_shape):
        yolo = cfg.MODEL.YOLOV3
        shapes = sorted(input_shape.values(), key=lambda shape: -shape.stride)
        strides = [shape.stride for shape in shapes]
        if len(shapes) not in (2, 3) or any(a != 2 * b for a, b in itertools.pairwise(strides)):
            raise ValueError(
                f"the backbone's outputs {', '.join(input_shape)} have strides {strides}: YOLO-v3 has "
                "two or three scales, each of half the stride of the one before"
            )
        anchors = {len(scale) for scale in yolo.ANCHORS}
        if len(shapes) != len(yolo.ANCHORS) or len(anchors) != 1:
            raise ValueError(
                f"MODEL.YOLOV3.ANCHORS must give the backbone's {len(shapes)} scales equally many "
                f"anchors each: it is {yolo.ANCHORS}"
            )
        if len(shapes) == 3:
            halves = (512, 256, 128)
            necks = [[(c, 1), (2 * c, 3), (c, 1), (2 * c, 3), (c, 1)] for c in halves]
            widths, lateral = [2 * c for c in halves], [256, 128]
        else:
            necks, widths, lateral = [[(256, 1)], []], [512, 256], [128]
        return {
            "in_channels": [shape.channels for shape in shapes],
            "necks": necks,
            "widths": widths,
            "lateral": lateral,
            "num_anchors": anchors.pop(),
            "num_classes": yolo.NUM_CLASSES,
            "norm": yolo.NORM,
        }

    def forward(self, features):
        """Computes raw predictions.

        Args:
            features (list[Tensor]): of the backbone, coarse to fine.

        Returns:
            list[Tensor]: coarse to fine, each (N, A * (5 + K), H, W): for each anchor tx, ty, tw, th,
            objectness, and K class logits, none of them squashed.
        """
        predictions, coarser = [], None
        for index, (scale, x) in enumerate(zip(self.scales, features, strict=True)):
            if index:
                up = F.interpolate(self.laterals[index - 1](coarser), scale_factor=2, mode="nearest")
                x = torch.cat([up, x], dim=1)
            coarser = scale.neck(x)
            predictions.append(scale.predictor(coarser))
        return predictions

    def layers_in_file_order(self):
        """Yields (name, Conv2d), as Darknet's weight files order them."""
        for index, scale in enumerate(self.scales):
            if index:
                yield f"laterals.{index - 1}", self.laterals[index - 1]
            for number, unit in enumerate(scale.neck):
                yield f"scales.{index}.neck.{number}", unit
            for number, unit in enumerate(scale.predictor):
                yield f"scales.{index}.predictor.{number}", unit
