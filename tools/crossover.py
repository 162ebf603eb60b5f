#!/usr/bin/env python
"""When does it pay to split? End-to-end latency of a split network against uploading the image.

    tools/crossover.py --config-file configs/msfc_R50.yaml --input photos \\
        --anchor-weights output/step1/model_final.pth MODEL.WEIGHTS output/model_final.pth

Measures on this machine the medians of both ways: edge network, its codec, cloud sub-model and bytes of
the split; image codec, the whole network after it and bytes of the image, as the network gets it. The
table adds the transfer at several bandwidths; at the cross-over both take equally long. --edge-factor
tells how many times slower the edge device is than this machine.
"""

import argparse
import statistics

from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import (
    build_for_inference,
    make_input,
    parse_arguments,
    report_errors,
    require_weights,
    setup_config,
    time_call,
)
from d2_featcomp.serving import read_all_frames

BANDWIDTHS = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the split network")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, patterns or videos")
    parser.add_argument(
        "--anchor-weights", help="the whole network, which gets the image (default: MODEL.WEIGHTS)"
    )
    parser.add_argument("--image-codec", default="jpeg420", help="for the image (default: jpeg420)")
    parser.add_argument("--image-quality", type=float, default=90, help="its QUALITY (default: 90)")
    parser.add_argument(
        "--bandwidths",
        type=lambda text: [float(value) for value in text.split(",")],
        default=BANDWIDTHS,
        metavar="A,B",
        help=f"kbit/s (default: {','.join(map(str, BANDWIDTHS))})",
    )
    parser.add_argument("--latency", type=float, default=0, help="ms, one way (default: 0)")
    parser.add_argument("--edge-factor", type=float, default=1, help="the edge is so much slower (1)")
    parser.add_argument("--limit", type=int, default=50, help="images to measure (default: 50)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ...")
    return parse_arguments(parser)


def measure(network, record):
    """(seconds on the edge, bytes, seconds in the cloud) of one image."""
    (features,), edge = time_call(network.edge_features, [record])
    data, coding = time_call(lambda: network.encode(features).to_bytes())
    _, cloud = time_call(lambda: network.cloud_inference([FeatureBitstream.from_bytes(data)]))
    return edge + coding, len(data), cloud


def crossover(split, image):
    """Bandwidth in kbit/s at which both take equally long; None if one is faster at every bandwidth.

    Args:
        split, image ((float, float)): seconds of computing, and bytes.
    """
    seconds, size = split[0] - image[0], image[1] - split[1]
    return 8 * size / seconds / 1000 if seconds * size > 0 else None


def main(args):
    setup_logger(name="d2_featcomp")
    if args.edge_factor <= 0 or args.latency < 0 or min(args.bandwidths) <= 0 or args.limit < 1:
        raise ValueError("--edge-factor, --bandwidths and --limit must be above 0, --latency not below")
    cfg = setup_config(args.config_file, args.opts)
    require_weights(cfg)
    image_cfg = setup_config(
        args.config_file,
        [
            *args.opts,
            *("MODEL.FEATCOMP.SPLIT", "ImageSplit", "MODEL.FEATCOMP.CODEC.NAME", args.image_codec),
            *("MODEL.FEATCOMP.CODEC.QUALITY", args.image_quality, "MODEL.FEATCOMP.CODEC.BITS", 8),
            *("MODEL.FEATCOMP.CODEC.EFFORT", None, "MODEL.FEATCOMP.CODEC.QUANTIZER", ""),
            *("MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT", 0.0),
        ],
    )
    networks = {
        "split": build_for_inference(cfg, cfg.MODEL.WEIGHTS),
        "image": build_for_inference(image_cfg, args.anchor_weights or cfg.MODEL.WEIGHTS),
    }
    found = {name: [] for name in networks}
    frames = read_all_frames(args.input)
    warm = set()  # sizes: some are compiled for
    for _, (_, picture) in zip(
        tqdm(range(args.limit), desc="images", mininterval=1), frames, strict=False
    ):
        record = make_input(picture, cfg)
        for name, network in networks.items():
            if record["image"].shape not in warm:
                measure(network, record)
            found[name].append(measure(network, record))
        warm.add(record["image"].shape)
    if not warm:
        raise ValueError("--input holds no image")
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    for name, (edge, size, cloud) in medians.items():
        edge *= args.edge_factor
        medians[name] = edge, size, cloud
        print(f"{name}: edge {1000 * edge:.1f} ms, {size / 1000:.2f} kB, cloud {1000 * cloud:.1f} ms")
    head = ["kbit/s", "split (ms)", "image (ms)", "faster"]
    rows = []
    for bandwidth in args.bandwidths:
        totals = {
            name: 1000 * (edge + cloud) + 8 * size / bandwidth + args.latency
            for name, (edge, size, cloud) in medians.items()
        }
        best = min(totals, key=totals.get)
        rows.append([f"{bandwidth:g}", *(f"{totals[name]:.1f}" for name in networks), best])
    print(tabulate(rows, head, tablefmt="pipe", colalign=("right",) * 4, disable_numparse=True))
    meeting = crossover(*((edge + cloud, size) for edge, size, cloud in medians.values()))
    if meeting is None:
        print(f"{best} is faster at every bandwidth")
    else:
        print(f"cross-over: {meeting:.0f} kbit/s")


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
