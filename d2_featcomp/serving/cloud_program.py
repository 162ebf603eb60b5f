"""What `featcomp cloud` and `featcomp serve` do: feature bitstreams to results."""

import os
import sys

from tqdm import tqdm

from ..codecs import BitstreamError, FeatureBitstream
from ..codecs.bitstream import DEFAULT_LIMITS
from ..deploy import find_categories, load_sub_model, read_config
from ..deploy.naming import list_possible_names
from .coco_results import (
    match_categories,
    name_bitstreams,
    open_annotations,
    require_free_names,
    write_coco_results,
)
from .inputs import end_where_cut, is_video, read_timed_frames
from .interruptions import orderly_end
from .results import draw_result, make_result, read_result, write_result
from .serve_program import list_server_options, read_limits, serve
from .videos import draw_video, require_drawable

__all__ = ["run_cloud"]


def run_cloud(args):
    """Decodes files, or runs a server.

    Args:
        args (Namespace): the options of `featcomp cloud`.

    Returns:
        int: exit status: 3 if some files could not be decoded, or not be drawn.

    Raises:
        ValueError, OSError: a mistake in the options, or a file that is missing.
    """
    if bool(args.input) == bool(args.serve):
        raise ValueError("give either --input, files to decode, or --serve HOST:PORT")
    if args.images and not (os.path.isdir(args.images) or is_video(args.images)):
        raise FileNotFoundError(f"no folder {args.images!r}")
    if bool(args.draw) != bool(args.images and is_video(args.images)):
        raise ValueError("--draw takes the original video: give --images VIDEO and --draw VIDEO")
    if args.annotations and args.serve:
        raise ValueError("--annotations goes with --input: a server answers names, no ids of data sets")
    if args.images and args.serve:
        raise ValueError("--images goes with --input: a server draws nothing")
    if args.input and (of_server := list_server_options(args)):
        raise ValueError(f"{', '.join(of_server)} goes with --serve: files need no server")
    if not 0 <= (args.score_threshold or 0) <= 1:
        raise ValueError(f"--score-threshold is {args.score_threshold}: it goes from 0 to 1")
    limits = read_limits(args)
    if args.draw:
        require_drawable(args.draw, args.images)
    cfg = read_config(args.weights, args.config_file, args.opts)
    weights = cfg.MODEL.WEIGHTS
    if args.serve:
        serve(cfg, weights, args)
        return 0
    with orderly_end():
        network = load_sub_model(cfg, weights, "cloud")
        categories = find_categories(cfg, weights, network, args.classes)
        return 3 if decode_files(network, args, categories, limits) else 0


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


def decode_files(network, args, categories, limits=DEFAULT_LIMITS):
    """Decodes the files of --input and writes what is found in them.

    Args:
        network (SplitNetwork): its cloud sub-model.
        args (Namespace): input, output, images, annotations and score_threshold of `featcomp cloud`.
        categories (list[dict]): of its classes.
        limits (DecodeLimits): of a bitstream.

    Returns:
        int: how many files could not be decoded, or not be drawn onto their images.
    """
    paths = list_bitstreams(args.input)
    names = name_bitstreams(paths)
    require_free_names(names)
    frame_name = _find_frame_name(args.images, names) if args.draw else None
    table, listed = open_annotations(args.annotations, args.input, None if args.draw else args.images)
    categories = match_categories(categories, listed)
    os.makedirs(args.output, exist_ok=True)
    results, failed = [], 0
    try:
        for name, path in zip(names, tqdm(paths, desc="bitstreams", mininterval=1), strict=True):
            try:
                output = _compute(network, _read_bitstream(path, limits))
            except BitstreamError as error:
                tqdm.write(f"{path}: {error}", file=sys.stderr)  # above the bar
                failed += 1
                continue
            result = make_result(name, output, categories, args.score_threshold or 0.0)
            table.find(name, result["height"], result["width"])
            if "time" in table.entries[name]:
                result["time"] = table.entries[name]["time"]
            write_result(result, args.output)
            results.append({key: value for key, value in result.items() if key != "maps"})
            if args.images and not args.draw:
                failed += not _draw(output, name, args, categories)
    finally:  # also of what was decoded before an interruption
        count = write_coco_results(results, categories, table, args.output)
        print(f"{args.output}/results.json: {count} instances")
    if args.draw:
        draw_frames(args, frame_name, {result["image_id"] for result in results}, categories)
    if table.unknown:
        print(
            f"{len(table.unknown)} images are not in the annotations, e.g. {table.unknown[0]!r}: they "
            "have ids that these lack",
            file=sys.stderr,
        )
    return failed


def _compute(network, stream):
    """The output of a bitstream; BitstreamError, too, if the network cannot compute it: its sizes may be
    such as no edge gives, though its symbols are as many as belong to them."""
    try:
        return network.cloud_inference([stream])[0]
    except RuntimeError as error:  # PyTorch's
        raise BitstreamError(f"the network cannot compute it ({error})") from error


def _read_bitstream(path, limits):
    """FeatureBitstream of a file; BitstreamError, too, if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BitstreamError(f"it cannot be read ({(error.strerror or str(error)).lower()})") from error
    return FeatureBitstream.from_bytes(data, limits)


def _drawn_score(args):
    return 0.5 if args.score_threshold is None else args.score_threshold


def _draw(output, name, args, categories):
    """Draws what was found onto the original image, if that is there; whether it could be read."""
    try:
        draw_result(output, name, args.images, args.output, categories, _drawn_score(args))
    except (FileNotFoundError, ValueError) as error:
        tqdm.write(str(error), file=sys.stderr)
        return isinstance(error, FileNotFoundError)
    return True


def _find_frame_name(video, names):
    """Finds how the edge has named a video. ValueError if none of the names of bitstreams is of a frame
    of it."""
    possible = list_possible_names(video)
    found = {name.rpartition("_")[0] for name in names}
    for name in possible:
        if name in found:
            return name
    raise ValueError(
        f"--images {video!r}: none of the {len(names)} bitstreams, e.g. {names[0]!r}, is of a frame of "
        f"it, which are named {possible[0]}_000000 and so on: give the video that they are of"
    )


def draw_frames(args, name, names, categories):
    """Writes the video of --images, whose frames are named `name`, with what was found in those of its
    frames that have these names; `categories` are those of the network."""
    read = end_where_cut(read_timed_frames(args.images, name))
    frames = (frame for frame in read if frame.name in names)
    found = ((frame, read_result(os.path.join(args.output, f"{frame.name}.json"))) for frame in frames)
    count = draw_video(found, args.draw, categories, _drawn_score(args))
    print(f"{args.draw}: {count} frames")
