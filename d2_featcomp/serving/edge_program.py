"""What `featcomp edge` does: images to feature bitstreams, in files or to a server."""

import contextlib
import dataclasses
import errno
import itertools
import os
import sys
import time

from tqdm import tqdm

from ..codecs import BitstreamError, DecodeLimits, RateController
from ..deploy import OnnxEdge
from ..files import write_bytes
from .access import read_tokens
from .client import CloudClient
from .coco_results import collect_answers, open_image_table, read_answers, write_image_table
from .edge_report import Rates, count_images, make_table
from .inputs import (
    CAMERA,
    Sampling,
    count_all_frames,
    describe_left_out,
    end_where_cut,
    is_video,
    list_inputs,
    name_inputs,
    read_timed_frames,
    require_limit,
)
from .interruptions import orderly_end
from .link import Link
from .pipeline import run_ahead
from .sender import Sender
from .spool import Spool
from .transport import ClientTls

__all__ = ["run_edge"]


@dataclasses.dataclass
class CodedImage:
    """A bitstream: its name, bytes, the image's original (height, width), the seconds in its video, what
    it took in seconds, and how many bytes were aimed at (None: any)."""

    name: str
    data: bytes
    size: tuple
    time: float | None
    network_seconds: float
    codec_seconds: float
    target: float | None


def run_edge(args):
    """Codes images, and sends what is in the spool.

    Args:
        args (Namespace): the options of `featcomp edge`.

    Returns:
        int: exit status: 3 if an image could not be coded or something is left to be sent.

    Raises:
        ValueError, OSError: a mistake in the options, or a file that is missing.
    """
    _require_consistent(args)
    with orderly_end():
        return _run(args)


def _run(args):
    simulated = args.bandwidth is not None or args.latency or args.loss
    link = Link(args.bandwidth, args.latency, args.loss, args.seed) if simulated else None
    if args.draw:  # before its frames are sent
        from .videos import require_drawable

        require_drawable(args.draw, args.input[0])
    sender = _open_sender(args)
    failures, rates, rows, categories = [], Rates(), [], []
    table, listed = open_image_table(args.input, args.output)
    images = ()
    if args.input:
        edge = open_edge(args.weights, args.config_file, args.opts)
        categories = edge.categories
        images = code_images(args, edge, failures, ahead=0 if link else args.in_flight)
    try:
        for image in images:
            transfer = link.seconds(len(image.data)) if link else 0.0
            cloud_seconds = None
            if sender:
                identity = sender.spool.add(image.name, image.data)
                if link:
                    time.sleep(transfer)
                cloud_seconds = sender.send_new(identity)
            else:
                path = os.path.join(args.output, f"{image.name}.d2fc")
                kept = False
                with told(image.name, failures), _short_enough():
                    write_stream(image.data, path, args.overwrite)
                    kept = True
                if not kept:
                    continue
            rates.add(len(image.data), image.target)
            if args.output:
                table.find(image.name, *image.size, time=image.time)
            if link:
                seconds = image.network_seconds, image.codec_seconds, transfer, cloud_seconds
                rows.append((image.name, len(image.data), *seconds))
        if sender and args.input:
            sender.finish()
    finally:  # a camera ends by an interruption
        if args.output and sender:
            collect_answers(args.output, table, listed or categories)
        elif args.output and (listed or table.tells_times()):  # of a data set, of a video
            write_image_table(table, listed or categories, args.output)
    if args.draw:
        _draw_answers(args, table, categories)
    rates.tell(args)
    if failures:
        print(f"{count_images(len(failures))} could not be coded")
    if rows:
        print(make_table(rows))
    return 3 if (sender and not _close(sender)) or failures else 0


def open_edge(weights="", config_file="", overrides=()):
    """Opens an edge sub-model.

    Args:
        weights (str): edge.onnx, which needs no PyTorch; or else see :class:`TorchEdge`.
        config_file (str), overrides (sequence[str]): see :class:`TorchEdge` and :class:`OnnxEdge`.

    Returns:
        OnnxEdge or TorchEdge

    Raises:
        ValueError, OSError, ImportError: see there.
    """
    path = weights or dict(zip(overrides[::2], overrides[1::2], strict=False)).get("MODEL.WEIGHTS", "")
    if path.endswith(".onnx"):
        if config_file:
            raise ValueError(f"{path!r} holds its configuration: leave out --config-file")
        return _require_rates(OnnxEdge(path, overrides), overrides)
    if not path and not config_file:
        raise ValueError("no weights: add --weights and edge.onnx or edge.pth, of featcomp export")
    if path and "://" not in path and not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}")
    from ..deploy.torch_edge import TorchEdge
    from ..engine import setup_terminal

    setup_terminal()
    return _require_rates(TorchEdge(weights, config_file, overrides), overrides)


def _require_rates(edge, overrides):
    """The edge; raises ValueError if a rate is chosen, and its codec has but one."""
    key, codec = "MODEL.FEATCOMP.CODEC.RATE", edge.feature_codec
    if key in overrides[::2] and codec.rate is None:
        raise ValueError(f"{key} has no effect: codec {codec.name!r} has one rate; leave it out")
    return edge


def _time_call(function, *args):
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def _require_consistent(args):
    if not args.output and not args.connect and (args.input or not args.requeue):
        raise ValueError("nowhere to put bitstreams: add --output FOLDER or --connect HOST:PORT")
    if not args.input and not args.connect and not args.requeue:
        raise ValueError("nothing to do: add --input, or --connect to send what is in --spool")
    require_limit(args.limit)
    if args.target_kbit_s is not None and args.fps is None:
        raise ValueError("--target-kbit-s needs --fps, the images a second that share it")
    if args.target_kbit_s is not None and args.target_kb is not None:
        raise ValueError("give either --target-kbit-s or --target-kb")
    if args.draw and not (args.connect and args.output):
        raise ValueError("--draw shows what a server answers: add --connect and --output")
    if args.draw and not (len(args.input) == 1 and is_video(args.input[0])):
        raise ValueError("--draw takes one video as --input")


def _open_sender(args):
    """Sender or None; puts back what the server refused, and sends what is in the spool."""
    sender = None
    if args.connect:
        client = _open_client(args)  # before the spool's folder is made
        sender = Sender(Spool(args.spool), client, args.output, tell=_tell)
    if args.output:
        os.makedirs(args.output, exist_ok=True)
    if args.requeue:
        print(f"{len(Spool(args.spool).requeue())} put back into {args.spool}")
    if sender:
        sender.send_waiting(patient=not args.input)  # with images, these come first
    return sender


def _open_client(args):
    files = args.ca_file, args.client_cert, args.client_key
    tls = ClientTls(*files) if any(files) else None
    token = next(iter(read_tokens(args.token_file))) if args.token_file else None
    client = CloudClient(
        args.connect, timeout=args.timeout, attempts=args.attempts, token=token, tls=tls
    )
    if token and not client.is_private():
        print(
            "the token and the features are sent without encryption, and can be read on the way: "
            "give --connect https://...",
            file=sys.stderr,
        )
    return client


def _close(sender):
    """Tells what was sent; whether that was all, and the server refused nothing."""
    left = len(sender.spool.waiting())
    print(f"{sender.sent} sent, {sender.refused} refused, {left} waiting in {sender.spool.folder}")
    sender.client.close()
    return not left and not sender.refused


def _tell(message):
    tqdm.write(message, file=sys.stderr)  # above the bar


@contextlib.contextmanager
def told(name, failures):
    """Tells what is wrong with one image, and goes on with the next."""
    try:
        yield
    except (ValueError, RuntimeError) as error:  # of readers; of networks and codecs
        failures.append(name)
        message = str(error)
        _tell(message if repr(name) in message else f"{name}: {message}")


@contextlib.contextmanager
def _short_enough():
    """Turns the error of a file name that is too long, which is of one image, into ValueError."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = os.path.basename(error.filename)
        raise ValueError(f"{name!r} is too long a name for a file: rename the image") from error


def edge_features(args, edge, failures):
    """Yields (name, seconds in its video, features, seconds of the edge network) of each image that can
    be computed."""
    entries = list_inputs(args.input)
    count, seen, sampling = 0, set(), Sampling(args.stride, args.fps)
    total = count_all_frames(entries, sampling, args.limit)
    for line in describe_left_out(args.input):
        _tell(line)
    with tqdm(desc="images", mininterval=1, total=total, unit=" images") as progress:
        for entry, entry_name in zip(entries, name_inputs(entries), strict=True):
            with told(entry, failures):
                for name, picture, time_in_video in read_timed_frames(entry, entry_name, sampling):
                    if args.limit is not None and count >= args.limit:
                        return
                    count += 1
                    progress.update()
                    with told(name, failures):
                        if name.lower() in seen:
                            raise ValueError(f"a frame has this name, too: it is left out ({entry})")
                        if not entry.startswith(CAMERA):  # which may give frames for ever
                            seen.add(name.lower())
                        features, seconds = _time_call(edge.compute, picture)
                        yield name, time_in_video, features, seconds


def code_images(args, edge, failures, ahead):
    """Yields a CodedImage of each image that can be coded.

    Args:
        args (Namespace): input, stride, fps, limit and target_kbit_s of `featcomp edge`.
        edge (OnnxEdge or TorchEdge): computes and codes.
        failures (list[str]): gets the names of the others.
        ahead (int): images that the network may be ahead of the codec. 0 where times are measured:
            nothing runs beside.
    """
    controller, codec = make_controller(args, edge.feature_codec), edge.feature_codec
    features_of_images = edge_features(args, edge, failures)
    warned = False
    for name, time_in_video, features, network_seconds in run_ahead(features_of_images, ahead):
        coded = None
        with told(name, failures):
            if controller:
                codec.target_bytes = controller.next_target()
            stream, codec_seconds = _time_call(edge.encode, features)
            data = stream.to_bytes()
            if controller:
                controller.add(len(data))
            size, target = features.sizes.original, getattr(codec, "target_bytes", None)
            seconds = network_seconds, codec_seconds
            coded = CodedImage(name, data, size, time_in_video, *seconds, target)
        if coded:
            warned = warned or _warn_of_limits(name, features.sizes)
            yield coded


def _warn_of_limits(name, sizes):
    """Tells when a cloud would refuse an image; whether that was so."""
    try:
        DecodeLimits().check_sizes(sizes)
    except BitstreamError as error:
        _tell(f"{name}: a cloud refuses this unless its limits allow it ({error})")
        return True
    return False


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


def _draw_answers(args, table, categories):
    """Writes the video of --input with what the server found in those frames that it has answered."""
    from .outputs import list_categories
    from .videos import draw_video

    answers = dict(read_answers(args.output, tell=lambda message: None))  # it is told
    frames = read_timed_frames(args.input[0], None, Sampling(args.stride, args.fps))
    there = end_where_cut(itertools.islice(frames, args.limit), tell=lambda message: None)  # so is this
    taken = ((frame, answers.get(frame.name)) for frame in there)
    count = draw_video(taken, args.draw, categories or list_categories(answers.values()))
    print(f"{args.draw}: {count} frames, {len(answers.keys() & table.entries.keys())} of them answered")


def write_stream(data, path, overwrite):
    """Writes a bitstream, unless another one is there."""
    if os.path.exists(path) and not overwrite:
        with open(path, "rb") as file:
            if file.read() == data:
                return
        raise FileExistsError(
            f"{path!r} is there already, of another image, other weights or another precision: choose "
            "another --output, or add --overwrite"
        )
    write_bytes(data, path)
