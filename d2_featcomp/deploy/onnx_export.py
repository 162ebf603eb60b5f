"""The edge network as an ONNX file, for devices without PyTorch."""

import base64
import json
import os
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..codecs import LearnedFeatureCodec, VariableRateFeatureCodec
from ..errors import describe_import_error
from ..modeling.acceleration import find_quick_encoder
from ..ops import FLOAT_BITS, quantize_uniform
from ..preprocessing import normalize_image, pad_image

__all__ = ["EdgeNetwork", "OnnxCheck", "check_onnx", "export_onnx"]

OPSET = 17
CHECKED_SIZES = ((64, 96), (90, 70), (128, 64))  # height, width in pixels
# They tell multiples apart.
_PADDED_SIZES, _MULTIPLES = ((32, 64), (89, 67), (64, 33)), (1, 2, 4, 8, 16, 32, 64, 128)
ROUNDING = 2**-13  # of the largest value of a tensor; what 100 layers of float32 stay far below


class OnnxCheck(NamedTuple):
    """Result of :func:`check_onnx`.

    Attributes:
        largest (float): difference of features.
        differing (int): symbols, or at 32 bits values, that differ although no rounding explains it.
        compared (int): symbols, or values.
        on_border (int): symbols that differ because the feature lies on the border between two of them,
            within the rounding of floating-point sums. Which sums are taken depends on the processor.
    """

    largest: float
    differing: int
    compared: int
    on_border: int


class EdgeNetwork(nn.Module):
    """The edge sub-model of a network, from the image to the latents, as one module.

    Args:
        network (SplitInference): in evaluation mode; it codes features, not the image.

    Raises:
        ValueError: its split codes the image itself, so there is no edge network.
    """

    def __init__(self, network):
        super().__init__()
        if network.sends_image:
            raise ValueError(f"split {network.split_name} codes the image: there is no edge network")
        self.backbone = network.backbone
        self._encode = find_quick_encoder(network.backbone) or network.backbone.encode_features

    def forward(self, image):
        """Computes the latents of an image.

        Args:
            image (Tensor): (1, C, H, W) float32, as the network's own preprocessing gives it: normalized
                and padded, see :meth:`SplitInference.normalized_images`.

        Returns:
            tuple[Tensor]: each (C', H', W') float32, to quantize.
        """
        return tuple(y[0] for y in self._encode(image))


def export_onnx(network, path, about=None):
    """Writes the edge network, for images of any height and width, and checks it.

    Args:
        network (SplitInference): in evaluation mode, on the CPU.
        path (str): of the file, replaced if it exists. Its input "image" is what
            :meth:`SplitInference.normalized_images` gives; its metadata hold `fingerprint`, `split`,
            `bits`, `quantizer` and `value_range`, which a bitstream needs; with codec "learned" also
            `entropy_models`: a JSON list of what :meth:`IntegerModel.from_bytes` takes, in base64, one
            for each output. With "variable_rate" these are for several rates
            (:meth:`IntegerModel.at_rate`), and `step_sizes` is a JSON list of
            :meth:`VariableRateFeatureCodec.integer_step_sizes`.
        about (dict or None): of :func:`describe_network`. The metadata then hold, too, `codec` (its
            name), `config` (YAML) and, as JSON, `categories` and `input`: how an image is read, resized,
            normalized and padded, see :mod:`d2_featcomp.preprocessing`; "padding" is missing where the
            network prepares images in a way of its own.

    Returns:
        OnnxCheck: as :func:`check_onnx`.

    Raises:
        ImportError: onnx or onnxruntime is not installed. ValueError: see :class:`EdgeNetwork`; or ONNX
        lacks an operator, or onnxruntime gives other symbols than PyTorch, and no file is left.
    """
    try:
        import onnx
    except ImportError as error:
        need, how = "ONNX export needs onnx and onnxruntime", "pip install 'd2_featcomp[onnx]'"
        raise ImportError(describe_import_error(error, need, how, "onnx")) from error

    module = EdgeNetwork(network).eval()
    example = _preprocessed(network, torch.zeros(len(network.pixel_mean), *CHECKED_SIZES[0]))
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
        onnx.helper.set_model_props(model, _metadata(network, about))
        onnx.save(model, partial)
        found = check_onnx(network, partial)
        if found.differing:
            raise ValueError(
                f"onnxruntime gives other symbols than PyTorch, {found.differing} of {found.compared}: "
                "this network cannot be exported"
            )
        os.replace(partial, path)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"PyTorch: {reason}: this network cannot be exported") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return found


def describe_codec(codec):
    """Describes a codec as the metadata do, see :func:`export_onnx`: dict[str, str]."""
    found = {
        "bits": str(codec.bits),
        "quantizer": codec.quantizer,
        "value_range": json.dumps(codec.value_range),
    }
    if isinstance(codec, LearnedFeatureCodec):
        models = [base64.b64encode(model.to_bytes()).decode() for model in codec.integer_models()]
        found["entropy_models"] = json.dumps(models)
    if isinstance(codec, VariableRateFeatureCodec):
        found["step_sizes"] = json.dumps([sizes.tolist() for sizes in codec.integer_step_sizes()])
    return found


def _metadata(network, about):
    """Makes the metadata, dict[str, str]."""
    found = {
        "fingerprint": network.fingerprint().hex(),
        "split": network.stored_split_name,
        **describe_codec(network.feature_codec),
    }
    if about:
        found |= {"config": about["config"], "codec": about["codec"]["name"]}
        prepared = {**about["input"], **find_padding(network, about["input"])}
        found |= {"categories": json.dumps(about["categories"]), "input": json.dumps(prepared)}
        found["preprocessing"] = (
            "The program that runs this file resizes, orders channels, normalizes and pads as `input` "
            "says; the graph takes the result, (1, channels, height, width) float32, and gives the "
            "latents, not quantized."
        )
    return found


def find_padding(network, settings):
    """Finds how a network pads images, by what it does to some.

    Args:
        network (SplitInference): any.
        settings (dict): see :mod:`d2_featcomp.preprocessing`, without "padding".

    Returns:
        dict: "padding" -> as :func:`pad_image` takes it; {} where the network prepares images otherwise.
    """
    generator = torch.Generator().manual_seed(0)
    images = [_draw_image(network, size, generator) for size in _PADDED_SIZES]
    try:
        wanted = [_preprocessed(network, image)[0].cpu().numpy() for image in images]
    except ValueError:  # its square is too small for them
        return {}
    given = [normalize_image(image.numpy(), settings) for image in images]
    value = float(wanted[1][0, -1, -1])  # where anything is padded, this is
    candidates = [{"multiple": multiple} for multiple in _MULTIPLES]
    if wanted[1].shape[1] == wanted[1].shape[2]:
        side = wanted[1].shape[1]
        candidates += [{"side": side, "position": position} for position in ("corner", "middle")]
    for candidate in candidates:
        padding = {**candidate, "value": 0.0 if candidate == {"multiple": 1} else value}
        if all(map(np.array_equal, wanted, (pad_image(image, padding) for image in given))):
            return {"padding": padding}
    return {}


def _draw_image(network, size, generator):
    """Draws random pixels, (C, h, w) float32, 0..255, with as many channels as the network takes."""
    return torch.rand(len(network.pixel_mean), *size, generator=generator) * 255


def _preprocessed(network, image):
    return network.normalized_images([{"image": image}]).tensor


def check_onnx(network, path, seed=0):
    """Runs the exported network in onnxruntime, beside the edge sub-model itself, on random images of
    several sizes, and compares features and, in the ranges of the latter, symbols.

    Args:
        network (SplitInference): that was exported.
        path (str): of the ONNX file.
        seed (int): of the images.

    Returns:
        OnnxCheck

    Raises:
        ImportError: the package onnxruntime is not installed. ValueError: shapes differ, or the network
            runs on images of one size alone.
    """
    try:
        import onnxruntime
    except ImportError as error:
        need, how = "checking ONNX needs onnxruntime", "pip install 'd2_featcomp[onnx]'"
        raise ImportError(describe_import_error(error, need, how, "onnxruntime")) from error

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    codec = network.feature_codec
    generator = torch.Generator().manual_seed(seed)
    largest, differing, compared, on_border = 0.0, 0, 0, 0
    for size in CHECKED_SIZES:
        image = _draw_image(network, size, generator)
        expected = network.edge_features([{"image": image}])[0].tensors
        pixels = _preprocessed(network, image).numpy()
        try:
            found = session.run(None, {"image": pixels})
        except Exception as error:  # onnxruntime's own classes have no other base
            reason = str(error).splitlines()[-1]
            raise ValueError(
                f"onnxruntime cannot run {path!r} on {size[1]} x {size[0]} pixels ({reason}): "
                "this network cannot be exported"
            ) from error
        for wanted, values in zip(expected, map(torch.from_numpy, found), strict=True):
            if wanted.shape != values.shape:
                raise ValueError(f"{path!r} gives {tuple(values.shape)}, PyTorch {tuple(wanted.shape)}")
            largest = max(largest, float((wanted - values).abs().max()))
            others, near = _compare_symbols(wanted, values, codec)
            differing, on_border = differing + others, on_border + near
            compared += wanted.numel()
    return OnnxCheck(largest, differing, compared, on_border)


def _compare_symbols(wanted, values, codec):
    """Counts symbols (int, int) that differ, beyond rounding and within it."""
    # Two values so close that have two symbols have the border between these between them.
    rounded = (wanted - values).abs() <= ROUNDING * wanted.abs().max()
    if codec.bits == FLOAT_BITS:
        return int((~rounded).sum()), 0
    low, high = codec.find_range(wanted)
    differ = quantize_uniform(wanted, codec.bits, low, high) != quantize_uniform(
        values, codec.bits, low, high
    )
    return int((differ & ~rounded).sum()), int((differ & rounded).sum())
