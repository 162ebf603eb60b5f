#!/usr/bin/env python
"""The cloud sub-model as a program: feature bitstreams to results, from files or as a server.

    tools/cloud.py --weights deployed/cloud.pth --input out/ --output results/
    tools/cloud.py --weights deployed/cloud.pth --output results/ --serve 0.0.0.0:8000

Needs cloud.pth alone (tools/export.py), which holds the configuration, too. For each bitstream NAME.d2fc
it writes NAME.json, what was found, with the maps of dense tasks as PNG files; results.json, all
instances in COCO's result format; and images.json, the images and categories that this names. Their ids
are those of the data set where --annotations gives it, or images.json lies beside the bitstreams. With
--images, the folder of the original images, it draws them, too. The server takes PUT
/v1/bitstreams/ID, and answers GET /healthz and GET /metrics; the network computes up to
MODEL.FEATCOMP.SERVER.MAX_BATCH bitstreams at once. It ends on SIGTERM, when all that it has accepted is
answered.
"""

import argparse
import os
import signal
import sys
from functools import partial

from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from d2_featcomp.codecs import BitstreamError, DecodeLimits, FeatureBitstream
from d2_featcomp.deploy import find_categories, load_sub_model, read_config
from d2_featcomp.engine import parse_arguments, report_errors
from d2_featcomp.serving import (
    ServiceSettings,
    draw_result,
    load_service,
    make_result,
    match_categories,
    name_bitstreams,
    open_annotations,
    require_free_names,
    run_server,
    write_coco_results,
    write_result,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", help="of the split network (default: the one in the weights' file)"
    )
    parser.add_argument("--weights", help="cloud.pth, or a whole checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--input", nargs="+", default=[], help=".d2fc files or folders of them")
    parser.add_argument("--output", default="results", help="folder (default: results)")
    parser.add_argument("--images", help="folder of the original images, to draw what was found")
    parser.add_argument(
        "--classes",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="names of the classes (default: those in the weights' file, or of the config's data sets)",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="of the data set, in COCO's format, for ids (default: images.json beside the bitstreams, "
        "or annotations.json in --images)",
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ...")
    return parse_arguments(parser)


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


def convert(network, args, categories):
    """Results of files; returns how many could not be decoded."""
    paths = list_bitstreams(args.input)
    names = name_bitstreams(paths)
    require_free_names(names)
    table, listed = open_annotations(args.annotations, args.input, args.images)
    categories = match_categories(categories, listed)
    os.makedirs(args.output, exist_ok=True)
    results, failed = [], 0
    for name, path in zip(names, tqdm(paths, desc="bitstreams", mininterval=1), strict=True):
        try:
            with open(path, "rb") as file:
                stream = FeatureBitstream.from_bytes(file.read())
            output = network.cloud_inference([stream])[0]
        except BitstreamError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        result = make_result(name, output, categories)
        write_result(result, args.output)
        results.append({key: value for key, value in result.items() if key != "maps"})
        if args.images:
            try:
                draw_result(output, name, args.images, args.output, categories)
            except FileNotFoundError as error:
                print(error, file=sys.stderr)
    count = write_coco_results(results, categories, table, args.output)
    print(f"{args.output}/results.json: {count} instances")
    if table.unknown:
        print(
            f"{len(table.unknown)} images are not in the annotations, e.g. {table.unknown[0]!r}: they "
            "have ids that these lack",
            file=sys.stderr,
        )
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
    if args.annotations and args.serve:
        raise ValueError("--annotations goes with --input: a server answers names, no ids of data sets")
    cfg = read_config(args.weights, args.config_file, args.opts)
    weights = cfg.MODEL.WEIGHTS
    if args.serve:
        serve(args, cfg, weights)
        return
    network = load_sub_model(cfg, weights, "cloud")
    if convert(network, args, find_categories(cfg, weights, network, args.classes)):
        sys.exit(3)


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
