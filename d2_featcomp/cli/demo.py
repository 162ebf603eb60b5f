"""Runs a network with compressed features on images or a video and draws the latents and the outputs.

    featcomp demo --config msfc_R50 --input photos/ --output pictures MODEL.WEIGHTS model.pth
    featcomp demo --config msfc_R50 --input video.mp4 --fps 5 --draw drawn.mp4 MODEL.WEIGHTS model.pth

For every input image it writes, below --output:

    NAME_detections.png   the detections; with --reference, beside those of that network without a split,
                          in the image, and in the image coded to about as many bytes
    NAME_tasks.png        for networks with several tasks: all of their outputs
    NAME_features.png     the latents, one tile per channel
    NAME.d2fc             the feature bitstream itself

For a video, or camera:0, --draw writes a video with the detections in its frames.
"""

import argparse
import os

from .options import add_config_file, add_overrides, add_sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_file(parser)
    parser.add_argument(
        "--input", nargs="+", required=True, help="images, folders of images, or one video or camera:0"
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder for the pictures")
    parser.add_argument("--draw", metavar="VIDEO", help="for a video: file to write, e.g. drawn.mp4")
    add_sampling(parser)
    parser.add_argument(
        "--reference",
        metavar="WEIGHTS",
        help="for images: checkpoint of the network before it was split, to compare with",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        help="smallest score that is drawn, 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--limit", type=int, help="stop after this many images (default: all)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    from ..deploy import draw_images
    from ..engine import build_for_inference, require_weights, setup_config, setup_terminal
    from ..serving import list_inputs
    from ..serving.inputs import require_limit

    setup_terminal()
    require_limit(args.limit)
    entries = list_inputs(args.input)
    moving = is_moving(entries)
    if moving and (not args.draw or args.output or args.reference):
        raise ValueError("of a video give --draw VIDEO, e.g. drawn.mp4, and no --output or --reference")
    if not moving and (not args.output or args.draw):
        raise ValueError("of images give --output FOLDER; --draw is of a video")
    if args.output and os.path.isfile(args.output):
        raise ValueError(f"--output {args.output!r} is a file: give a folder, there or not")
    if moving:
        from ..serving.videos import require_drawable

        require_drawable(args.draw, entries[0])
    cfg = setup_config(args.config_file, args.opts)
    require_weights(cfg)
    model = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
    if moving:
        draw_video(args, cfg, model, entries[0])
        return
    reference = build_for_inference(cfg, args.reference, enabled=False) if args.reference else None
    images = [{"file_name": path} for path in entries[: args.limit]]
    draw_images(
        cfg, model, images, args.output, reference=reference, threshold=args.confidence_threshold
    )
    print(f"{args.output}: pictures and bitstreams of {len(images)} images")


def is_moving(entries: list[str]) -> bool:
    """Whether the input is a video or camera; ValueError if it is one of several inputs."""
    from ..serving.inputs import CAMERA, is_video

    moving = [entry for entry in entries if is_video(entry) or entry.startswith(CAMERA)]
    if moving and len(entries) > 1:
        raise ValueError(f"{moving[0]!r}: give one video or camera alone, or images")
    return bool(moving)


def draw_video(args: argparse.Namespace, cfg: object, model: object, entry: str) -> None:
    """Writes the video with what is found in its frames, and tells their bytes."""
    import itertools
    import statistics

    from tqdm import tqdm

    from ..deploy import FrameDrawer
    from ..serving.inputs import Sampling, count_all_frames, end_where_cut, read_timed_frames
    from ..serving.videos import VideoWriter

    sampling = Sampling(args.stride, args.fps)
    there = end_where_cut(read_timed_frames(entry, None, sampling), tqdm.write)
    frames = itertools.islice(there, args.limit)
    total = count_all_frames([entry], sampling, args.limit)
    drawer = FrameDrawer(cfg, model, args.confidence_threshold)
    with VideoWriter(args.draw) as writer:
        for frame in tqdm(frames, desc="frames", mininterval=1, total=total, unit=" frames"):
            writer.write(drawer.draw(frame.picture), frame.time)
    if not drawer.sizes:
        raise ValueError(f"{entry!r} has no frames")
    mean = statistics.fmean(drawer.sizes)
    print(f"{args.draw}: {len(drawer.sizes)} frames, {mean / 1000:.2f} kB of features a frame")
