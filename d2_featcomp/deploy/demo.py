"""Runs a network with compressed features on image files and draws the results."""

import contextlib
import glob
import os

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..data.images import read_image
from ..engine.inference import get_pixels, make_input
from ..files import write_bytes
from ..preprocessing import prepare_pixels
from .classes import choose_categories, count_classes
from .equal_bytes import code_to_size
from .naming import name_files
from .pictures import (
    arrange,
    collect_metadata,
    draw_features,
    draw_outputs,
    draw_tasks,
    draw_truth,
)

__all__ = ["FrameDrawer", "describe_stream_bytes", "draw_images", "remove_drawn"]

_FEATURES = "_features.png"


def draw_images(cfg, model, records, folder, *, reference=None, threshold=0.5, take_panels=None):
    """Writes, for each image, what is found in it, its latents, and the bitstream itself.

    Args:
        cfg (CfgNode): that `model` was built from; its data sets give the class names, none is loaded.
        model (nn.Module): a split network in evaluation mode.
        records (sequence[dict]): with "file_name" of an image and, optionally, "annotations" or, for
            several tasks, "sem_seg_file_name" and "disparity_file_name" of the truth.
        folder (str): where `NAME_detections.png` or, for several tasks, `NAME_tasks.png`, and
            `NAME_features.png` and `NAME.d2fc` go, NAME as :func:`name_files` gives it.
        reference (nn.Module or None): the network that is not split; what it finds in the image, and in
            one compressed to as many bytes, is drawn beside.
        threshold (float): instances of a lower score are not drawn.
        take_panels (callable or None): is called with the name of each `NAME_detections.png` and its
            panels, list of (caption, (H, W, 3) uint8 RGB), all of one size.

    Returns:
        list[str]: names of the pictures, PNG files in `folder`.
    """
    categories = choose_categories(cfg, count_classes(model))
    datasets = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    os.makedirs(folder, exist_ok=True)
    records = list(records)
    names, drawn_names = name_files([record["file_name"] for record in records]), []
    for name, record in zip(names, tqdm(records, desc="images", mininterval=1), strict=True):
        picture = read_image(record["file_name"], "RGB")
        inputs = make_input(picture, cfg)
        output = model([inputs])[0]
        stream = output["bitstream"]
        stem = os.path.join(folder, name)
        metadata = collect_metadata(output, categories, datasets)
        if "disparity" in output or "reconstruction" in output:
            bgr = cfg.INPUT.FORMAT == "BGR"
            drawn = draw_tasks(get_pixels(inputs, cfg), output, record, metadata, bgr=bgr)
            drawn = arrange([(describe_stream_bytes(stream), drawn)], 1)
            drawn_name = f"{name}_tasks.png"
        else:
            results = [(describe_stream_bytes(stream), picture, output)]
            if reference is not None:
                before, after = _run_reference(reference, picture, inputs, stream, cfg)
                results = [before, *results, after]
            panels = _draw_panels(results, picture, record, metadata, threshold)
            drawn = arrange(panels, 2 if len(panels) == 4 else len(panels))
            drawn_name = f"{name}_detections.png"
            if take_panels is not None:
                take_panels(drawn_name, panels)
        Image.fromarray(drawn).save(os.path.join(folder, drawn_name))
        Image.fromarray(draw_features(stream, model.feature_codec)).save(f"{stem}{_FEATURES}")
        write_bytes(stream.to_bytes(), f"{stem}.d2fc")
        drawn_names += [drawn_name, f"{name}{_FEATURES}"]
    return drawn_names


def remove_drawn(folder):
    """Removes what :func:`draw_images` wrote: bitstreams and the pictures that are named like them.
    Other files stay.

    Args:
        folder (str): as there; it need not exist.
    """
    for features in glob.glob(os.path.join(glob.escape(folder), f"*{_FEATURES}")):
        stem = features.removesuffix(_FEATURES)
        if os.path.isfile(f"{stem}.d2fc"):
            for end in ("_detections.png", "_tasks.png", ".d2fc", _FEATURES):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(stem + end)


class FrameDrawer:
    """Computes frames of videos, through their bitstreams, and draws what is found in them.

    Args:
        cfg (CfgNode): see :func:`draw_images`.
        model (nn.Module): a split network in evaluation mode.
        threshold (float): instances of a lower score are not drawn.

    Attributes:
        sizes (list[int]): bytes of the bitstream of each frame.
    """

    def __init__(self, cfg, model, threshold=0.5):
        self._cfg, self._model, self._threshold = cfg, model, threshold
        self._categories = choose_categories(cfg, count_classes(model))
        self._datasets = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
        self.sizes = []

    @torch.no_grad()
    def draw(self, picture):
        """Draws a frame: (H, W, 3) uint8 RGB -> (k * H, k * W, 3), see :func:`draw_outputs`."""
        output = self._model([make_input(picture, self._cfg)])[0]
        self.sizes.append(output["bitstream"].total_bits // 8)
        metadata = collect_metadata(output, self._categories, self._datasets)
        return draw_outputs(picture, output, metadata, self._threshold)


def describe_stream_bytes(stream):
    """Composes the caption of what a FeatureBitstream gives: its split, codec, bits and bytes."""
    return f"{stream.split}, {stream.codec}, {stream.bits} bits: {stream.total_bits // 8} bytes"


def _draw_panels(results, picture, record, metadata, threshold):
    """[(caption, image, output)] -> [(caption, picture)], behind the ground truth where it is known."""
    panels = [(text, draw_outputs(on, out, metadata, threshold)) for text, on, out in results]
    if "annotations" not in record:
        return panels
    return [("ground truth", draw_truth(picture, record["annotations"], metadata)), *panels]


@torch.no_grad()
def _run_reference(reference, picture, inputs, stream, cfg):
    """Caption, image and output of the network that is not split: for the image as it is, and for one
    coded to as many bytes as the stream."""
    before = "network that is not split, not compressed", picture, reference([inputs])[0]
    coded = code_to_size(get_pixels(inputs, cfg), stream.total_bits // 8)
    height, width = picture.shape[:2]
    shown = Image.fromarray(coded.pixels).resize((width, height), Image.Resampling.BICUBIC)
    as_sent = {"format": cfg.INPUT.FORMAT, "size": coded.pixels.shape[:2]}
    pixels = torch.from_numpy(prepare_pixels(coded.pixels, as_sent))
    output = reference([{**inputs, "image": pixels}])[0]
    return before, (f"{coded.describe()}, same network", np.asarray(shown), output)
