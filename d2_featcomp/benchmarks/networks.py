"""Edge and cloud sub-models of MSFC on Mask R-CNN; edge sub-model of BaF on YOLO-v3."""

import copy
import functools
import shutil
import time

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model

from ..engine import setup_config
from ..modeling.acceleration import find_quick_encoder
from ..modeling.processor import computes_bfloat16
from ..modeling.split_backbone import DecodedLatents, unsplit_backbone
from .common import median_times, share, times_faster

MSFC = "msfc_R50"
BAF = "baf_yolov3"
BAF_SIZE = (512, 512)


def random_network(config, device, *opts):
    """A network with random weights, in evaluation mode, whose features are of a usual size."""
    return copy.deepcopy(_build_random_network(config, device, opts))


@functools.lru_cache(maxsize=1)  # benchmarks that follow each other take the same one
def _build_random_network(config, device, opts):
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", *opts]
    network = build_model(setup_config(config, opts)).eval()
    hooks = [
        module.register_forward_pre_hook(_set_statistics)
        for module in unsplit_backbone(network).modules()
        if isinstance(module, (FrozenBatchNorm2d, torch.nn.BatchNorm2d))
    ]
    with torch.no_grad():
        unsplit_backbone(network)(torch.randn(1, 3, 256, 256, device=device))
    for hook in hooks:
        hook.remove()
    if hasattr(network, "proposal_generator"):
        # Proposals are the anchors: as many, and as different, whatever the features are.
        deltas = network.proposal_generator.rpn_head.anchor_deltas
        deltas.weight.data.zero_()
    split = getattr(network, "feature_split", None)
    if hasattr(split, "set_channel_order"):
        split.set_channel_order(torch.randperm(split.layer.out_channels))
    return network


def _set_statistics(norm, inputs):
    (x,) = inputs
    norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(x.var(dim=(0, 2, 3)))


def random_record(size):
    return {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)}


def gains_by_bfloat16(device):
    """Whether bfloat16 is there, and faster than float32: measured on one convolution."""
    if not computes_bfloat16(device):
        return False
    convolutions, images = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(device, dtype)
        convolutions[dtype] = layer.to(memory_format=torch.channels_last)
        image = torch.randn(1, 128, 64, 64).to(device, dtype)
        images[dtype] = image.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds = median_times(
            {dtype: lambda d=dtype: convolutions[d](images[d]) for dtype in convolutions}, 9, device
        )
    return seconds[torch.bfloat16] < 0.75 * seconds[torch.float32]


@torch.inference_mode()
def benchmark_edge(settings):
    """The edge sub-model of MSFC, accelerated, against plain Detectron2."""
    network = random_network(MSFC, settings.device)
    quick = find_quick_encoder(network.backbone)
    fused = copy.deepcopy(network)
    fused.accelerate()
    record = random_record(settings.size)

    def plain():
        return network.edge_features([record])[0].tensors[0]

    def sampled():
        return quick(network.normalized_images([record]).tensor)[0][0]

    variants = {
        "plain": plain,
        "sampled": sampled,
        "fused": lambda: fused.edge_features([record]),
    }
    if gains_by_bfloat16(settings.device):
        low = copy.deepcopy(network)
        low.accelerate("bfloat16")
        variants["bfloat16"] = lambda: low.edge_features([record])
    if settings.compiles and shutil.which("g++"):
        compiled = copy.deepcopy(network)
        compiled.accelerate("compiled")
        start = time.perf_counter()
        compiled.edge_features([record])
        compile_seconds = time.perf_counter() - start
        variants["compiled"] = lambda: compiled.edge_features([record])
    # GPUs round what convolutions multiply, unless told otherwise: that would be all the difference.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        differs = sampled() - plain()
    differs = differs.abs().max().item()
    if differs > 1e-4:
        raise RuntimeError(f"the sampled pyramid is another one: features differ by {differs:g}")
    height, width = settings.size
    what = f"edge sub-model, R50-FPN + MSFF + SSFC, {height}x{width}"
    against = "the same modules, plain"
    cores = torch.get_num_threads()
    for threads in sorted({1, max(2, cores)}) if settings.device.type == "cpu" else [cores]:
        torch.set_num_threads(threads)
        seconds = median_times(variants, settings.few, settings.device)
        suffix = f", {threads} threads" if threads > 1 else ", 1 thread"
        if settings.device.type == "cuda":
            suffix = ""
        row = times_faster(
            f"{what}, levels where MSFF samples them alone (they differ by {differs:g}){suffix}",
            f"{against}: full FPN",
            seconds["sampled"],
            seconds["plain"],
            1.3,
        )
        yield {**row, "largest_difference": differs}
        yield times_faster(
            f"{what}, fused{suffix}",
            against,
            seconds["fused"],
            seconds["plain"],
            2.5 if threads > 1 else 2,
        )
        if "compiled" in seconds:
            yield times_faster(
                f"{what}, compiled in {compile_seconds:.0f} s{suffix}",
                against,
                seconds["compiled"],
                seconds["plain"],
            )
        if "bfloat16" in seconds:
            yield times_faster(
                f"{what}, bfloat16{suffix}", against, seconds["bfloat16"], seconds["plain"], 5
            )
    torch.set_num_threads(cores)


def build_plain(network, decoded, padded, backbone):
    """Builds the detector as it was before it was split, but on the features that its cloud sub-model
    would see: how long it takes depends on what it finds.

    Args:
        network (SplitNetwork): of MSFC.
        decoded (list[list[Tensor]]): of each image the latents y_hat.
        padded ((int, int)): size of the images.
        backbone (bool): whether the backbone is computed, too.

    Returns:
        callable: list[dict] of images -> list[dict] of detections.
    """
    y_hats = [torch.stack(each) for each in zip(*decoded, strict=True)]
    whole = network.backbone.backbone
    features = network.backbone.decode_features(DecodedLatents(y_hats, [], padded))

    class Given(torch.nn.Module):
        """Returns the features, after it has computed the backbone if that is asked for."""

        size_divisibility, padding_constraints = whole.size_divisibility, whole.padding_constraints

        def forward(self, images):
            if backbone:
                whole(images)
            return features

    detector = copy.copy(network.network)
    detector._modules = {**network.network._modules, "backbone": Given()}
    return detector


@torch.inference_mode()
def benchmark_cloud(settings):
    """The cloud sub-model of MSFC against the same detector on features that are there already."""
    network = random_network(MSFC, settings.device)
    record = random_record(settings.size)
    (stream,) = network.edge_inference([record])
    tensors = network.decode(stream)
    detect = build_plain(network, [tensors], stream.sizes.padded, backbone=False)
    inputs = [{"image": record["image"], "height": settings.size[0], "width": settings.size[1]}]
    fused = copy.deepcopy(network)
    fused.accelerate()
    seconds = median_times(
        {
            "plain": lambda: detect(inputs),
            "cloud": lambda: network.compute_outputs(tensors, stream),
            "fused": lambda: fused.compute_outputs(tensors, stream),
        },
        settings.repeats,
        settings.device,
    )
    against = "Mask R-CNN without its backbone"
    yield share(
        "cloud sub-model: SSFC decoder + MSFR + detector",
        against,
        seconds["cloud"],
        seconds["plain"],
        1.1,
    )
    yield share("the same, fused", against, seconds["fused"], seconds["plain"], 1.1)


@torch.inference_mode()
def benchmark_baf_edge(settings):
    """The edge sub-model of BaF, selected channels only, against all channels of the same layers."""
    network = random_network(BAF, settings.device)
    fused = copy.deepcopy(network)
    fused.accelerate()
    record = random_record(BAF_SIZE)

    def plain():
        images = network.normalized_images([record]).tensor
        return network.split_point.head(images)

    seconds = median_times(
        {
            "plain": plain,
            "fused": lambda: fused.edge_features([record]),
        },
        settings.repeats,
        settings.device,
    )
    what = f"BaF edge sub-model, YOLO-v3 to layer 12, {BAF_SIZE[0]}x{BAF_SIZE[1]}"
    against = "the same layers, plain, all channels"
    yield times_faster(f"{what}, fused", against, seconds["fused"], seconds["plain"], 1.5)
