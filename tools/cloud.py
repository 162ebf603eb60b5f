#!/usr/bin/env python
"""The cloud half as a program: feature bitstreams to results, from files or as a server.

    tools/cloud.py --config-file configs/msfc_R50.yaml --weights deployed/cloud.pth --input out/ \\
        --output results/
    tools/cloud.py --config-file configs/msfc_R50.yaml --weights deployed/cloud.pth --output results/ \\
        --serve 0.0.0.0:8000

Needs the weights of the cloud half alone (tools/export.py). For each bitstream NAME.d2fc it writes
NAME.json, what was found, with the maps of dense tasks as PNG files; and results.json, all instances in
COCO's result format. With --images, the folder of the original images, it draws them, too. The server
takes PUT /v1/bitstreams/ID, and answers GET /healthz and GET /metrics; the network computes up to
MODEL.FEATCOMP.SERVER.MAX_BATCH bitstreams at once. It ends on SIGTERM, when all that it has accepted is
answered.
"""

import argparse
import json
import os
import signal
import sys
from functools import partial

from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from d2_featcomp.codecs import BitstreamError, DecodeLimits, FeatureBitstream
from d2_featcomp.engine import load_half, report_errors, setup_config
from d2_featcomp.files import write_text
from d2_featcomp.serving import (
    ServiceSettings,
    class_names,
    draw_result,
    load_service,
    result_of,
    run_server,
    write_result,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the network that is cut")
    parser.add_argument("--weights", help="cloud.pth, or a whole checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--input", nargs="+", default=[], help=".d2fc files or folders of them")
    parser.add_argument("--output", default="results", help="folder (default: results)")
    parser.add_argument("--images", help="folder of the original images, to draw what was found")
    parser.add_argument(
        "--classes",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="names of the classes (default: of DATASETS.TEST)",
    )
    parser.add_argument("--serve", metavar="HOST:PORT", help="be a server; port 0 chooses a free one")
    defaults = ServiceSettings()
    parser.add_argument(
        "--queue", type=int, default=defaults.queue_size, help="bitstreams that wait (64)"
    )
    parser.add_argument("--max-bytes", type=int, default=defaults.max_bytes, help="of a request (2^24)")
    parser.add_argument(
        "--max-pixels", type=int, default=DecodeLimits.max_image_pixels, help="of an image (2^23)"
    )
    parser.add_argument(
        "--max-answer-bytes",
        type=int,
        default=defaults.max_answer_bytes,
        help="memory for what is found in the images of a batch (2^30)",
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        default=defaults.max_connections,
        help=f"at once ({defaults.max_connections})",
    )
    parser.add_argument(
        "--receive-timeout",
        type=float,
        default=defaults.receive_timeout,
        help="of a request, seconds (30)",
    )
    parser.add_argument(
        "--answer-timeout",
        type=float,
        default=defaults.answer_timeout,
        help="of an answer, seconds (60)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ..., at the end"
    )
    return parser.parse_args()


def list_bitstreams(given):
    """Paths of .d2fc files, sorted within folders."""
    found = []
    for entry in given:
        if os.path.isdir(entry):
            names = sorted(name for name in os.listdir(entry) if name.endswith(".d2fc"))
            if not names:
                raise FileNotFoundError(f"no .d2fc file in {entry!r}")
            found += [os.path.join(entry, name) for name in names]
        elif os.path.isfile(entry):
            found.append(entry)
        else:
            raise FileNotFoundError(f"no file or folder {entry!r}")
    return found


def convert(network, args, names):
    """Results of files; returns how many could not be decoded."""
    os.makedirs(args.output, exist_ok=True)
    instances, failed = [], 0
    paths = list_bitstreams(args.input)
    stems = [os.path.basename(path) for path in paths]
    twice = {name for name in stems if stems.count(name) > 1}
    if twice:
        raise ValueError(f"several files are called {sorted(twice)[0]}: give them in separate calls")
    for path in tqdm(paths, desc="bitstreams", mininterval=1):
        name = os.path.splitext(os.path.basename(path))[0]
        try:
            with open(path, "rb") as file:
                stream = FeatureBitstream.from_bytes(file.read())
            output = network.cloud_inference([stream])[0]
        except BitstreamError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        result = result_of(name, output, names)
        write_result(result, args.output)
        instances += result.get("instances", [])
        if args.images:
            try:
                draw_result(output, name, args.images, args.output, names)
            except FileNotFoundError as error:
                print(error, file=sys.stderr)
    write_text(json.dumps(instances), os.path.join(args.output, "results.json"))
    print(f"{args.output}/results.json: {len(instances)} instances")
    return failed


def serve(args, cfg, weights):
    host, _, port = args.serve.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--serve is {args.serve!r}: give HOST:PORT, e.g. 127.0.0.1:8000")
    load = partial(
        load_service,
        cfg,
        weights,
        args.output,
        args.classes,
        queue_size=args.queue,
        max_bytes=args.max_bytes,
        receive_timeout=args.receive_timeout,
        answer_timeout=args.answer_timeout,
        max_answer_bytes=args.max_answer_bytes,
        max_connections=args.max_connections,
        limits=DecodeLimits(
            max_image_pixels=args.max_pixels,
            max_original_pixels=max(args.max_pixels, DecodeLimits.max_original_pixels),
        ),
    )
    # uvicorn raises the signal again when all that was accepted is answered.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    run_server(load, host.strip("[]"), int(port))


def main(args):
    setup_logger(name="d2_featcomp")
    if bool(args.input) == bool(args.serve):
        raise ValueError("give either --input, files to decode, or --serve HOST:PORT")
    if args.images and not os.path.isdir(args.images):
        raise FileNotFoundError(f"no folder {args.images!r}")
    cfg = setup_config(args.config_file, args.opts)
    weights = args.weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("no weights: add --weights and a file of tools/export.py")
    if args.serve:
        serve(args, cfg, weights)
        return
    network = load_half(cfg, weights, "cloud")
    if convert(network, args, args.classes or class_names(cfg)):
        sys.exit(3)


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
