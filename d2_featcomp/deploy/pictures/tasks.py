"""Pictures of what networks with several tasks predict."""

import numpy as np
from PIL import Image

from ...data.disparity import read_disparity
from ...data.images import read_sem_seg
from .colours import class_colours, heat_colours
from .layout import arrange, draw_colour_bar, draw_legend, stack, zoom_to

__all__ = ["draw_tasks"]

_MIN_SIDE = 192  # px, of each picture
_BLACK = np.zeros(3, np.uint8)  # no class, or unknown disparity


def draw_tasks(image, outputs, record, metadata, *, bgr):
    """Draws the input and what several tasks predict, each beside the truth where that is known.

    Args:
        image (ndarray): (h, w, 3) uint8 RGB, as the network got it.
        outputs (dict): of one image, from a CompressibleMultiTask in evaluation mode.
        record (dict): may hold "sem_seg_file_name" and "disparity_file_name" of the truth.
        metadata (Metadata): `stuff_classes`; `stuff_colors`, if the classes have colours of their own.
        bgr (bool): whether the reconstruction's channels are blue, green, red.

    Returns:
        ndarray: (., ., 3) uint8 RGB: pictures of one size in two columns, or in one row where their
        number is odd; below, a legend of the classes that are seen and a colour bar of the disparity.
    """
    cells, entries, largest = [("input", image)], [], None
    if "reconstruction" in outputs:
        rebuilt = outputs["reconstruction"].cpu().permute(1, 2, 0).numpy()
        rebuilt = np.clip(rebuilt[..., ::-1] if bgr else rebuilt, 0, 1)
        cells.append(("reconstruction", np.uint8(np.round(rebuilt * 255))))
    if "sem_seg" in outputs:
        pictures, classes = _draw_segmentation(outputs["sem_seg"], record, metadata)
        cells, entries = cells + pictures, entries + classes
    if "disparity" in outputs:
        pictures, largest, unknown = _draw_disparity(outputs["disparity"].cpu().numpy(), record)
        cells, entries = cells + pictures, entries + unknown
    size = _shown_size(image)
    cells = [(caption, _resized(picture, size)) for caption, picture in cells]
    parts = [arrange(cells, 2 if len(cells) % 2 == 0 else len(cells))]
    width = parts[0].shape[1]
    if entries:
        parts.append(draw_legend(entries, width))
    if largest is not None:
        parts.append(draw_colour_bar("disparity: 0", f"{largest:.3g} px", width))
    return stack(parts)


def _draw_segmentation(scores, record, metadata):
    """[(caption, picture)] and the legend's entries."""
    count = len(scores)
    colours = np.uint8(metadata.get("stuff_colors") or class_colours(count))
    maps = {}
    if "sem_seg_file_name" in record:
        maps["segmentation, truth"] = read_sem_seg(record["sem_seg_file_name"])
    maps["segmentation"] = scores.argmax(dim=0).cpu().numpy()
    # All that is no class becomes the last row of the colours.
    maps = {caption: np.where(labels < count, labels, count) for caption, labels in maps.items()}
    colours = np.concatenate([colours[:count], _BLACK[None]])
    names = [*metadata.get("stuff_classes", map(str, range(count)))]
    names[count:] = ["no class"]
    seen = np.unique(np.concatenate([labels.ravel() for labels in maps.values()]))
    return (
        [(caption, colours[labels]) for caption, labels in maps.items()],
        [(names[label], colours[label]) for label in seen],
    )


def _draw_disparity(found, record):
    """[(caption, picture)], the largest disparity in px, and the legend's entries."""
    maps = {}
    if "disparity_file_name" in record:
        maps["disparity, truth"] = read_disparity(record["disparity_file_name"])
    maps["disparity"] = found
    largest = max(float(next(iter(maps.values())).max()), 1e-6)
    pictures = [
        (caption, np.where((values > 0)[..., None], heat_colours(values / largest), _BLACK))
        for caption, values in maps.items()
    ]
    unknown = any((values <= 0).any() for values in maps.values())
    return pictures, largest, [("no disparity known", _BLACK)] if unknown else []


def _shown_size(image):
    """Computes (width, height) in which an (h, w, 3) image is shown, to leave room for captions."""
    height, width = image.shape[:2]
    zoom = zoom_to(_MIN_SIDE, height, width)
    return width * zoom, height * zoom


def _resized(picture, size):
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
