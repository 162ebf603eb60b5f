"""Images a second, one at a time and in batches: how busy a GPU is kept."""

import copy

import torch

from ..codecs import FeatureBitstream
from ..codecs.structures import OWN_LIMITS
from .common import median_times, share
from .networks import MSFC, build_plain, gains_by_bfloat16, random_network, random_record
from .training import train_once


def benchmark_throughput(settings):
    """Both sub-models, and training, against plain Mask R-CNN, with 1 and 16 (on CPUs 2) images at
    once."""
    for images in (1, 16 if settings.device.type == "cuda" else 2):
        with torch.inference_mode():
            yield from _inference(settings, images)
        yield from _training(settings, images)


def _inference(settings, images):
    network = random_network(MSFC, settings.device)
    fused = copy.deepcopy(network)
    fused.accelerate()
    batch = [random_record(settings.size) for _ in range(images)]
    streams = network.edge_inference(batch)
    decoded = [network.decode(stream) for stream in streams]
    plain = build_plain(network, decoded, streams[0].sizes.padded, backbone=True)

    def autocast():
        with torch.autocast(settings.device.type, torch.bfloat16):
            return network.compute_batch_features(batch)

    def through_bytes():
        coded = [network.encode(each).to_bytes() for each in network.compute_batch_features(batch)]
        streams = [FeatureBitstream.from_bytes(data, OWN_LIMITS) for data in coded]
        return network.compute_batch_outputs([network.decode(stream) for stream in streams], streams)

    variants = {
        "Mask R-CNN": lambda: plain(batch),
        "edge sub-model": lambda: network.compute_batch_features(batch),
        "edge sub-model, autocast to bfloat16": autocast,
        "edge sub-model, fused": lambda: fused.compute_batch_features(batch),
    }
    if gains_by_bfloat16(settings.device):
        low = copy.deepcopy(network)
        low.accelerate("bfloat16")
        variants["edge sub-model, bfloat16"] = lambda: low.compute_batch_features(batch)
    if settings.compiles and settings.device.type == "cuda":
        compiled = copy.deepcopy(network)
        compiled.accelerate("compiled")
        variants["edge sub-model, compiled"] = lambda: compiled.compute_batch_features(batch)
    variants["cloud sub-model, decoded features"] = lambda: network.compute_batch_outputs(
        decoded, streams
    )
    variants["cloud sub-model, decoded features, fused"] = lambda: fused.compute_batch_outputs(
        decoded, streams
    )
    variants["both sub-models, coded to bytes"] = through_bytes
    yield from _rows(variants, "Mask R-CNN", images, settings)


def _training(settings, images):
    variants = {}
    for precision, autocast in (("", False), (", autocast to bfloat16", True)):
        for name, split in (("training iteration", True), ("Mask R-CNN's training iteration", False)):
            variants[f"{name}{precision}"] = train_once(
                settings.device, split, settings.size, images, autocast
            )
    yield from _rows(variants, "Mask R-CNN's training iteration", images, settings)


def _rows(variants, against, images, settings):
    seconds = median_times(variants, settings.few, settings.device, warm_up=2)
    height, width = settings.size
    for name, value in seconds.items():
        if name != against:
            what = f"{name}, {images} x {height}x{width}"
            row = share(what, against, images / value, images / seconds[against])
            yield {**row, "unit": "images/s"}
