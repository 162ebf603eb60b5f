"""The exported edge network with 8-bit weights and activations, by onnxruntime's static quantization.

A bitstream of the int8 edge carries the fingerprint of the network that was exported. That promises what
the cloud needs: split, codec, preprocessing, and the weights of the cloud sub-model that belong to these
latents. It does not promise in which precision the latents were computed, as it does not tell "plain"
from "bfloat16" or a CPU from a GPU; which file did is told by that file's metadata alone.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import tempfile
from typing import NamedTuple

import numpy as np

from ..errors import describe_import_error
from ..images import list_images, read_picture
from ..ops import FLOAT_BITS
from .onnx_edge import OnnxEdge

__all__ = ["Int8Check", "quantize_onnx"]


class Int8Check(NamedTuple):
    """How the int8 edge differs from the float32 edge, on images that it was not calibrated with where
    there are enough, see :func:`quantize_onnx`.

    Attributes:
        differing, compared (int): symbols in the range of the float32 edge, at the codec's rate; 0 of 0
            at 32 bits.
        float_bytes, int8_bytes (int): of all bitstreams.
        images (int): that were compared.
    """

    differing: int
    compared: int
    float_bytes: int
    int8_bytes: int
    images: int


def quantize_onnx(path, output, folder, images=100, float_layers=1, vnni=False, progress=iter):
    """Quantizes an exported edge network: convolutions and matrix products with weights of 7 bits,
    stored as 8, one scale a channel, and activations of 8 bits in the ranges that they have on
    calibration images.

    Args:
        path (str): of edge.onnx, see :func:`export_onnx`.
        output (str): file to write, replaced if it exists. Its metadata are those of `path`, the
            fingerprint among them, and `precision` "int8", `quantized_from` (SHA-256 of `path`) and
            `calibration` (JSON: numbers of images, of float layers and of bits of a weight).
        folder (str): of calibration images: such as the edge will see, no labels. Taken evenly from all.
        images (int): of them at most. One in ten, at most 20, is compared and not calibrated with.
        float_layers (int): layers before each output that stay float32.
        vnni (bool): weights of 8 bits, for edges whose processors have VNNI: x86 processors without add
            two products in 16 bits, which overflows.
        progress (callable): of a list of paths, iterates over it.

    Returns:
        Int8Check

    Raises:
        ImportError: onnx is missing. FileNotFoundError: no images. ValueError: see :class:`OnnxEdge`;
        or fewer than one image.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        need, how = "quantizing needs onnx and onnxruntime", "pip install 'd2_featcomp[onnx]'"
        raise ImportError(describe_import_error(error, need, how, "onnx", "onnxruntime")) from error
    if images < 1 or float_layers < 0:
        raise ValueError(f"calibration takes images, not {images}, and {float_layers} float layers")
    edge = OnnxEdge(path)
    paths = _take_evenly(list_images(folder), images)
    compared = paths[::10][:20] if len(paths) >= 10 else paths
    used = [each for each in paths if each not in compared] or paths

    class Reader(quantization.CalibrationDataReader):
        """Gives the inputs of the graph."""

        def __init__(self):
            self._images = iter(progress(used))

        def get_next(self):
            found = next(self._images, None)
            return found and {"image": edge.prepare(read_picture(found)).image[None]}

    with tempfile.TemporaryDirectory(dir=os.path.dirname(output) or ".") as work:
        name = os.path.basename(output)  # which may be in a warning
        names = (f"prepared.{name}", name)
        prepared, quantized = (os.path.join(work, name) for name in names)
        # Shapes depend on the image, which symbolic inference cannot know of Resize and Pad.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        with _quiet():
            quantization.quantize_static(
                prepared,
                quantized,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # Unsigned by signed is what processors with VNNI multiply in one instruction.
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=not vnni,
                nodes_to_exclude=_find_last_layers(onnx.load(prepared).graph, float_layers),
            )
        model = onnx.load(quantized)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        about = {"images": len(used), "float_layers": float_layers, "weight_bits": 8 if vnni else 7}
        more = {"precision": "int8", "quantized_from": digest, "calibration": json.dumps(about)}
        onnx.helper.set_model_props(model, {**edge.metadata, **more})
        onnx.save(model, quantized)
        found = _compare(edge, OnnxEdge(quantized), compared)
        os.replace(quantized, output)
    return found


def _take_evenly(paths, count):
    """At most so many of the paths, from the first to near the last."""
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


@contextlib.contextmanager
def _quiet():
    """Keeps from the user what onnxruntime's tool logs of each tensor."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _find_last_layers(graph, count):
    """Names of the last `count` layers with weights before each output of an ONNX graph."""
    makers = {name: node for node in graph.node for name in node.output}
    found, reached = [], [output.name for output in graph.output]
    for _ in range(count):
        layers, seen = [], set()
        while reached:
            node = makers.get(reached.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                layers.append(node)
            else:
                reached += node.input
        found += [node.name for node in layers]
        reached = list(itertools.chain.from_iterable(node.input for node in layers))
    return found


def _compare(edge, int8, paths):
    codec, differing, compared = edge.feature_codec, 0, 0
    sizes = [0, 0]
    for path in paths:
        features = [each.compute(read_picture(path)) for each in (edge, int8)]
        for index, (each, found) in enumerate(zip((edge, int8), features, strict=True)):
            sizes[index] += len(each.encode(found).to_bytes())
        if codec.bits == FLOAT_BITS:
            continue
        latents = zip(*(found.tensors for found in features), strict=True)
        for index, (wanted, values) in enumerate(latents):
            symbols = [codec.find_symbols(y, index, like=wanted) for y in (wanted, values)]
            differing += int(np.count_nonzero(symbols[0] != symbols[1]))
            compared += wanted.size
    return Int8Check(differing, compared, *sizes, len(paths))
