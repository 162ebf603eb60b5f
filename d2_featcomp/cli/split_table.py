"""Measures where to split a network: operations, time and bytes of each candidate.

    featcomp split-table --config msfc_R50 --input photos --edge-factor 4 \\
        --anchor-weights output/step1/model_final.pth MODEL.WEIGHTS output/model_final.pth

Candidates are: the image itself (JPEG); each stage of the backbone, its pyramid, or each layer at which
a Darknet can be split, with all channels quantized to --bits and coded by JPEG XL; the answers, sent by
an edge that computes the whole network; and the split of the configuration.

kMAC are thousands of multiply-accumulates for each pixel of the network's input, counted by fvcore. "of
these added" are those that the edge computes in addition to the layers of the network: to reduce
features, and in networks of the codec. Those of the configured split are what an exported edge computes:
the pyramid only where MSFC samples it, of BaF's layer only the channels that are sent; its times are
those of INFERENCE plain, which computes all. "split point" is the value of MODEL.FEATCOMP.SPLIT_POINT,
if there is one. The last column shows at which bandwidths a candidate has the shortest end-to-end
latency, not counting the answers.
"""

import argparse
import itertools
import json

from ..files import prepare_file, write_text
from .options import add_config_file, add_edge_factor, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, patterns or videos")
    parser.add_argument(
        "--anchor-weights",
        help="checkpoint of the network before it was split, for all candidates but the configured one "
        "(default: MODEL.WEIGHTS)",
    )
    parser.add_argument(
        "--bits", type=int, default=8, help="bit depth of features that are not reduced (default: 8)"
    )
    parser.add_argument(
        "--image-quality", type=int, default=90, help="quality of the JPEG image (default: 90)"
    )
    add_edge_factor(parser)
    parser.add_argument("--limit", type=int, default=20, help="images to measure (default: 20)")
    parser.add_argument("--output", help="JSON file to write")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from tabulate import tabulate
    from tqdm import tqdm

    from ..deploy import find_fastest_ranges, measure_splits
    from ..engine import make_input, require_weights, setup_config, setup_terminal
    from ..serving import read_all_frames

    setup_terminal()
    if args.edge_factor <= 0 or args.limit < 1:
        raise ValueError("--edge-factor must be above 0, and --limit at least 1")
    if args.output:
        prepare_file(args.output)
    cfg = setup_config(args.config_file, args.opts)
    require_weights(cfg)
    frames = itertools.islice(read_all_frames(args.input), args.limit)
    records = [make_input(picture, cfg) for _, picture in frames]
    costs = measure_splits(
        cfg,
        records,
        anchor_weights=args.anchor_weights,
        bits=args.bits,
        image_quality=args.image_quality,
        progress=lambda items: tqdm(items, desc="images", mininterval=1),
    )
    ranges = find_fastest_ranges(costs, args.edge_factor)
    head = [
        "split",
        "split point",
        "sends",
        "edge kMAC/px",
        "of these added",
        "cloud kMAC/px",
        "edge ms",
        "coding ms",
        "cloud ms",
    ]
    head += ["kB", "fastest at kbit/s"]
    rows = [
        [
            cost.name,
            cost.split_point or "(none there)",
            cost.sends,
            f"{cost.edge_macs / 1000:.1f}",
            f"{cost.added_macs / 1000:.2f}",
            f"{cost.cloud_macs / 1000:.1f}",
            f"{1000 * args.edge_factor * cost.edge_seconds:.1f}",
            f"{1000 * (args.edge_factor * cost.encode_seconds + cost.decode_seconds):.1f}",
            f"{1000 * cost.cloud_seconds:.1f}",
            f"{cost.size / 1000:.2f}",
            as_range(ranges.get(cost.name)),
        ]
        for cost in costs
    ]
    align = ("left", "left", "left", *("right" for _ in head[3:]))
    print(tabulate(rows, head, tablefmt="pipe", colalign=align, disable_numparse=True))
    if args.output:
        found = []
        for cost in costs:
            low, high = ranges.get(cost.name, (None, None))
            bounds = None if low is None else [low, high if high < float("inf") else None]
            found.append({**vars(cost), "fastest_kbit_s": bounds})
        text = json.dumps({"edge_factor": args.edge_factor, "splits": found}, indent=1)
        write_text(text, args.output)


def as_range(given: tuple[float, float] | None) -> str:
    """Formats a range of bandwidths."""
    if given is None:
        return "never"
    low, high = given
    if low == 0:
        return "always" if high == float("inf") else f"to {high:.4g}"
    return f"from {low:.4g}" if high == float("inf") else f"{low:.4g} to {high:.4g}"
