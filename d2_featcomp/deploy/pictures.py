"""Pictures of latents and of outputs."""

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from PIL import Image, ImageDraw, ImageFont

from ..codecs import decompress_stream
from ..data.disparity import read_disparity
from ..ops import tile_channels

__all__ = ["collect_metadata", "draw_features", "draw_outputs", "draw_tasks", "side_by_side"]

_CAPTION_HEIGHT = 24  # px
_MIN_SIDE = 384  # px; smaller pictures are enlarged by a whole number


def draw_features(bitstream, feature_codec):
    """Draws the latents of a bitstream as they were tiled for the image codec.

    Args:
        bitstream (FeatureBitstream): of a network's results.
        feature_codec (FeatureCodec): of that network.

    Returns:
        ndarray: (k * H, k * W) uint8, tensors one below the other; black is each tensor's smallest
        value, white its largest; k enlarges small images.
    """
    latents = decompress_stream(bitstream, feature_codec)
    pictures = [_scaled(tile_channels(x).numpy()) for x in latents]
    width = max(picture.shape[1] for picture in pictures)
    rows = [np.pad(p, ((0, 2), (0, width - p.shape[1]))) for p in pictures]
    picture = np.concatenate(rows)[:-2]
    zoom = _zoom(picture)
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _zoom(picture):
    return max(1, -(-_MIN_SIDE // min(picture.shape[:2])))


def _scaled(x):
    low, high = float(x.min()), float(x.max())
    return np.uint8(np.round((x - low) / max(high - low, 1e-12) * 255))


def draw_outputs(image, outputs, metadata, threshold):
    """Draws what a network found onto an image.

    Args:
        image (ndarray): (H, W, 3) uint8 RGB.
        outputs (dict): of one image, from a Detectron2 network in evaluation mode.
        metadata (Metadata): names and colours.
        threshold (float): instances of a lower score are left out.

    Returns:
        ndarray: (k * H, k * W, 3) uint8 RGB; k enlarges small images, to leave room for the labels.
    """
    from detectron2.utils.visualizer import ColorMode, Visualizer

    visualizer = Visualizer(image, metadata, scale=_zoom(image), instance_mode=ColorMode.IMAGE)
    if "panoptic_seg" in outputs:
        segments, info = outputs["panoptic_seg"]
        return visualizer.draw_panoptic_seg_predictions(segments.cpu(), info).get_image()
    if "sem_seg" in outputs:
        visualizer.draw_sem_seg(outputs["sem_seg"].argmax(dim=0).cpu())
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        visualizer.draw_instance_predictions(instances[instances.scores >= threshold])
    return visualizer.output.get_image()


def collect_metadata(outputs, categories=(), dataset=None):
    """Collects the names and colours by which outputs are drawn; no data set is loaded for them.

    Args:
        outputs (dict): of one image, from a Detectron2 network in evaluation mode.
        categories (sequence[dict]): of the instances' classes, with "name".
        dataset (str or None): name of a data set; what is known of it is used where it fits.

    Returns:
        Metadata: with a name, at least a number, for each class that is in `outputs`.
    """
    known = MetadataCatalog.get(dataset).as_dict() if dataset else {}
    found = {key: known[key] for key in ("stuff_classes", "stuff_colors") if key in known}
    if categories:
        found["thing_classes"] = [category["name"] for category in categories]
        if len(known.get("thing_colors", ())) == len(categories):
            found["thing_colors"] = known["thing_colors"]
    count = len(outputs["sem_seg"]) if "sem_seg" in outputs else 0
    if "panoptic_seg" in outputs:
        count = 1 + max((segment["category_id"] for segment in outputs["panoptic_seg"][1]), default=0)
    if len(found.get("stuff_classes", ())) < count:
        found.pop("stuff_colors", None)
        found["stuff_classes"] = [str(number) for number in range(count)]
    if "panoptic_seg" in outputs and len(found.get("thing_classes", ())) < count:
        found.setdefault("thing_classes", found["stuff_classes"])
    return Metadata(**found)


def draw_tasks(image, outputs, record, metadata, *, bgr):
    """Draws what several tasks predict, below the truth.

    Args:
        image (Tensor): (3, h, w) in [0, 255], RGB, as the network got it.
        outputs (dict): of one image, from a CompressibleMultiTask in evaluation mode.
        record (dict): may hold "sem_seg_file_name" and "disparity_file_name" of the truth.
        metadata (Metadata): `stuff_colors`, if the classes have colours of their own.
        bgr (bool): whether the reconstruction's channels are blue, green, red.

    Returns:
        ndarray: (., ., 3) uint8 RGB: a column a task, all pictures of one size.
    """
    size = _shown_size(image)
    pixels = np.uint8(image.permute(1, 2, 0).numpy())
    columns = []
    if "reconstruction" in outputs:
        rebuilt = outputs["reconstruction"].cpu().permute(1, 2, 0).numpy()
        rebuilt = np.uint8(np.round((rebuilt[..., ::-1] if bgr else rebuilt) * 255))
        columns.append({"input": pixels, "reconstruction": rebuilt})
    if "sem_seg" in outputs:
        colours = np.uint8(metadata.get("stuff_colors") or _colours(len(outputs["sem_seg"])))
        found = colours[outputs["sem_seg"].argmax(dim=0).cpu().numpy()]
        truth = None
        if "sem_seg_file_name" in record:
            labels = np.asarray(Image.open(record["sem_seg_file_name"]))
            known = labels < len(colours)
            truth = np.where(known[..., None], colours[np.where(known, labels, 0)], np.uint8(0))
        columns.append({"segmentation, truth": truth, "segmentation": found})
    if "disparity" in outputs:
        found = outputs["disparity"].cpu().numpy()
        truth = None
        if "disparity_file_name" in record:
            truth = read_disparity(record["disparity_file_name"])
        largest = max(float((found if truth is None else truth).max()), 1e-6)
        columns.append(
            {
                "disparity, truth": None if truth is None else _heat(truth / largest),
                "disparity": _heat(found / largest),
            }
        )
    rows = []
    for index in range(2):
        row = {}
        for column in columns:
            caption, picture = list(column.items())[index]
            if picture is None:
                caption, picture = "", np.full((*size[::-1], 3), 255, np.uint8)
            row[caption or " " * (len(row) + 1)] = _resized(picture, size)
        rows.append(side_by_side(row))
    return np.concatenate(rows)


def _shown_size(image):
    """Computes (width, height) in which a (3, h, w) image is shown, to leave room for captions."""
    height, width = image.shape[-2:]
    zoom = max(1, -(-192 // min(height, width)))
    return width * zoom, height * zoom


def _resized(picture, size):
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def _colours(count):
    from matplotlib import colormaps

    return colormaps["tab20"](np.arange(count) % 20)[:, :3] * 255


def _heat(values):
    """Colours (h, w) in [0, 1] -> (h, w, 3) uint8; 0, which is unknown, is black."""
    from matplotlib import colormaps

    drawn = colormaps["viridis"](np.clip(values, 0, 1))[..., :3] * (values > 0)[..., None]
    return np.uint8(np.round(drawn * 255))


def side_by_side(pictures):
    """Puts captioned pictures of one height next to one another.

    Args:
        pictures (dict[str, ndarray]): caption -> (H, W, 3) uint8 RGB.

    Returns:
        ndarray: (H + caption, sum of W and gaps, 3) uint8 RGB.
    """
    gap = 4
    height = max(picture.shape[0] for picture in pictures.values())
    width = sum(picture.shape[1] + gap for picture in pictures.values()) - gap
    canvas = Image.new("RGB", (width, height + _CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    left = 0
    for caption, picture in pictures.items():
        draw.text((left + 4, 5), caption, fill="black", font=ImageFont.load_default(13))
        canvas.paste(Image.fromarray(picture), (left, _CAPTION_HEIGHT))
        left += picture.shape[1] + gap
    return np.asarray(canvas)
