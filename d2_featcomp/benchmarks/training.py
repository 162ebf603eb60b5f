"""Training iterations of MSFC against those of the same Mask R-CNN, not split."""

import multiprocessing
import os

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from .common import median_times, share
from .networks import MSFC, random_network, random_record

RATE = ("MODEL.FEATCOMP.CODEC.NAME", "learned", "MODEL.FEATCOMP.TRAIN.RATE_WEIGHT", 1e-6)


def train_once(device, enabled, size, images=1, autocast=False, opts=()):
    """A function that trains once: MSFC end to end, with more config overrides, or the same detector,
    not split."""
    opts = ["MODEL.FEATCOMP.ENABLED", enabled, "INPUT.MASK_FORMAT", "bitmask", *opts]
    model = random_network(MSFC, device, *opts).train()
    torch.manual_seed(0)  # the same images and objects for both: they drew unlike numbers of weights
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)
    height, width = size
    instances = Instances(size)
    corners = torch.rand(8, 2) * torch.tensor([width / 2, height / 2])
    instances.gt_boxes = Boxes(torch.cat([corners, corners + torch.tensor(size[::-1]) / 3], dim=1))
    instances.gt_classes = torch.arange(8) % model.roi_heads.num_classes
    instances.gt_masks = BitMasks(torch.rand(8, *size) > 0.5)
    batch = [{**random_record(size), "instances": instances} for _ in range(images)]
    _propose_the_same(model.proposal_generator, instances)

    def run():
        optimizer.zero_grad()
        with EventStorage(), torch.autocast(torch.device(device).type, torch.bfloat16, autocast):
            loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()

    return run


def _propose_the_same(proposal_generator, instances):
    """Proposals are found and then replaced by given ones: how many there are, and so what the heads
    compute, would depend on random features."""
    find = proposal_generator.predict_proposals
    height, width = instances.image_size
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, generator=generator) * torch.tensor([width, height])
    sides = 16 + 200 * torch.rand(1000, 2, generator=generator)
    background = torch.cat([corners - sides / 2, corners + sides / 2], dim=1)
    near = instances.gt_boxes.tensor.repeat(2, 1)
    near = near + 8 * torch.randn(near.shape, generator=generator)

    def predict_proposals(anchors, logits, deltas, image_sizes):
        found = find(anchors, logits, deltas, image_sizes)
        boxes = Boxes(torch.cat([near, background]).to(logits[0].device))
        boxes.clip(instances.image_size)
        given = Instances(instances.image_size, proposal_boxes=boxes)
        given.objectness_logits = torch.zeros(len(boxes), device=logits[0].device)
        return [given for _ in found]

    proposal_generator.predict_proposals = predict_proposals


def _measure_peak(answers, enabled, size, threads):
    """In a process of its own: bytes that model, optimizer and training iteration take at most."""
    torch.set_num_threads(threads)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts here
    before = _of_process("VmRSS")
    run = train_once("cpu", enabled, size)
    for _ in range(2):
        run()
    answers.put(_of_process("VmHWM") - before)


def _of_process(key):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{key}:"))


def _peak_memory(settings, enabled, size):
    if settings.device.type == "cuda":
        run = train_once(settings.device, enabled, size)
        torch.cuda.reset_peak_memory_stats(settings.device)
        for _ in range(2):
            run()
        return torch.cuda.max_memory_allocated(settings.device)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (answers, enabled, size, settings.threads)
    process = context.Process(target=_measure_peak, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the process that measures memory has failed")
    return answers.get()


def benchmark_training(settings):
    """A training iteration of MSFC, end to end, against one of the same Mask R-CNN alone; time and
    memory."""
    size = tuple(side // 2 for side in settings.size) if settings.device.type == "cpu" else settings.size
    trained = {name: train_once(settings.device, name == "msfc", size) for name in ("msfc", "plain")}
    trained["rate"] = train_once(settings.device, True, size, opts=RATE)
    # The first iterations wait for the memory that the system hands out.
    seconds = median_times(trained, settings.few, settings.device, warm_up=3)
    what, against = f"training iteration, MSFC stage 3, an image of {size[0]}x{size[1]}", "Mask R-CNN's"
    yield share(what, against, seconds["msfc"], seconds["plain"], 1.1)
    yield share(f"{what}, codec learned, with rate", "without", seconds["rate"], seconds["msfc"], 1.1)
    del trained
    if settings.device.type == "cpu" and not os.path.exists("/proc/self/clear_refs"):
        return  # what only Linux tells
    memory = [_peak_memory(settings, enabled, size) / 2**20 for enabled in (True, False)]
    yield {**share(f"{what}, peak memory", against, *memory, 1.1), "unit": "MiB"}
