"""Colours of classes and of numbers."""

import colorsys

import numpy as np

__all__ = ["class_colours", "contrasting_colour", "heat_colours", "relative_luminance"]

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # turns of the colour circle from a class to the next: all differ
_LEAST_LUMINANCE = 0.25  # below, colours are hard to see on dark pictures


def class_colours(count):
    """Computes the colours of classes: always the same, and light enough to be seen on dark pictures.

    Args:
        count (int): of classes.

    Returns:
        ndarray: (count, 3) uint8 RGB. Those of fewer classes are the first of those of more.
    """
    return np.uint8([_class_colour(index) for index in range(count)]).reshape(count, 3)


def _class_colour(index):
    saturation = 1.0 if index % 16 < 8 else 0.5  # hues of 8 classes are far apart
    colour = np.array(colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, saturation, 1))
    while relative_luminance(colour * 255) < _LEAST_LUMINANCE:
        colour = 0.95 * colour + 0.05  # towards white
    return np.round(colour * 255)


def relative_luminance(colour):
    """Computes the relative luminance of a colour, (3,) RGB in 0..255: 0 for black, 1 for white, as WCAG
    2.1 defines it."""
    values = np.asarray(colour, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrasting_colour(colour):
    """Returns "black" or "white", which stands out more against a colour, (3,) RGB in 0..255."""
    luminance = relative_luminance(colour)
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def heat_colours(values):
    """Colours numbers from 0, dark blue, to 1, yellow: any shape -> (..., 3) uint8 RGB."""
    from matplotlib import colormaps

    return np.uint8(np.round(colormaps["viridis"](np.clip(values, 0, 1))[..., :3] * 255))
