"""Compares the end-to-end latency of a split network with that of uploading the image.

    featcomp crossover --config msfc_R50 --input photos \\
        --anchor-weights output/step1/model_final.pth MODEL.WEIGHTS output/model_final.pth

It measures medians on this machine. For the split: edge sub-model, codec, cloud sub-model and bytes. For
the image: image codec, the whole network and bytes, the image being as the network gets it. The table
adds the transfer at several bandwidths; at the cross-over both take equally long.
"""

import argparse
import itertools

from .options import add_config_file, add_edge_factor, add_overrides

BANDWIDTHS = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)


def split_numbers(text: str) -> list[float]:
    """Splits "1,2.5"."""
    return [float(value) for value in text.split(",")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, patterns or videos")
    parser.add_argument(
        "--anchor-weights",
        help="checkpoint of the whole network, which gets the image (default: MODEL.WEIGHTS)",
    )
    parser.add_argument("--image-codec", default="jpeg420", help="codec of the image (default: jpeg420)")
    parser.add_argument("--image-quality", type=float, default=90, help="its QUALITY (default: 90)")
    parser.add_argument(
        "--bandwidths",
        type=split_numbers,
        default=BANDWIDTHS,
        metavar="A,B",
        help=f"bandwidths of the table, kbit/s (default: {','.join(map(str, BANDWIDTHS))})",
    )
    parser.add_argument(
        "--latency", type=float, default=0, help="latency of the network, ms, one way (default: 0)"
    )
    add_edge_factor(parser)
    parser.add_argument("--limit", type=int, default=50, help="images to measure (default: 50)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..deploy.crossover import make_image_config, measure_latencies
    from ..engine import build_for_inference, make_input, require_weights, setup_config, setup_terminal
    from ..serving import list_inputs, read_all_frames
    from ..serving.inputs import count_all_frames

    setup_terminal()
    if args.edge_factor <= 0 or args.latency < 0 or min(args.bandwidths) <= 0 or args.limit < 1:
        raise ValueError("--edge-factor, --bandwidths and --limit must be above 0, --latency not below")
    cfg = setup_config(args.config_file, args.opts)
    require_weights(cfg)
    image_cfg = make_image_config(args.config_file, args.opts, args.image_codec, args.image_quality)
    networks = {
        "split": build_for_inference(cfg, cfg.MODEL.WEIGHTS),
        "image": build_for_inference(image_cfg, args.anchor_weights or cfg.MODEL.WEIGHTS),
    }
    total = count_all_frames(list_inputs(args.input), limit=args.limit)
    frames = itertools.islice(read_all_frames(args.input), args.limit)
    records = (
        make_input(picture, cfg)
        for _, picture in tqdm(frames, desc="images", mininterval=1, total=total)
    )
    print_latencies(measure_latencies(networks, records), args)


def print_latencies(medians: dict[str, tuple[float, float, float]], args: argparse.Namespace) -> None:
    """Prints medians (seconds on the edge, bytes, seconds in the cloud) of "split" and "image", the
    latency of both at each bandwidth, and where they meet."""
    from tabulate import tabulate

    from ..deploy.crossover import find_crossover

    medians = {
        name: (args.edge_factor * edge, size, cloud) for name, (edge, size, cloud) in medians.items()
    }
    for name, (edge, size, cloud) in medians.items():
        print(f"{name}: edge {1000 * edge:.1f} ms, {size / 1000:.2f} kB, cloud {1000 * cloud:.1f} ms")
    rows, best = [], ""
    for bandwidth in args.bandwidths:
        totals = {
            name: 1000 * (edge + cloud) + 8 * size / bandwidth + args.latency
            for name, (edge, size, cloud) in medians.items()
        }
        best = min(totals, key=lambda name: totals[name])
        rows.append([f"{bandwidth:g}", *(f"{total:.1f}" for total in totals.values()), best])
    head = ["kbit/s", "split (ms)", "image (ms)", "faster"]
    print(tabulate(rows, head, tablefmt="pipe", colalign=("right",) * 4, disable_numparse=True))
    meeting = find_crossover(*((edge + cloud, size) for edge, size, cloud in medians.values()))
    if meeting is None:
        print(f"{best} is faster at every bandwidth")
    else:
        print(f"cross-over: {meeting:.0f} kbit/s")
