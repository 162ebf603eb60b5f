#!/usr/bin/env python
"""The edge sub-model as a program: images to feature bitstreams, in files or to a server.

    tools/edge.py --weights deployed/edge.pth --input photos/ --output out/
    tools/edge.py --weights deployed/edge.pth --input video.mp4 --connect cloud.example:8000 \\
        --spool spool/

Needs edge.pth alone (tools/export.py), which holds the configuration, too. With --output it writes
NAME.d2fc for each image; NAME is the file's, with its suffix or folders where two would have one name.
If the input is a folder with annotations.json, images.json there tells the images' ids. With --connect
it sends them to tools/cloud.py --serve; what cannot be sent stays in --spool, and is sent first the next
time: without --input, that is all it does. --bandwidth, --latency and --loss simulate a slower network;
a table then tells where the time goes. Images that cannot be coded are told, all others are coded, and
the exit status is 3.
"""

import argparse
import contextlib
import os
import statistics
import sys
import time

from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from tqdm import tqdm

from d2_featcomp.codecs import RateController
from d2_featcomp.codecs.rate_control import TOLERANCE
from d2_featcomp.deploy import load_sub_model, read_config, read_description
from d2_featcomp.engine import make_input, parse_arguments, report_errors, time_call
from d2_featcomp.files import write_bytes
from d2_featcomp.serving import (
    CloudClient,
    Link,
    Sender,
    Spool,
    collect_answers,
    list_inputs,
    name_inputs,
    open_image_table,
    read_frames,
    run_ahead,
    write_image_table,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", help="of the split network (default: the one in the weights' file)"
    )
    parser.add_argument("--weights", help="edge.pth, or a whole checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument(
        "--input", nargs="+", default=[], help="images, folders, patterns, videos, or camera:0"
    )
    parser.add_argument(
        "--output", help="folder for NAME.d2fc; with --connect for results, NAME-ID.json"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace NAME.d2fc of other images or weights"
    )
    parser.add_argument(
        "--connect", metavar="HOST:PORT", help="server to send to; IPv6 as [::1]:8000, or a URL"
    )
    parser.add_argument(
        "--spool", default="spool", help="folder for what is not sent yet (default: spool)"
    )
    parser.add_argument(
        "--requeue",
        action="store_true",
        help="first put back into the spool what the server refused before (SPOOL/rejected)",
    )
    parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for the server (30)")
    parser.add_argument("--attempts", type=int, default=5, help="to send one bitstream, at a time (5)")
    parser.add_argument(
        "--target-kbit-s",
        type=float,
        help="hold this bit rate, in kbit/s, by the rate of each image; needs codec variable_rate",
    )
    parser.add_argument("--fps", type=float, help="with --target-kbit-s: images a second of the input")
    parser.add_argument("--limit", type=int, help="stop after this many images")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=2,
        help="images that the network may be ahead of coding and sending (2; 0: one after the other)",
    )
    parser.add_argument("--bandwidth", type=float, help="simulate: kbit/s to the cloud (default: any)")
    parser.add_argument("--latency", type=float, default=0, help="simulate: ms each way (0)")
    parser.add_argument("--loss", type=float, default=0, help="simulate: share of packets lost (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the packets that are lost (0)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ...")
    return parse_arguments(parser)


@contextlib.contextmanager
def told(name, failures):
    """Tells what is wrong with one image, and goes on with the next."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # of readers; of networks and codecs
        failures.append(name)
        print(f"{name}: {error}", file=sys.stderr)


def edge_features(args, cfg, network, failures):
    """Yields (name, features, seconds of the edge network) of each image that can be computed."""
    entries = list_inputs(args.input)
    count, seen = 0, set()
    with tqdm(desc="images", mininterval=1, total=len(entries)) as progress:
        for entry, entry_name in zip(entries, name_inputs(entries), strict=True):
            with told(entry, failures):
                for name, picture in read_frames(entry, entry_name):
                    if args.limit is not None and count >= args.limit:
                        return
                    count += 1
                    with told(name, failures):
                        if name.lower() in seen:
                            raise ValueError(f"a frame has this name, too: it is left out ({entry})")
                        seen.add(name.lower())
                        record = make_input(picture, cfg)
                        (features,), seconds = time_call(network.edge_features, [record])
                        yield name, features, seconds
            progress.update()


def make_controller(args, codec):
    """RateController, or None."""
    if args.target_kbit_s is None:
        return None
    if codec.rate is None:
        raise ValueError(
            f"--target-kbit-s chooses a rate for each image, but codec {codec.name!r} has one rate: "
            "use a network that was trained with MODEL.FEATCOMP.CODEC.NAME variable_rate"
        )
    return RateController(args.target_kbit_s, args.fps)


def write_stream(data, path, overwrite):
    """Writes a bitstream, unless another one is there."""
    if os.path.exists(path) and not overwrite:
        with open(path, "rb") as file:
            if file.read() == data:
                return
        raise FileExistsError(
            f"{path!r} is there already, of another image or other weights: choose another --output, or "
            "add --overwrite"
        )
    write_bytes(data, path)


def main(args):
    setup_logger(name="d2_featcomp")
    if not args.output and not args.connect and (args.input or not args.requeue):
        raise ValueError("nowhere to put bitstreams: add --output FOLDER or --connect HOST:PORT")
    if not args.input and not args.connect and not args.requeue:
        raise ValueError("nothing to do: add --input, or --connect to send what is in --spool")
    simulated = args.bandwidth is not None or args.latency or args.loss
    link = Link(args.bandwidth, args.latency, args.loss, args.seed) if simulated else None
    sender = None
    if args.connect:
        client = CloudClient(args.connect, timeout=args.timeout, attempts=args.attempts)
        sender = Sender(Spool(args.spool), client, args.output)
    if (args.target_kbit_s is None) != (args.fps is None):
        raise ValueError("--target-kbit-s and --fps belong together: give both, or neither")
    if args.output:
        os.makedirs(args.output, exist_ok=True)
    if args.requeue:
        print(f"{len(Spool(args.spool).requeue())} put back into {args.spool}")
    if sender:
        sender.send_waiting()
    rows, failures, size, count, off_target = [], [], 0, 0, 0
    controller = None
    images, categories = (), []
    table, listed = open_image_table(args.input, args.output)
    if args.input:
        cfg = read_config(args.weights, args.config_file, args.opts)
        network = load_sub_model(cfg, cfg.MODEL.WEIGHTS, "edge")
        categories = read_description(cfg.MODEL.WEIGHTS).get("categories", [])
        # Where times are measured, nothing runs beside.
        ahead = 0 if link else args.in_flight
        controller = make_controller(args, network.feature_codec)
        images = run_ahead(edge_features(args, cfg, network, failures), ahead)
    for name, features, network_seconds in images:
        data = None
        with told(name, failures):
            if controller:
                network.feature_codec.target_bytes = controller.next_target()
            stream, codec_seconds = time_call(network.encode, features)
            data = stream.to_bytes()
        if data is None:
            continue
        table.find(name, *features.sizes.original)
        count += 1
        size += len(data)
        if controller:
            controller.add(len(data))
            off_target += abs(len(data) / network.feature_codec.target_bytes - 1) > TOLERANCE
        transfer = link.seconds(len(data)) if link else 0.0
        cloud_seconds = None
        if sender:
            identity = sender.spool.add(name, data)
            if link:
                time.sleep(transfer)
            cloud_seconds = sender.send_new(identity)
        else:
            write_stream(data, os.path.join(args.output, f"{name}.d2fc"), args.overwrite)
        rows.append((name, len(data), network_seconds, codec_seconds, transfer, cloud_seconds))
    if sender and sender.away_since is not None and args.input:
        sender.send_waiting()
    if args.output and sender:
        collect_answers(args.output, table, listed or categories)
    elif listed:  # a data set's
        write_image_table(table, listed, args.output)
    if count:
        print(f"{count} images, {size / count / 1000:.2f} kB an image")
        if controller:
            print(
                f"{size / count * args.fps * 8 / 1000:.1f} kbit/s at {args.fps:g} images a second, of "
                f"{args.target_kbit_s:g}; {off_target} images could not be brought within 3 % of "
                "their share"
            )
    if rows and link:
        print(_table(rows))
    if sender:
        left = len(sender.spool.waiting())
        print(f"{sender.sent} sent, {sender.refused} refused, {left} waiting in {sender.spool.folder}")
        sender.client.close()
        failures += [None] * (left or sender.refused)
    if failures:
        sys.exit(3)


def _table(rows):
    """Milliseconds of each image, and their medians."""
    head = ["image", "bytes", "edge network", "codec", "transfer", "cloud", "end to end (ms)"]
    lines = []
    for name, size, *seconds in rows:
        total = sum(part or 0.0 for part in seconds)
        lines.append([name, size, *(None if s is None else 1000 * s for s in (*seconds, total))])
    medians = [
        statistics.median([line[column] for line in lines if line[column] is not None] or [float("nan")])
        for column in range(1, len(head))
    ]
    cells = [
        [
            line[0],
            f"{line[1]:.0f}",
            *("-" if value is None or value != value else f"{value:.1f}" for value in line[2:]),
        ]
        for line in [*lines, ["median", *medians]]
    ]
    align = ("left", *("right" for _ in head[1:]))
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)


if __name__ == "__main__":
    arguments = parse_args()
    with report_errors():
        main(arguments)
