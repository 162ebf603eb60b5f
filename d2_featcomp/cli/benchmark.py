"""Measures speed, as ratios of medians within one run.

    featcomp benchmark                      all benchmarks but, on a CPU, throughput
    featcomp benchmark --device cuda        those that a GPU changes
    featcomp benchmark compressibility_loss --threads 1 --output benchmark.json

Each line shows what was measured, what it was compared with, how many times faster or smaller it is
(or, where a share is meant, its share), and the goal.
"""

import argparse
import json
import platform
from typing import Any

from ..benchmarks import BENCHMARKS, find_benchmark

TAKES_IMPORTS = False
FOR_GPUS = ("throughput",)  # on a CPU it tells little that the others do not, and takes long
FOR_CPUS = ("onnx", "quantizer", "lossless", "hevc", "sweep", "processes", "pipeline")  # done by CPUs


def image_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH, e.g. 800x1333")
    return int(height), int(width)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"some of {', '.join(BENCHMARKS)} (default: those for which the device matters)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repetitions of each measurement (default: 5)"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        default=(800, 1333),
        help="HEIGHTxWIDTH of images for MSFC (default: 800x1333)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes long"
    )
    parser.add_argument("--output", help="JSON file to write, updated after each benchmark")


def run(args: argparse.Namespace) -> None:
    import torch
    from tabulate import tabulate
    from tqdm import tqdm

    from ..benchmarks.common import Settings
    from ..files import prepare_file

    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        raise ValueError(f"unknown benchmarks {sorted(unknown)}: choose of {', '.join(BENCHMARKS)}")
    if args.threads < 1 or args.repeats < 1:
        raise ValueError("--threads and --repeats must be at least 1")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that PyTorch can use")
    if args.output:
        prepare_file(args.output)
    torch.set_num_threads(args.threads)
    settings = Settings(
        torch.device(args.device), args.repeats, args.size, args.threads, not args.no_compile
    )
    rows = []
    unusual = FOR_GPUS if args.device == "cpu" else FOR_CPUS
    usual = [name for name in BENCHMARKS if name not in unusual]
    for name in tqdm(args.names or usual, desc="benchmarks", mininterval=1):
        found = [{"benchmark": name, **row} for row in find_benchmark(name)(settings)]
        if not found:
            tqdm.write(f"{name}: not measured, a program or a package that it needs is not installed")
        rows += found
        if args.output:
            write_results(args, rows)
    head = ["what", "against", "it takes", "the other takes", "ratio", "goal"]
    print(tabulate(map(format_row, rows), head, tablefmt="pipe", disable_numparse=True))


def format_row(row: dict[str, Any]) -> list[str]:
    unit, scale = row.get("unit", "ms"), 1 if "unit" in row else 1000
    return [
        row["what"],
        row["against"],
        *(f"{scale * row[key]:.4g} {unit}" for key in ("value", "value_against")),
        f"{row['ratio']:.3g}",
        row["goal"] + ("" if row["reached"] else " MISSED"),
    ]


def write_results(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    import torch

    from ..files import write_text

    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": args.device,
        "threads": args.threads,
        "size": args.size,
    }
    write_text(json.dumps({**about, "results": rows}, indent=1), args.output)
