"""Pictures of latents.

Shape shorthand in this module:
    C, H, W: channels, height and width of a latent
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ...codecs import decompress_stream, read_step_sizes
from .colours import heat_colours
from .layout import add_caption, draw_colour_bar, stack

__all__ = ["choose_columns", "describe_latent", "draw_feature_map", "draw_features", "draw_latent"]

_WIDTH = 960  # px, about, of a picture
_MAX_SIDE = 2048  # px; of larger latents, means of neighbouring elements are drawn
_RATIO = 4 / 3  # of width to height
_BORDER = 2  # px, white
_MAP_GRAYS = (24, 168)  # dark enough for what is drawn onto a feature map
_LIGHT, _DARK = (225, 225, 225), (170, 170, 170)  # hatching; no colour of the colour bar is gray


def draw_features(bitstream, feature_codec):
    """Draws the latents of a bitstream: a tile a channel, each in its own contrast.

    Args:
        bitstream (FeatureBitstream): of a network's results.
        feature_codec (FeatureCodec): of that network.

    Returns:
        ndarray: (., ., 3) uint8 RGB: the latents one below the other, each with a caption, and a colour
        bar. Constant channels are hatched in gray; places without a channel are white.
    """
    latents = [x.numpy() for x in decompress_stream(bitstream, feature_codec)]
    steps = [x.numpy() for x in read_step_sizes(bitstream, feature_codec)]
    ratio = _RATIO * len(latents)
    width = max(_WIDTH, *(_natural_width(x.shape, ratio) for x in latents))
    parts = []
    for number, (latent, step) in enumerate(zip(latents, steps, strict=True), 1):
        name = f"{bitstream.split} latent" + (f" {number} of {len(latents)}" if len(latents) > 1 else "")
        text = describe_latent(latent, name, bitstream.bits, step)
        parts.append(add_caption(text, draw_latent(latent, ratio, width)))
    width = max(part.shape[1] for part in parts)
    return stack([*parts, draw_colour_bar(*_name_ends(latents), width)])


def draw_feature_map(latents, sizes, size):
    """Draws where in an image the features differ most, as a ground for what was found in it.

    Args:
        latents (list[ndarray]): (C, H, W) float each, decoded; the finest is drawn.
        sizes (ImageSizes): of the image.
        size ((int, int)): height and width of the picture, which shows the image without its padding.

    Returns:
        ndarray: (*size, 3) uint8, gray: the root mean square over the channels of the distance to the
        channel's mean, from its 2nd to its 98th percentile.
    """
    latent = max(latents, key=lambda one: one[0].size)
    strength = np.sqrt(np.square(latent - latent.mean(axis=(1, 2), keepdims=True)).mean(axis=0))
    low, high = np.percentile(strength, (2, 98))
    strength = np.clip((strength - low) / max(high - low, 1e-9), 0, 1)
    dark, light = _MAP_GRAYS
    scale = [inner / outer for inner, outer in zip(sizes.resized, sizes.padded, strict=True)]
    box = 0, 0, strength.shape[1] * scale[1], strength.shape[0] * scale[0]
    values = Image.fromarray(np.float32(dark + (light - dark) * strength))
    values = values.resize(size[::-1], Image.Resampling.BICUBIC, box)
    gray = np.uint8(np.round(np.clip(values, 0, 255)))
    return np.repeat(gray[..., None], 3, axis=2)


def describe_latent(latent, name, bits, steps):
    """Composes the caption of a latent.

    Args:
        latent (ndarray): (C, H, W) float, decoded.
        name (str): that it begins with.
        bits (int): n; 32 is float32.
        steps (ndarray): step sizes of the quantizer, any shape; 0 where there is none.

    Returns:
        str: its name, C x H x W, bits, values, and how many channels are constant.
    """
    text = f"{name}, {' x '.join(map(str, latent.shape))}, {bits} bits"
    text += f": values {latent.min():.3g} to {latent.max():.3g}"
    steps = steps[steps > 0]
    if steps.size:
        small, large = f"{steps.min():.3g}", f"{steps.max():.3g}"
        text += f" in steps of {small}" + (f" to {large}" if large != small else "")
    constant = int(_find_constant(latent).sum())
    return text + (f"; {constant} of {len(latent)} channels constant (hatched)" if constant else "")


def _find_constant(latent):
    flat = latent.reshape(len(latent), -1)
    return flat.min(axis=1) == flat.max(axis=1)


def _name_ends(latents):
    """What the ends of the colour bar stand for: numbers where all channels have the same."""
    varying = [x[~_find_constant(x)] for x in latents]
    ends = {(f"value {c.min():.3g}", f"{c.max():.3g}") for x in varying for c in x}
    if len(ends) == 1:
        return next(iter(ends))
    return "lowest", "highest value of each channel"


def draw_latent(latent, ratio=_RATIO, wanted_width=_WIDTH):
    """Draws the channels of a latent as tiles with white borders.

    Args:
        latent (ndarray): (C, H, W) float.
        ratio (float): wanted, of width to height.
        wanted_width (int): px, about; smaller latents are enlarged by a whole number.

    Returns:
        ndarray: (., ., 3) uint8 RGB; where there are very many elements, of means of neighbours.
    """
    constant = _find_constant(latent)
    tiles = _colour_channels(latent)
    channels, height, width, _ = tiles.shape
    columns = choose_columns(channels, height, width, ratio)
    zoom = max(1, round(wanted_width / (columns * width)))
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    tiles[constant] = _hatch(height * zoom, width * zoom)
    return _place(tiles, columns)


def _colour_channels(latent):
    """(C, H, W) -> (C, h, w, 3) uint8, from the channel's smallest to its largest value."""
    shrink = _find_shrink(latent.shape)
    if shrink > 1:
        latent = F.avg_pool2d(torch.from_numpy(latent)[None], shrink, ceil_mode=True)[0].numpy()
    low = latent.min(axis=(1, 2), keepdims=True)
    extent = latent.max(axis=(1, 2), keepdims=True) - low
    return heat_colours((latent - low) / np.where(extent > 0, extent, 1))


def _find_shrink(shape):
    """Side of the squares of elements of which means are drawn."""
    return math.ceil(math.sqrt(math.prod(shape)) / _MAX_SIDE)


def _natural_width(shape, ratio):
    """Width, without borders, of a latent of that shape that is not enlarged."""
    channels, height, width = shape
    shrink = _find_shrink(shape)
    return choose_columns(channels, height, width, ratio) * -(-width // shrink)


def choose_columns(channels, height, width, ratio=_RATIO):
    """Chooses how many tiles of a height and width go into a row: such that width to height of all comes
    near `ratio`, and few places stay empty."""

    def cost(columns):
        rows = -(-channels // columns)
        found = columns * width / (rows * height)
        return abs(math.log(found / ratio)) + (rows * columns - channels) / channels

    return min(range(channels, 0, -1), key=lambda columns: round(cost(columns), 9))


def _hatch(height, width):
    rows, columns = np.indices((height, width))
    return np.where(((rows + columns) % 10 < 3)[..., None], np.uint8(_DARK), np.uint8(_LIGHT))


def _place(tiles, columns):
    channels, height, width, _ = tiles.shape
    rows = -(-channels // columns)
    step_y, step_x = height + _BORDER, width + _BORDER
    picture = np.full((rows * step_y - _BORDER, columns * step_x - _BORDER, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // columns * step_y, index % columns * step_x
        picture[y : y + height, x : x + width] = tile
    return picture
