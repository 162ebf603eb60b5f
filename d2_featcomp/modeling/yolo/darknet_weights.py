"""Weight files of Darknet, the program that YOLO-v3 was trained with.

A file is: three int32, the version (major, minor, revision); how many images were trained on, int64
from version 0.2 on and int32 before (the program PyTorch-YOLOv3 writes version 0.0 and yet int64); then
float32 values, layer by layer. A convolution with batch norm
has its biases, scales, means and variances, then its weights; one without has its biases, then its
weights. All numbers are little-endian.
"""

import numpy as np
import torch
from detectron2.layers import Conv2d

from ..split_backbone import unsplit_backbone

__all__ = ["DarknetWeightsError", "load_darknet_weights"]


class DarknetWeightsError(ValueError):
    """The file is not one of this network's weights."""


def load_darknet_weights(network, path):
    """Fills a network with the weights of a Darknet file.

    Args:
        network (YOLOV3): changed in place, unless an error is raised.
        path (str): e.g. of yolov3.weights or yolov3-tiny.weights.

    Raises:
        DarknetWeightsError: the file is cut short, too long, or of another network; the message names
            the first layer that does not fit. OSError: it cannot be read.
    """
    wanted = [(name, *pair) for name, layer in _layers(network) for pair in _parts(layer)]
    with open(path, "rb") as file:
        numbers = _read_values(path, file, sum(tensor.numel() for _, _, tensor in wanted))
    values = _Values(path, numbers)
    loaded = [(tensor, values.take(name, part, tensor)) for name, part, tensor in wanted]
    values.end()
    with torch.no_grad():
        for tensor, value in loaded:
            tensor.copy_(value)


def _read_values(path, file, expected):
    """(n,) float32; `expected`: the n of the network, which tells headers of version 0.0 apart."""
    header = file.read(12)
    if len(header) < 12:
        raise DarknetWeightsError(f"{path!r} is no Darknet weight file: it has {len(header)} bytes")
    major, minor, revision = np.frombuffer(header, "<i4")
    if not (0 <= major < 100 and 0 <= minor < 100):
        raise DarknetWeightsError(
            f"{path!r} is no Darknet weight file: its first bytes would be version {major}.{minor}"
        )
    file.seek(8 if major * 10 + minor >= 2 else 4, 1)
    data = file.read()
    if len(data) % 4:
        raise DarknetWeightsError(f"{path!r} ends within a number: it was cut short")
    numbers = np.frombuffer(data, "<f4")
    if (major, minor, revision) == (0, 0, 0) and len(numbers) == expected + 1 and not any(data[:4]):
        return numbers[1:]  # the upper half of an int64
    return numbers


def _layers(network):
    """(name, Conv2d) in the order of the file: the backbone's, then the head's."""
    for number, layer in enumerate(unsplit_backbone(network).layers):
        if isinstance(layer, Conv2d):
            yield f"backbone.layers.{number}", layer
    for name, layer in network.head.layers_in_file_order():
        yield f"head.{name}", layer


def _parts(layer):
    if layer.norm is None:
        return [("bias", layer.bias), ("weight", layer.weight)]
    norm = layer.norm
    return [
        ("norm.bias", norm.bias),
        ("norm.weight", norm.weight),
        ("norm.running_mean", norm.running_mean),
        ("norm.running_var", norm.running_var),
        ("weight", layer.weight),
    ]


class _Values:
    """The numbers of a file, taken one tensor after the other."""

    def __init__(self, path, numbers):
        self.path = path
        self.numbers = numbers
        self.position = 0

    def take(self, layer, part, like):
        count = like.numel()
        numbers = self.numbers[self.position : self.position + count]
        if len(numbers) < count:
            raise DarknetWeightsError(
                f"{self.path!r} ends in layer {layer}: its {part} {tuple(like.shape)} needs {count} "
                f"numbers, {len(numbers)} are left. The file was cut short or is of another network or "
                "number of classes (MODEL.YOLOV3.NUM_CLASSES)"
            )
        if not np.isfinite(numbers).all() or (part == "norm.running_var" and (numbers < 0).any()):
            raise DarknetWeightsError(
                f"{self.path!r} does not fit from layer {layer} on: what should be its {part} has "
                "values that cannot be. The file is damaged or of another network or number of classes "
                "(MODEL.YOLOV3.NUM_CLASSES)"
            )
        self.position += count
        return torch.from_numpy(numbers.astype(np.float32)).view_as(like)

    def end(self):
        left = len(self.numbers) - self.position
        if left:
            raise DarknetWeightsError(
                f"{self.path!r} has {left} numbers more than this network, after its last layer: it is "
                "of another network or number of classes (MODEL.YOLOV3.NUM_CLASSES)"
            )
