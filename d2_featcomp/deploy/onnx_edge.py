"""The edge sub-model in onnxruntime, without PyTorch: pictures to feature bitstreams."""

import base64
import contextlib
import json
import types
from typing import NamedTuple

import numpy as np
import yaml

from ..codecs import (
    ArrayCodec,
    FeatureBitstream,
    ImageSizes,
    VariableRateArrayCodec,
    build_image_codec,
    build_quantizer,
    meet_target,
)
from ..codecs.entropy import IntegerModel
from ..codecs.rate_control import find_target_bytes, require_no_target
from ..codecs.symbol_coding import arrange
from ..onnx_session import open_session
from ..ops import FLOAT_BITS
from ..preprocessing import normalize_image, pad_image, prepare_pixels

__all__ = ["ArrayFeatures", "OnnxEdge", "build_array_codec"]

# What may be chosen where the edge runs; all else stays as it was exported.
_RATE, _TARGET = "MODEL.FEATCOMP.CODEC.RATE", "MODEL.FEATCOMP.CODEC.TARGET_KB"
_NO_MODEL = "{!r} holds no edge network of featcomp export --onnx ({}): export it again"


class ArrayFeatures(NamedTuple):
    """Latents of one image, before they are coded.

    Attributes:
        tensors (list[ndarray]): the latent y, each (C', H', W') float32.
        sizes (ImageSizes): of the image.
    """

    tensors: list
    sizes: ImageSizes


class PreparedImage(NamedTuple):
    """An image, (C, H, W) float32, normalized and padded, and its ImageSizes."""

    image: np.ndarray
    sizes: ImageSizes


class OnnxEdge:
    """The edge sub-model of a network, as :func:`export_onnx` wrote it.

    Images are resized, normalized and padded here, by Pillow and NumPy; the ONNX graph computes the
    latents; quantizer and codec are NumPy's. For equal symbols the bitstreams are those of `edge.pth`.

    Args:
        path (str): of edge.onnx, with the metadata of `featcomp export`.
        overrides (sequence[str]): KEY VALUE pairs: the codec's rate or target. Others are accepted if
            they say what the export says.
        threads (int or None): see :func:`open_session`.

    Attributes:
        feature_codec (ArrayCodec): codes the latents; its `rate` and `target_bytes` may be changed.
        fingerprint (bytes): of its bitstreams.
        categories (list[dict]): of the network's classes.
        metadata (dict[str, str]): of the file.
        input (dict): what happens to images, see :mod:`d2_featcomp.preprocessing`.

    Raises:
        ImportError, FileNotFoundError: see :func:`open_session`; or the codec's library is missing.
        ValueError: the file holds no such network, or an override would need another export.
    """

    def __init__(self, path, overrides=(), threads=None):
        self._session = open_session(path, threads)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            self.input = json.loads(self.metadata["input"])
            config = yaml.safe_load(self.metadata["config"])
            self.categories = json.loads(self.metadata["categories"])
            self.fingerprint = bytes.fromhex(self.metadata["fingerprint"])
        except (KeyError, ValueError, yaml.YAMLError) as error:
            raise ValueError(_NO_MODEL.format(path, f"{type(error).__name__}: {error}")) from error
        if "padding" not in self.input:
            raise ValueError(
                f"{path!r} does not tell how images are padded: its network has its own way, "
                "or an earlier release exported it; export it again, or use edge.pth"
            )
        _apply(config, overrides, path)
        self.feature_codec = build_array_codec(self.metadata, config["MODEL"]["FEATCOMP"]["CODEC"], path)

    def compute(self, picture):
        """Computes the latents of a picture.

        Args:
            picture (ndarray): (H, W, 3) uint8 RGB.

        Returns:
            ArrayFeatures

        Raises:
            ValueError: its shape does not suit the network.
        """
        image, sizes = self.prepare(picture)
        return ArrayFeatures(self.run(image[None]), sizes)

    def prepare(self, picture):
        """Makes the input of the graph: PreparedImage of a picture, see :meth:`compute`."""
        pixels = prepare_pixels(picture, self.input)
        image = pad_image(normalize_image(pixels, self.input), self.input["padding"])
        return PreparedImage(image, ImageSizes(image.shape[1:], pixels.shape[1:], picture.shape[:2]))

    def run(self, image):
        """Computes the latents, list[ndarray], of (1, C, H, W) float32, prepared.

        Raises:
            ValueError: its shape does not suit the network.
        """
        try:
            return self._session.run(None, {"image": image})
        except Exception as error:  # onnxruntime's own kinds
            raise ValueError(f"onnxruntime cannot compute this image ({error})") from error

    def encode(self, features):
        """Codes what :meth:`compute` returned, see :meth:`SplitInference.encode`.

        Args:
            features (ArrayFeatures): of one image.

        Returns:
            FeatureBitstream

        Raises:
            ValueError: the features are not finite.
        """

        def code():
            tensors = self.feature_codec.compress(features.tensors)
            return FeatureBitstream(self.fingerprint, features.sizes, tensors)

        return (
            code() if self.feature_codec.target_bytes is None else meet_target(self.feature_codec, code)
        )


def _apply(config, overrides, path):
    """Puts overrides into a configuration, a dict of dicts."""
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        *parents, name = key.split(".")
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node:
            raise ValueError(f"the configuration in {path!r} has no key {key}")
        value = _parse(text) if isinstance(text, str) else text
        if key in (_RATE, _TARGET):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{key} must be a number, not {text!r}")
            node[name] = value
        elif key == "MODEL.DEVICE":
            if value != "cpu":
                raise ValueError(f"MODEL.DEVICE is {text}: edge.onnx is computed on the CPU")
        elif key != "MODEL.WEIGHTS" and not _is_equal(value, text, node[name]):
            raise ValueError(
                f"{key} is {node[name]!r} in {path!r}, where only {_RATE} and {_TARGET} can be changed: "
                "export it again, or use edge.pth"
            )


def _parse(text):
    """What a value on a command line stands for; the text itself where it is nothing else."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    with contextlib.suppress(ValueError):
        return float(value) if isinstance(value, str) else value  # to YAML 1e-2 is no number
    return value


def _is_equal(value, text, exported):
    if isinstance(exported, list):  # tuples are written as Python writes them
        try:
            value = list(yaml.safe_load(text.replace("(", "[").replace(",)", "]").replace(")", "]")))
        except (AttributeError, TypeError, yaml.YAMLError):
            return False
    return value == exported or (exported is None and text == "None")


def build_array_codec(metadata, settings, path):
    """Builds the codec of an edge without PyTorch.

    Args:
        metadata (dict[str, str]): see :func:`export_onnx`.
        settings (dict): MODEL.FEATCOMP.CODEC of the configuration.
        path (str): of the file, for messages.

    Returns:
        ArrayCodec

    Raises:
        ImportError: the codec's library is missing. ValueError: the codec is known to PyTorch alone, or
        a setting is out of range.
    """
    bits, name, target = int(metadata["bits"]), metadata["codec"], settings["TARGET_KB"]
    quantizer = None
    if bits != FLOAT_BITS:
        value_range = tuple(json.loads(metadata["value_range"]))
        quantizer = build_quantizer(
            metadata["quantizer"], value_range, types.SimpleNamespace(**settings)
        )
    common = {"name": name, "bits": bits, "quantizer": quantizer}
    models = [
        IntegerModel.from_bytes(base64.b64decode(data))
        for data in json.loads(metadata.get("entropy_models", "[]"))
    ]
    if "step_sizes" in metadata:
        steps = [np.array(each, np.int32) for each in json.loads(metadata["step_sizes"])]
        return VariableRateArrayCodec(
            models=models,
            step_sizes=steps,
            rate=settings["RATE"],
            target_bytes=find_target_bytes(target),
            **common,
        )
    require_no_target(target, name)
    if models:
        return ArrayCodec(encode=lambda symbols, index: models[index].encode(symbols), **common)
    try:
        image_codec = build_image_codec(
            name, bits=bits, quality=settings["QUALITY"], effort=settings["EFFORT"]
        )
    except ValueError as error:
        raise ValueError(f"{path!r} cannot be used without PyTorch: {error}") from error
    layout = image_codec.layout
    return ArrayCodec(
        encode=lambda symbols, index: image_codec.encode(arrange(symbols, layout)), **common
    )
