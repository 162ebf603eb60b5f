"""The exported edge network of MSFC in onnxruntime, in float32 and int8."""

import copy
import os
import tempfile

import numpy as np
import torch
from PIL import Image

from ..deploy.configuration import describe_network
from ..deploy.onnx_edge import OnnxEdge
from ..deploy.onnx_export import export_onnx
from ..deploy.onnx_int8 import quantize_onnx
from ..engine import setup_config
from ..onnx_session import has_vnni
from ..preprocessing import normalize_image, pad_image
from .common import median_times, times_faster
from .networks import MSFC, random_network, random_record

_CALIBRATED_WITH = 4  # images of noise: the speed does not depend on what they show
_GOAL = 1.8  # of int8, where processors have an instruction for it


@torch.inference_mode()
def benchmark_onnx(settings):
    """The edge sub-model by onnxruntime, against plain and fused PyTorch: each from an image to its
    latents, normalizing and padding included. On the CPU."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return
    cpu = torch.device("cpu")
    network = random_network(MSFC, cpu)
    fused = copy.deepcopy(network)
    fused.accelerate()
    record = random_record(settings.size)
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = _export(network, folder, settings.threads)

    def compute(edge):
        image = normalize_image(record["image"].numpy().astype(np.float32), edge.input)
        return edge.run(pad_image(image, edge.input["padding"])[None])

    seconds = median_times(
        {
            "plain": lambda: network.edge_features([record]),
            "fused": lambda: fused.edge_features([record]),
            "onnx": lambda: compute(float32),
            "int8": lambda: compute(int8),
        },
        settings.few,
        cpu,
    )
    height, width = settings.size
    what = f"edge sub-model, R50-FPN + MSFF + SSFC, {height}x{width}"
    many = f"{settings.threads} thread{'s' * (settings.threads > 1)}"
    vnni = has_vnni()
    quick = f"{what}, edge.int8.onnx, {many}, {'with' if vnni else 'without'} VNNI"
    yield times_faster(f"{what}, edge.onnx, {many}", "PyTorch, plain", seconds["onnx"], seconds["plain"])
    yield times_faster(f"{what}, edge.onnx, {many}", "PyTorch, fused", seconds["onnx"], seconds["fused"])
    goal = _GOAL if vnni else None
    yield times_faster(quick, "edge.onnx", seconds["int8"], seconds["onnx"], goal)
    yield times_faster(quick, "PyTorch, fused", seconds["int8"], seconds["fused"])


def _export(network, folder, threads):
    """(OnnxEdge, OnnxEdge): in float32 and in int8."""
    paths = [os.path.join(folder, name) for name in ("edge.onnx", "edge.int8.onnx")]
    cfg = setup_config(MSFC, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    export_onnx(network, paths[0], describe_network(cfg, network, []))
    images = os.path.join(folder, "images")
    os.mkdir(images)
    rng = np.random.default_rng(0)
    for index in range(_CALIBRATED_WITH):
        noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        noise.resize((320, 240)).save(os.path.join(images, f"{index}.png"))
    quantize_onnx(*paths, images, vnni=has_vnni())
    return [OnnxEdge(path, threads=threads) for path in paths]
