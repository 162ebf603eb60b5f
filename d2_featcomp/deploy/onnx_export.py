"""The edge network as an ONNX file, for devices without PyTorch."""

import json
import os
import warnings

import torch
from torch import nn

from ..modeling.acceleration import find_quick_encoder
from ..ops import FLOAT_BITS, minmax_range, quantize_uniform

__all__ = ["EdgeNetwork", "check_onnx", "export_onnx"]

OPSET = 17
CHECKED_SIZES = ((64, 96), (90, 70), (128, 64))  # height, width in pixels
MOST_DIFFERING = 1e-3  # share of symbols; rounding moves some across the border to the next


class EdgeNetwork(nn.Module):
    """The edge half of a network, from the image to what is quantized, as one module.

    Args:
        network (SplitInference): in evaluation mode; what it sends is no image.

    Raises:
        ValueError: its split sends the image itself, so there is no edge network.
    """

    def __init__(self, network):
        super().__init__()
        if network.sends_image:
            raise ValueError(f"split {network.split_name} sends the image: there is no edge network")
        self.backbone = network.backbone
        self._encode = find_quick_encoder(network.backbone) or network.backbone.encode_features

    def forward(self, image):
        """
        Args:
            image (Tensor): (1, 3, H, W) float32, as the network's own preprocessing gives it: normalized
                and padded, see :meth:`SplitInference.normalized_images`.

        Returns:
            tuple[Tensor]: each (C', H', W') float32, to quantize.
        """
        return tuple(y[0] for y in self._encode(image))


def export_onnx(network, path):
    """Writes the edge network, for images of any height and width, and checks it.

    Args:
        network (SplitInference): in evaluation mode, on the CPU.
        path (str): of the file, replaced if it exists. Its input "image" is what
            :meth:`SplitInference.normalized_images` gives; its metadata hold `fingerprint`, `split`,
            `bits`, `quantizer` and `value_range`, which a bitstream needs.

    Returns:
        (float, int, int): as :func:`check_onnx`.

    Raises:
        ImportError: onnx or onnxruntime is not installed. ValueError: see :class:`EdgeNetwork`; or
        onnxruntime gives other symbols than PyTorch, and no file is left.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "ONNX export needs onnx and onnxruntime: pip install 'd2_featcomp[onnx]'"
        ) from error

    module = EdgeNetwork(network).eval()
    example = _preprocessed(network, torch.zeros(3, *CHECKED_SIZES[0]))
    names = [f"features{index}" for index in range(len(module(example)))]
    partial = f"{path}.partial"
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of the tracer, about sizes that are the same in every image.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                partial,
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=names,
                dynamic_axes={
                    "image": {2: "height", 3: "width"},
                    **{name: {1: f"{name}_height", 2: f"{name}_width"} for name in names},
                },
            )
        model = onnx.load(partial)
        codec = network.feature_codec
        onnx.helper.set_model_props(
            model,
            {
                "fingerprint": network.fingerprint().hex(),
                "split": network.split_name,
                "bits": str(codec.bits),
                "quantizer": codec.quantizer,
                "value_range": json.dumps(codec.value_range),
            },
        )
        onnx.save(model, partial)
        largest, differing, compared = check_onnx(network, partial)
        if differing > MOST_DIFFERING * compared:
            raise ValueError(
                f"onnxruntime gives other symbols than PyTorch, {differing} of {compared}: this network "
                "cannot be exported"
            )
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return largest, differing, compared


def _preprocessed(network, image):
    return network.normalized_images([{"image": image}]).tensor


def check_onnx(network, path, seed=0):
    """Runs the exported network in onnxruntime, beside the edge half itself, on random images of several
    sizes.

    Args:
        network (SplitInference): that was exported.
        path (str): of the ONNX file.
        seed (int): of the images.

    Returns:
        (float, int, int): largest difference of features; symbols that differ; symbols compared.

    Raises:
        ImportError: the package onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("checking ONNX needs onnxruntime: pip install 'd2_featcomp[onnx]'") from error

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    codec = network.feature_codec
    generator = torch.Generator().manual_seed(seed)
    largest, differing, compared = 0.0, 0, 0
    for size in CHECKED_SIZES:
        image = torch.rand(3, *size, generator=generator) * 255
        expected = network.edge_features([{"image": image}])[0].tensors
        found = session.run(None, {"image": _preprocessed(network, image).numpy()})
        for wanted, values in zip(expected, map(torch.from_numpy, found), strict=True):
            if wanted.shape != values.shape:
                raise ValueError(f"{path!r} gives {tuple(values.shape)}, PyTorch {tuple(wanted.shape)}")
            largest = max(largest, float((wanted - values).abs().max()))
            if codec.bits != FLOAT_BITS:
                differing += int((_symbols(wanted, codec) != _symbols(values, codec)).sum())
                compared += wanted.numel()
    return largest, differing, compared


def _symbols(z, codec):
    if codec.quantizer == "fixed":
        low, high = codec.value_range
    else:
        low, high = minmax_range(z, per_channel=codec.quantizer == "channel")
    return quantize_uniform(z, codec.bits, low, high)
