"""Edge half, cloud half and training step of MSFC on Mask R-CNN; edge half of BaF on YOLO-v3."""

import copy
import multiprocessing
import os
import shutil
import time

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_featcomp.engine import setup_config
from d2_featcomp.modeling.fusion import with_modules
from d2_featcomp.modeling.split_network import _BackboneStandIn
from d2_featcomp.modeling.splits import FeatureSplit

from .common import median_times, share, times_faster

MSFC = "configs/msfc_R50.yaml"
BAF = "configs/baf_yolov3.yaml"
BAF_SIZE = (512, 512)


def random_network(config, device, *opts):
    """A network with random weights, in evaluation mode, whose features are of a usual size."""
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", *opts]
    network = build_model(setup_config(config, opts)).eval()
    hooks = [
        module.register_forward_pre_hook(_set_statistics)
        for module in network.backbone.modules()
        if isinstance(module, (FrozenBatchNorm2d, torch.nn.BatchNorm2d))
    ]
    with torch.no_grad():
        network.backbone(torch.randn(1, 3, 256, 256, device=device))
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


def computes_bfloat16(device):
    """Whether bfloat16 is faster than float32 here: measured on one convolution."""
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
    """The edge half of MSFC in its default, fused and bfloat16 forms, against plain Detectron2."""
    network = random_network(MSFC, settings.device)
    fused = copy.deepcopy(network)
    fused.fuse_for_inference()
    low = copy.deepcopy(network)
    low.fuse_for_inference(torch.bfloat16)
    record = random_record(settings.size)

    def plain():
        images = network.normalized_images([record])
        return FeatureSplit.edge(network.feature_split, network.backbone, images.tensor)[0][0][0]

    variants = {
        "plain": plain,
        "default": lambda: network.edge_features([record]),
        "fused": lambda: fused.edge_features([record]),
    }
    if computes_bfloat16(settings.device):
        variants["bfloat16"] = lambda: low.edge_features([record])
    if shutil.which("g++"):
        compiled = copy.deepcopy(network)
        compiled.fuse_for_inference(compile_edge=True)
        start = time.perf_counter()
        compiled.edge_features([record])
        compile_seconds = time.perf_counter() - start
        variants["compiled"] = lambda: compiled.edge_features([record])
    differs = network.edge_features([record])[0].tensors[0] - plain()
    differs = differs.abs().max().item()
    if differs > 1e-4:
        raise RuntimeError(f"the sampled pyramid is another one: features differ by {differs:g}")
    height, width = settings.size
    what = f"edge half, R50-FPN + MSFF + SSFC, {height}x{width}"
    against = "the same modules, plain"
    cores = torch.get_num_threads()
    for threads in sorted({1, max(2, cores)}) if settings.device.type == "cpu" else [cores]:
        torch.set_num_threads(threads)
        seconds = median_times(variants, settings.few, settings.device)
        suffix = f", {threads} threads" if threads > 1 else ", 1 thread"
        if settings.device.type == "cuda":
            suffix = ""
        row = times_faster(
            f"{what}, default: levels where MSFF samples them (they differ by {differs:g}){suffix}",
            f"{against}: full FPN",
            seconds["default"],
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


@torch.inference_mode()
def benchmark_cloud(settings):
    """The cloud half of MSFC against the same detector on features that are there already."""
    network = random_network(MSFC, settings.device)
    record = random_record(settings.size)
    (stream,) = network.edge_inference([record])
    tensors = network.decode(stream)
    # The same features for both: what the detector takes depends on what it finds.
    features = network.feature_split.cloud(
        network.backbone, [z[None] for z in tensors], stream.sizes.padded, None
    )
    given = _BackboneStandIn(network.backbone, lambda images: features)
    detector = with_modules(network, backbone=given)
    base = type(network).__mro__[2]
    inputs = [{"image": record["image"], "height": settings.size[0], "width": settings.size[1]}]
    fused = copy.deepcopy(network)
    fused.fuse_for_inference()
    seconds = median_times(
        {
            "plain": lambda: base.forward(detector, inputs),
            "cloud": lambda: network.outputs_of(tensors, stream),
            "fused": lambda: fused.outputs_of(tensors, stream),
        },
        settings.repeats,
        settings.device,
    )
    against = "Mask R-CNN without its backbone"
    yield share(
        "cloud half: SSFC decoder + MSFR + detector", against, seconds["cloud"], seconds["plain"], 1.1
    )
    yield share("the same, fused", against, seconds["fused"], seconds["plain"], 1.1)


@torch.inference_mode()
def benchmark_baf_edge(settings):
    """The edge half of BaF, selected channels only, against all channels of the same layers."""
    network = random_network(BAF, settings.device)
    fused = copy.deepcopy(network)
    fused.fuse_for_inference()
    record = random_record(BAF_SIZE)

    def plain():
        images = network.normalized_images([record]).tensor
        split = network.feature_split
        return split.layer(network.backbone.input_of(split.layer.number, images))

    seconds = median_times(
        {
            "plain": plain,
            "selected": lambda: network.edge_features([record]),
            "fused": lambda: fused.edge_features([record]),
        },
        settings.repeats,
        settings.device,
    )
    what = f"BaF edge half, YOLO-v3 to layer 12, {BAF_SIZE[0]}x{BAF_SIZE[1]}"
    against = "the same layers, plain, all channels"
    yield times_faster(f"{what}, default", against, seconds["selected"], seconds["plain"])
    yield times_faster(f"{what}, fused", against, seconds["fused"], seconds["plain"], 1.5)


def _training_step(device, enabled, size):
    """A function that trains once: MSFC end to end, or the same detector uncut."""
    model = random_network(
        MSFC, device, "MODEL.FEATCOMP.ENABLED", enabled, "INPUT.MASK_FORMAT", "bitmask"
    ).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)
    height, width = size
    instances = Instances(size)
    corners = torch.rand(8, 2) * torch.tensor([width / 2, height / 2])
    instances.gt_boxes = Boxes(torch.cat([corners, corners + torch.tensor(size[::-1]) / 3], dim=1))
    instances.gt_classes = torch.arange(8) % model.roi_heads.num_classes
    instances.gt_masks = BitMasks(torch.rand(8, *size) > 0.5)
    batch = [{**random_record(size), "instances": instances} for _ in range(2)]

    def run():
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        optimizer.step()

    return run


def _peak_of_step(answers, enabled, size, threads):
    """In a process of its own: bytes that model, optimizer and training step take at most."""
    torch.set_num_threads(threads)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts here
    before = _of_process("VmRSS")
    run = _training_step("cpu", enabled, size)
    for _ in range(2):
        run()
    answers.put(_of_process("VmHWM") - before)


def _of_process(key):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{key}:"))


def _peak_memory(settings, enabled, size):
    if settings.device.type == "cuda":
        run = _training_step(settings.device, enabled, size)
        torch.cuda.reset_peak_memory_stats(settings.device)
        for _ in range(2):
            run()
        return torch.cuda.max_memory_allocated(settings.device)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (answers, enabled, size, settings.threads)
    process = context.Process(target=_peak_of_step, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the process that measures memory has failed")
    return answers.get()


def benchmark_training(settings):
    """A training step of MSFC, end to end, against one of the same Mask R-CNN uncut; time and memory."""
    size = tuple(side // 2 for side in settings.size) if settings.device.type == "cpu" else settings.size
    steps = {name: _training_step(settings.device, name == "msfc", size) for name in ("msfc", "plain")}
    seconds = median_times(steps, settings.few, settings.device)
    what, against = f"training step, MSFC step 3, 2 images of {size[0]}x{size[1]}", "Mask R-CNN's step"
    yield share(what, against, seconds["msfc"], seconds["plain"], 1.1)
    del steps
    if settings.device.type == "cpu" and not os.path.exists("/proc/self/clear_refs"):
        return  # what only Linux tells
    memory = [_peak_memory(settings, enabled, size) / 2**20 for enabled in (True, False)]
    yield {**share(f"{what}, peak memory", against, *memory, 1.1), "unit": "MiB"}
