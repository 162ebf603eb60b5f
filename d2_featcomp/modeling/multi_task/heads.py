"""Decoders of the tasks, one registered class each.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of the features; s: their stride
    K: channels of a prediction, (N, K, s * H, s * W); h, w: height and width of an image
"""

import abc
import math

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import nn

from ...registry import Registry

__all__ = [
    "TASK_HEAD_REGISTRY",
    "DisparityHead",
    "ReconstructionHead",
    "SegmentationHead",
    "TaskHead",
    "UpsamplingDecoder",
]

TASK_HEAD_REGISTRY = Registry("TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Registry of task heads for CompressibleMultiTask: subclasses of :class:`TaskHead` that can be called as
`cls(cfg, input_shape)`, where `input_shape` is the ShapeSpec of the features.
"""

ACTIVATIONS = {"": nn.Identity, "relu": nn.ReLU}


class UpsamplingDecoder(nn.Sequential):
    """Doubles the size until it is the image's: per stage a transposed 2 x 2 convolution of stride 2 and
    a 3 x 3 convolution, the width halved down to a least one; a 1 x 1 convolution at the end.

    Args:
        in_channels (int): C.
        stride (int): s, a power of two.
        min_channels (int): least width.
        out_channels (int): K.
        activation (str): after every convolution but the last, "" (none, as in the paper) or "relu".
        wide (bool): keep the width in the first stage.
    """

    def __init__(self, *, in_channels, stride, min_channels, out_channels, activation="", wide=False):
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"features of stride {stride} cannot be decoded: it must be a power of two")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"MODEL.MULTI_TASK.ACTIVATION is {activation!r}: choose one of "
                f"{', '.join(map(repr, ACTIVATIONS))}"
            )
        layers, width = [], in_channels
        for stage in range(stride.bit_length() - 1):
            narrower = width if wide and stage == 0 else max(width // 2, min_channels)
            layers += [nn.ConvTranspose2d(width, narrower, 2, stride=2), ACTIVATIONS[activation]()]
            layers += [nn.Conv2d(narrower, narrower, 3, padding=1), ACTIVATIONS[activation]()]
            width = narrower
        super().__init__(*layers, nn.Conv2d(width, out_channels, 1))
        for layer in self:
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                _keep_variance(layer, "relu" if activation else "linear")


def _keep_variance(layer, nonlinearity):
    """Initializes a convolution so that what goes through many of them neither fades nor explodes."""
    inputs = layer.in_channels
    if not isinstance(layer, nn.ConvTranspose2d):  # whose taps each make a pixel of their own
        inputs *= math.prod(layer.kernel_size)
    nn.init.normal_(layer.weight, std=nn.init.calculate_gain(nonlinearity) / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)


class TaskHead(nn.Module, abc.ABC):
    """One task of :class:`CompressibleMultiTask`. Its `forward` maps features, (N, C, H, W), to
    predictions.

    Attributes:
        task (str): names its loss.
        loss_kind (str): "segmentation" or "regression", for eq. 6.
    """

    task = ""
    loss_kind = "regression"

    @abc.abstractmethod
    def loss(self, predictions, batched_inputs):
        """Computes the loss.

        Args:
            predictions (Tensor): (N, K, s * H, s * W), of padded images.
            batched_inputs (list[dict]): with the targets, of the images alone.

        Returns:
            Tensor: scalar.
        """

    @abc.abstractmethod
    def finish(self, prediction, image_size, output_size):
        """Makes the output of one image from a prediction.

        Args:
            prediction (Tensor): (K, s * H, s * W), of one padded image.
            image_size ((int, int)): height and width of the image as the network got it.
            output_size ((int, int)): height and width that outputs refer to.

        Returns:
            dict[str, Tensor]: what the network returns for this task.
        """


def _padded(targets, size, value):
    """list of (..., h, w) -> (N, ..., *size), filled up with `value` right and at the bottom."""
    rows = [
        F.pad(target, (0, size[1] - target.shape[-1], 0, size[0] - target.shape[-2]), value=value)
        for target in targets
    ]
    return torch.stack(rows)


def _targets(batched_inputs, key, device):
    try:
        return [record[key].to(device) for record in batched_inputs]
    except KeyError:
        raise ValueError(
            f"training data lack {key!r}: the data set needs {key}_file_name, and disparity needs "
            "MODEL.FEATCOMP.TRAIN.MAPPER MultiTaskMapper"
        ) from None


class _DecodingHead(TaskHead):
    """A head whose prediction is the output of an :class:`UpsamplingDecoder`."""

    def __init__(self, cfg, input_shape, *, min_channels, out_channels, wide=False):
        super().__init__()
        self.decoder = UpsamplingDecoder(
            in_channels=input_shape.channels,
            stride=input_shape.stride,
            min_channels=min_channels,
            out_channels=out_channels,
            activation=cfg.MODEL.MULTI_TASK.ACTIVATION,
            wide=wide,
        )

    def forward(self, features):
        return self.decoder(features)


@TASK_HEAD_REGISTRY.register()
class SegmentationHead(_DecodingHead):
    """Semantic segmentation, by cross-entropy. Output: "sem_seg", (K, height, width) float logits.

    Args:
        cfg (CfgNode): `MODEL.SEM_SEG_HEAD.NUM_CLASSES` and `.IGNORE_VALUE`, and `MODEL.MULTI_TASK`.
        input_shape (ShapeSpec): of the features.
    """

    task = "segmentation"
    loss_kind = "segmentation"

    def __init__(self, cfg, input_shape):
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        super().__init__(cfg, input_shape, min_channels=16, out_channels=classes)
        self.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def loss(self, predictions, batched_inputs):
        """Computes the mean cross-entropy over the pixels that are not to be ignored, 0 where there are
        none."""
        for record in batched_inputs:
            self._check(record.get("sem_seg"))
        targets = _targets(batched_inputs, "sem_seg", predictions.device)
        targets = _padded(targets, predictions.shape[-2:], self.ignore_value)
        total = F.cross_entropy(
            predictions.float(), targets, ignore_index=self.ignore_value, reduction="sum"
        )
        return total / (targets != self.ignore_value).sum().clamp(min=1)

    def _check(self, labels):
        if labels is None or not labels.numel():
            return
        largest = int(torch.where(labels == self.ignore_value, 0, labels).max())
        classes = self.decoder[-1].out_channels
        if largest >= classes:
            raise ValueError(
                f"a semantic map holds class {largest}, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes} "
                f"and IGNORE_VALUE {self.ignore_value}"
            )

    def finish(self, prediction, image_size, output_size):
        return {"sem_seg": sem_seg_postprocess(prediction, image_size, *output_size)}


@TASK_HEAD_REGISTRY.register()
class DisparityHead(_DecodingHead):
    """Disparity, by squared error. Output: "disparity", (height, width) float, at least 0, in pixels of
    the image of that size.

    Args:
        cfg (CfgNode): `MODEL.MULTI_TASK`.
        input_shape (ShapeSpec): of the features.
    """

    task = "disparity"

    def __init__(self, cfg, input_shape):
        wide = cfg.MODEL.MULTI_TASK.WIDE_DISPARITY
        super().__init__(cfg, input_shape, min_channels=32, out_channels=1, wide=wide)
        self.scale = cfg.MODEL.MULTI_TASK.DISPARITY_SCALE
        if not self.scale > 0:
            raise ValueError(f"MODEL.MULTI_TASK.DISPARITY_SCALE is {self.scale}: it must be positive")

    def loss(self, predictions, batched_inputs):
        """Computes the mean squared error over the pixels of known disparity (above 0), in units of
        DISPARITY_SCALE pixels; 0 where there are none."""
        targets = _targets(batched_inputs, "disparity", predictions.device)
        targets = _padded(targets, predictions.shape[-2:], 0.0)
        known = targets > 0
        error = predictions[:, 0].float() - targets / self.scale
        return torch.where(known, error, 0.0).square().sum() / known.sum().clamp(min=1)

    def finish(self, prediction, image_size, output_size):
        disparity = sem_seg_postprocess(prediction, image_size, *output_size)[0]
        # Disparity is measured along the image's width.
        return {"disparity": (disparity * (self.scale * output_size[1] / image_size[1])).clamp(min=0)}


@TASK_HEAD_REGISTRY.register()
class ReconstructionHead(_DecodingHead):
    """The input image itself, by absolute error. Output: "reconstruction", (3, h, w) float in [0, 1], of
    the image's size in the network and in its order of channels (`INPUT.FORMAT`).

    Args:
        cfg (CfgNode): `MODEL.MULTI_TASK`.
        input_shape (ShapeSpec): of the features.
    """

    task = "reconstruction"

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape, min_channels=16, out_channels=len(cfg.MODEL.PIXEL_MEAN))

    def loss(self, predictions, batched_inputs):
        """Computes the mean absolute error over all pixels and channels of the images, padding left
        out."""
        images = _targets(batched_inputs, "image", predictions.device)
        size = predictions.shape[-2:]
        targets = _padded([image.float() / 255 for image in images], size, 0.0)
        inside = _padded([torch.ones_like(image[:1], dtype=torch.bool) for image in images], size, False)
        error = torch.where(inside, (predictions.float() - targets).abs(), 0.0)
        return error.sum() / (inside.sum() * predictions.shape[1]).clamp(min=1)

    def finish(self, prediction, image_size, output_size):
        return {"reconstruction": prediction[:, : image_size[0], : image_size[1]].float().clamp(0, 1)}
