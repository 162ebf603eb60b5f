"""Pictures of what is sent and of what comes out of it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..codecs import FeatureCodec
from ..ops import tile_channels

__all__ = ["draw_features", "draw_outputs", "side_by_side"]

_CAPTION_HEIGHT = 24  # px
_MIN_SIDE = 384  # px; smaller pictures are enlarged by a whole number


def draw_features(bitstream):
    """The features of a bitstream as they were tiled for the image codec.

    Args:
        bitstream (FeatureBitstream): any.

    Returns:
        ndarray: (k * H, k * W) uint8, tensors one below the other; black is each tensor's smallest
        value, white its largest; k enlarges small images.
    """
    pictures = [_scaled(tile_channels(x).numpy()) for x in FeatureCodec.decompress(bitstream)]
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
