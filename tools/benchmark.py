#!/usr/bin/env python
"""Measures speed, as ratios of medians within one run: machines differ, and are noisy.

    tools/benchmark.py                      all there is
    tools/benchmark.py compressibility_loss --threads 1 --output benchmark.json

A line tells what was measured, what it was compared with, how often the former goes into the latter (or,
where a share is meant, which part of the whole it is), and the goal.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import tempfile
import time

import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from tabulate import tabulate
from tqdm import tqdm

from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.engine import (
    evaluate,
    measure_settings,
    report_errors,
    save_weights,
    setup_config,
)
from d2_featcomp.files import write_text
from d2_featcomp.ops import compressibility_loss


def median_times(variants, repeats, device):
    """Runs functions in turns, so that all of them meet the same disturbances.

    Args:
        variants (dict[str, callable]): what to run.
        repeats (dict[str, int]): how often, at least once; each runs once more before.
        device (torch.device): waited for after each call.

    Returns:
        dict[str, float]: median seconds of a call.
    """

    def timed(run):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for run in variants.values():
        timed(run)
    times = {name: [] for name in variants}
    for turn in range(max(repeats.values())):
        for name, run in variants.items():
            if turn < repeats[name]:
                times[name].append(timed(run))
    return {name: statistics.median(values) for name, values in times.items()}


def _one_channel(channel, down, right, dct_down, dct_right):
    residual = (down.T @ channel + channel @ right) / 2
    return (dct_down @ residual @ dct_right.T).abs().sum()


def _matrices(size, device):
    difference = torch.eye(size, device=device)
    difference.diagonal(1).fill_(-1)
    positions = torch.arange(size, device=device)
    dct = torch.cos((2 * positions + 1) * positions[:, None] * (torch.pi / (2 * size)))
    dct *= (2 / size) ** 0.5
    dct[0] /= 2**0.5
    return difference, dct


def loss_by_image_and_channel(x):
    """The compressibility loss as it is printed, for one channel of one image after another."""
    total = 0.0
    for image in x:
        for channel in image:
            (down, dct_down), (right, dct_right) = (_matrices(n, x.device) for n in channel.shape)
            total = total + _one_channel(channel, down, right, dct_down, dct_right)
    return total / x.numel()


def loss_by_channel(x):
    """A loop over the channels, the images at once, the matrices made once."""
    (down, dct_down), (right, dct_right) = (_matrices(n, x.device) for n in x.shape[-2:])
    matrices = down, right, dct_down, dct_right
    return sum(_one_channel(x[:, i], *matrices) for i in range(x.shape[1])) / x.numel()


def forward_and_backward(function, x):
    def run():
        x.grad = None
        function(x).backward()

    return run


def benchmark_compressibility_loss(device, repeats):
    """The loss, forward and backward, at (20, 256, 16, 32), against loops; and its share of a step."""
    x = torch.randn(20, 256, 16, 32, device=device, requires_grad=True)
    variants = {
        "batched": forward_and_backward(compressibility_loss, x),
        "loop over channels": forward_and_backward(loss_by_channel, x),
        "loop over images and channels": forward_and_backward(loss_by_image_and_channel, x),
    }
    values = [function(x.detach()) for function in (compressibility_loss, loss_by_channel)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    few = max(1, repeats // 3)
    seconds = median_times(
        variants,
        {"batched": repeats * 2, "loop over channels": repeats, "loop over images and channels": few},
        device,
    )
    for other, goal in (("loop over images and channels", 100), ("loop over channels", 6)):
        yield {
            "what": "compressibility loss, (20, 256, 16, 32), forward and backward",
            "against": other,
            "seconds": seconds["batched"],
            "seconds_against": seconds[other],
            "ratio": seconds[other] / seconds["batched"],
            "goal": f">= {goal}",
            "reached": seconds[other] / seconds["batched"] >= goal,
        }
    step = _training_step(device)
    whole = median_times({"step": step}, {"step": few}, device)["step"]
    yield {
        "what": "compressibility loss, share of a training step",
        "against": "configs/mtl_R34_encoder2.yaml, 20 images of 512 x 256",
        "seconds": seconds["batched"],
        "seconds_against": whole,
        "ratio": seconds["batched"] / whole,
        "goal": "",
        "reached": True,
    }


def _training_step(device):
    torch.manual_seed(0)
    cfg = setup_config("configs/mtl_R34_encoder2.yaml", ["MODEL.DEVICE", str(device)])
    model = build_model(cfg).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = [
        {
            "image": torch.randint(0, 256, (3, 256, 512), dtype=torch.uint8),
            "sem_seg": torch.randint(0, 19, (256, 512)),
            "disparity": torch.rand(256, 512) * 50,
        }
        for _ in range(20)
    ]

    def run():
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    return run


def benchmark_sweep(device, repeats):
    """Several lossless codecs at one bit depth, measured together, against one evaluation."""
    codecs = ("png", "jpegxl", "jpegls", "raw")
    with tempfile.TemporaryDirectory() as folder:
        register_scenes("benchmark", folder, procedural_recipe({"train": 1, "val": 24}))
        DatasetCatalog.get("benchmark_val")
        torch.manual_seed(0)
        weights = os.path.join(folder, "random.pth")
        configs = {
            codec: setup_config(
                "configs/quick/msfc_R18.yaml",
                [
                    *("MODEL.DEVICE", str(device), "DATASETS.TEST", ("benchmark_val",)),
                    *("MODEL.WEIGHTS", weights, "TEST.DETECTIONS_PER_IMAGE", 20),
                    *("MODEL.FEATCOMP.CODEC.NAME", codec, "MODEL.FEATCOMP.CODEC.BITS", 4),
                    *("DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", os.path.join(folder, codec)),
                ],
            )
            for codec in codecs
        }
        save_weights(build_model(configs["png"]).state_dict(), weights)
        calls = itertools.count()

        def sweep():
            measure_settings(configs, os.path.join(folder, f"records{next(calls)}"))

        variants = {"sweep": sweep, "one": lambda: evaluate(configs["png"])}
        few = max(1, repeats // 3)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            seconds = median_times(variants, {"sweep": few, "one": few}, device)
    ratio = seconds["sweep"] / seconds["one"]
    yield {
        "what": f"sweep over {len(codecs)} lossless codecs at one bit depth, 24 images",
        "against": "evaluation of one of them (share of its time)",
        "seconds": seconds["sweep"],
        "seconds_against": seconds["one"],
        "ratio": ratio,
        "goal": "<= 1.3",
        "reached": ratio <= 1.3,
    }


BENCHMARKS = {"compressibility_loss": benchmark_compressibility_loss, "sweep": benchmark_sweep}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--repeats", type=int, default=9, help="of each measurement (default: 9)")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def main(args):
    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        raise ValueError(f"unknown benchmarks {sorted(unknown)}: choose of {', '.join(BENCHMARKS)}")
    if args.threads < 1 or args.repeats < 1:
        raise ValueError("--threads and --repeats must be at least 1")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that PyTorch can use")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rows = []
    for name in tqdm(args.names or BENCHMARKS, desc="benchmarks", mininterval=1):
        rows += [{"benchmark": name, **row} for row in BENCHMARKS[name](device, args.repeats)]
    shown = [
        [
            row["what"],
            row["against"],
            f"{1000 * row['seconds']:.1f}",
            f"{1000 * row['seconds_against']:.1f}",
            f"{row['ratio']:.3g}",
            row["goal"] + ("" if row["reached"] else " MISSED"),
        ]
        for row in rows
    ]
    head = ["what", "against", "ms", "ms of the other", "ratio", "goal"]
    print(tabulate(shown, head, tablefmt="pipe", disable_numparse=True))
    if args.output:
        about = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": args.device,
            "threads": args.threads,
        }
        write_text(json.dumps({**about, "results": rows}, indent=1), args.output)


if __name__ == "__main__":
    with report_errors():
        main(parse_args())
