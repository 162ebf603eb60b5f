"""Costs of each split point of a network: multiply-accumulates, time, bytes."""

import dataclasses
import logging
import statistics
import time
import warnings
from contextlib import contextmanager

import torch
from detectron2.modeling import FPN, ResNet
from fvcore.nn import FlopCountAnalysis
from torch import nn

from ..codecs import (
    FeatureBitstream,
    ImageSizes,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
    decompress_stream,
    read_step_sizes,
)
from ..codecs.structures import OWN_LIMITS
from ..engine.inference import build_for_inference, get_pixels
from ..engine.timing import time_call, wait_for_gpu
from ..evaluation.answers import decode_answers, encode_answers, make_answer_stream
from ..modeling.backbones import StagedBackbone
from ..modeling.split_backbone import DecodedLatents
from ..modeling.split_point import BACKBONE, list_split_points
from .onnx_export import EdgeNetwork

__all__ = ["SplitCost", "find_fastest_ranges", "measure_splits"]

IMAGE, ANSWERS = "image", "answers"
_STAGED = (ResNet, StagedBackbone)  # a stem, and stages by name


@dataclasses.dataclass(frozen=True)
class SplitCost:
    """Costs of one split point, medians over images.

    Attributes:
        name (str): of the split, e.g. "MSFC"; "image" codes the image itself, "answers" the detections
            of an edge that computes everything.
        sends (str): what is coded: an image, or names of features.
        edge_macs, cloud_macs (float): multiply-accumulates for each pixel of the network's input; on the
            edge of the configured split, of :class:`EdgeNetwork`.
        edge_seconds, cloud_seconds (float): of the networks.
        encode_seconds, decode_seconds (float): of the codec.
        size (float): bytes of an image's bitstream.
        split_point (str): as MODEL.FEATCOMP.SPLIT_POINT names it; "" where the network cannot be split,
            so that the row tells what it would cost, and of answers.
        added_macs (float): what of `edge_macs` is not of the network that is split: reducing features,
            and networks of the codec.
    """

    name: str
    sends: str
    edge_macs: float
    cloud_macs: float
    edge_seconds: float
    encode_seconds: float
    decode_seconds: float
    cloud_seconds: float
    size: float
    split_point: str = IMAGE
    added_macs: float = 0.0

    def seconds(self, edge_factor=1.0):
        """Sums all but the transfer, on an edge device that is so many times slower."""
        edge = edge_factor * (self.edge_seconds + self.encode_seconds)
        return edge + self.decode_seconds + self.cloud_seconds


def find_fastest_ranges(costs, edge_factor=1.0):
    """Finds the bandwidths at which each split has the shortest end-to-end latency.

    Args:
        costs (list[SplitCost]): to compare.
        edge_factor (float): how many times slower the edge device is.

    Returns:
        dict[str, (float, float)]: name -> lowest and highest bandwidth, kbit/s, from 0 to infinity;
        splits that are never the fastest, places where the network cannot be split, and answers are left
        out.
    """
    ranges, costs = {}, [cost for cost in costs if cost.split_point]
    for one in costs:
        low, high = 0.0, float("inf")
        for other in costs:
            if other is one:
                continue
            # one is faster than other while more * 8 / bandwidth < slack.
            more = one.size - other.size
            slack = other.seconds(edge_factor) - one.seconds(edge_factor)
            if more > 0:
                low = max(low, 8 * more / slack / 1000) if slack > 0 else float("inf")
            elif more < 0:
                high = min(high, 8 * more / slack / 1000) if slack < 0 else high
            elif slack < 0:
                low = float("inf")
        if low < high:
            ranges[one.name] = (low, high)
    return ranges


def measure_splits(cfg, records, *, anchor_weights="", bits=8, image_quality=90, progress=iter):
    """Measures the split of a configuration, and the other points at which its network can be split; all
    of them computed plainly, whatever MODEL.FEATCOMP.INFERENCE says.

    The others code features as they are, quantized to `bits` in their own range: after each stage of a
    ResNet or the like (below a pyramid with the finer stages that the pyramid needs), the whole pyramid,
    or after each layer of a Darknet at which it can be split. Of networks that detect there are the
    answers, too: all is computed on the edge, which sends detections of MODEL.FEATCOMP.ANSWERS.SCORE or
    more.

    Args:
        cfg (CfgNode): of a network that is split, with MODEL.WEIGHTS.
        records (list[dict]): images, as :func:`make_input` gives them.
        anchor_weights (str): checkpoint of the network before it was split; "" is MODEL.WEIGHTS.
        bits (int): bit depth of features that are not reduced.
        image_quality (int): of the JPEG in place of features, 1..100.
        progress (callable): wraps the records.

    Returns:
        list[SplitCost]: from the image to the end of the backbone, answers, and the configured split.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`load_weights`. ValueError: no images, or the
        configured split codes the image.
    """
    if not records:
        raise ValueError("there are no images to measure")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FEATCOMP.INFERENCE = "plain"  # as the whole network
    split = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
    if split.sends_image:
        raise ValueError(
            "MODEL.FEATCOMP.SPLIT ImageSplit codes the image, no features: choose another split"
        )
    whole_network = build_for_inference(cfg, anchor_weights or cfg.MODEL.WEIGHTS, enabled=False)
    places = _places(whole_network.backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that it takes for constant
        macs = _count_macs(split, whole_network, places, records[0])
    feature_codec = QuantizedFeatureCodec(
        image_codec=build_image_codec("jpegxl", bits=bits), quantizer="tensor"
    )
    image_codec = build_image_codec("jpeg420", bits=8, quality=image_quality)
    rows = {}
    least_score = cfg.MODEL.FEATCOMP.ANSWERS.SCORE
    given = split, whole_network, places, feature_codec, image_codec, least_score
    _measure_image(records[0], cfg, *given)  # warms up
    for record in progress(records):
        found = _measure_image(record, cfg, *given)
        for name, values in found.items():
            rows.setdefault(name, []).append(values)
    sends = {IMAGE: f"JPEG {image_quality}", **{place.name: place.sends for place in places}}
    sends |= {ANSWERS: "detections", split.split_name: "reduced features"}
    points = {IMAGE: IMAGE, ANSWERS: "", split.split_name: split.split_point.name}
    can_be = list_split_points(whole_network.backbone)
    points |= {place.name: place.point if place.point in can_be else "" for place in places}
    return [
        SplitCost(
            name,
            sends[name],
            *macs[name][:2],
            *(statistics.median(column) for column in zip(*values, strict=True)),
            points[name],
            macs[name][2],
        )
        for name, values in rows.items()
    ]


@dataclasses.dataclass(frozen=True)
class _Place:
    """A split point of a backbone: modules before it, and those whose outputs are coded."""

    name: str
    parts: tuple  # names of modules of the backbone that the edge runs
    outputs: tuple  # names of modules whose outputs are coded; "" is the backbone itself
    sends: str
    point: str  # as the split point there is called


def _places(backbone):
    if isinstance(backbone, FPN) and isinstance(backbone.bottom_up, _STAGED):
        found = _stages(backbone.bottom_up, "bottom_up.", backbone.in_features)
        levels = ", ".join(backbone.output_shape())
        return [*found, _Place("pyramid", ("",), ("",), levels, BACKBONE)]
    if isinstance(backbone, _STAGED):
        return _stages(backbone, "", ())
    if hasattr(backbone, "list_split_layers"):
        return [
            _Place(
                f"layer {number}",
                tuple(f"layers.{n}" for n in range(number + 1)),
                (f"layers.{number}",),
                f"{backbone.layers[number].out_channels} channels",
                f"layer{number}",
            )
            for number in backbone.list_split_layers()
        ]
    return [_Place("backbone", ("",), ("",), ", ".join(backbone.output_shape()), BACKBONE)]


def _stages(backbone, prefix, needed):
    """Lists the points after each stage; `needed` are stages that what follows the last one reads."""
    found, parts = [], [f"{prefix}stem"]
    for name in backbone.stage_names:
        parts.append(f"{prefix}{name}")
        coded = [n for n in needed if n in [part[len(prefix) :] for part in parts]]
        coded = coded if name in coded else [*coded, name]
        outputs = tuple(f"{prefix}{n}" for n in coded)
        label = ", ".join(n.replace("res", "C") for n in coded)
        found.append(_Place(name.replace("res", "C"), tuple(parts), outputs, label, name))
    return found


class _Cloud(nn.Module):
    """The cloud sub-model up to the network's heads, as one module."""

    def __init__(self, network, stream):
        super().__init__()
        self.backbone = network.backbone
        steps = read_step_sizes(network.describe_stream(stream), network.feature_codec)
        self._steps, self._size = [step[None] for step in steps], stream.sizes.padded

    def forward(self, *y_hats):
        decoded = DecodedLatents([y[None] for y in y_hats], self._steps, self._size)
        return tuple(self.backbone.decode_features(decoded).values())


class _Reduction(nn.Module):
    """What the edge computes beside the network that is split, and the codec, as one module."""

    def __init__(self, feature_split, names):
        super().__init__()
        self.feature_split, self._names = feature_split, names

    def forward(self, *features):
        return tuple(self.feature_split.reduce(dict(zip(self._names, features, strict=True))))


@torch.no_grad()
def _count_macs(split, whole_network, places, record):
    """Counts, dict: name -> (edge, cloud, added to the edge's part of the network), multiply-accumulates
    for each pixel of the network's input."""
    # Not at the top: it imports what only tracing needs.
    from detectron2.utils.analysis import FlopCountAnalysis as DetectorAnalysis

    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    images = split.normalized_images([record]).tensor
    stream = split.edge_inference([record])[0]
    whole = DetectorAnalysis(whole_network, [record])
    by_module, total = whole.by_module(), whole.total()
    prefix = next(name for name in by_module if name.endswith("backbone"))
    backbone = by_module[prefix]
    found = {IMAGE: (0, total, 0), ANSWERS: (total, 0, 0)}
    for place in places:
        parts = [f"{prefix}.{part}".rstrip(".") for part in place.parts]
        edge = sum(by_module[part] for part in parts)
        found[place.name] = edge, total - edge, 0
    edge = FlopCountAnalysis(EdgeNetwork(split), images).total()
    cloud = FlopCountAnalysis(_Cloud(split, stream), tuple(split.decode(stream))).total()
    features = split.backbone.split_point.head(images)
    reduction = _Reduction(split.feature_split, tuple(features))
    added = FlopCountAnalysis(reduction, tuple(features.values())).total()
    coding = split.feature_codec.count_macs(split.describe_stream(stream).shapes)
    found[split.split_name] = edge + coding, coding + cloud + total - backbone, added + coding
    pixels = images.shape[-2] * images.shape[-1]
    return {name: tuple(value / pixels for value in values) for name, values in found.items()}


@torch.no_grad()
def _measure_image(record, cfg, split, whole_network, places, feature_codec, image_codec, least_score):
    """Measures, dict: name -> (edge, encode, decode and cloud seconds, bytes) of one image."""
    wanted = {part for place in places for part in (*place.parts, *place.outputs)} | {""}
    with _timed_modules(whole_network.backbone, wanted) as seen:
        (output,), total = time_call(lambda: whole_network([record]))
    picture = get_pixels(record, cfg)
    data, encode = time_call(lambda: image_codec.encode(picture))
    described = {"shape": picture.shape, "bits": 8, "lossless": False}
    _, decode = time_call(lambda: image_codec.decode(data, **described))
    found = {IMAGE: (0.0, encode, decode, total, len(data))}
    for place in places:
        edge = sum(seen[part][1] for part in place.parts)
        tensors = [
            tensor[0].float()
            for output in (seen[part][0] for part in place.outputs)
            for tensor in (output.values() if isinstance(output, dict) else [output])
        ]
        size = tuple(record["image"].shape[-2:])
        stream, encode = time_call(
            lambda tensors=tensors, size=size: compress_stream(
                tensors,
                feature_codec,
                split="features",
                fingerprint=bytes(4),
                sizes=ImageSizes(padded=size, resized=size, original=size),
                feature_elements=sum(tensor.numel() for tensor in tensors),
            )
        )
        data = stream.to_bytes()
        _, decode = time_call(lambda stream=stream: decompress_stream(stream, feature_codec))
        found[place.name] = edge, encode, decode, total - edge, len(data)
    if "instances" in output:
        data, encode = time_call(lambda: encode_answers(output, least_score))
        _, decode = time_call(lambda: decode_answers(data))
        size = len(make_answer_stream(data, record).to_bytes())
        found[ANSWERS] = total, encode, decode, 0.0, size
    (features,), edge = time_call(lambda: split.edge_features([record]))
    data, encode = time_call(lambda: split.encode(features).to_bytes())
    stream = FeatureBitstream.from_bytes(data, OWN_LIMITS)
    tensors, decode = time_call(lambda: split.decode(stream))
    _, cloud = time_call(lambda: split.compute_outputs(tensors, stream))
    found[split.split_name] = edge, encode, decode, cloud, len(data)
    return found


@contextmanager
def _timed_modules(backbone, names):
    """Yields a dict: name of a module -> (its output, seconds), filled by the next forward pass."""
    seen, hooks = {}, []
    modules = dict(backbone.named_modules())

    def before(name):
        def hook(module, inputs):
            wait_for_gpu()
            seen[name] = time.perf_counter()

        return hook

    def after(name):
        def hook(module, inputs, output):
            wait_for_gpu()
            seen[name] = output, time.perf_counter() - seen[name]

        return hook

    for name in names:
        hooks.append(modules[name].register_forward_pre_hook(before(name)))
        hooks.append(modules[name].register_forward_hook(after(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
