"""Captions, grids of pictures, legends and colour bars; pictures are (H, W, 3) uint8 RGB arrays."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colours import heat_colours

__all__ = [
    "MIN_SIDE",
    "add_caption",
    "arrange",
    "draw_colour_bar",
    "draw_legend",
    "load_font",
    "stack",
    "wrap",
    "zoom_to",
]

GAP = 6  # px, between pictures
MIN_SIDE = 384  # px; smaller pictures are enlarged by a whole number
_FONT_SIZE = 14  # px


@functools.cache
def load_font(size=_FONT_SIZE):
    """Loads the font of all texts, of that size in pixels."""
    return ImageFont.load_default(size)


def zoom_to(side, height, width):
    """Computes the whole number, at least 1, by which both sides become `side` pixels or more."""
    return max(1, -(-side // min(height, width)))


def wrap(text, width):
    """Breaks a text between words into lines of at most `width` pixels, unless a word alone is wider:
    list[str], at least one."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and load_font().getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _draw_text(lines, width, rows):
    line_height = _FONT_SIZE + 4
    canvas = Image.new("RGB", (width, rows * line_height + 6), "white")
    for row, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((4, 3 + row * line_height), line, fill="black", font=load_font())
    return np.asarray(canvas)


def add_caption(text, picture):
    """Puts a text, broken into as many lines as it needs, above a picture."""
    width = picture.shape[1]
    lines = wrap(text, width - 8)
    return np.concatenate([_draw_text(lines, width, len(lines)), picture])


def stack(pictures):
    """Puts pictures below one another, with gaps; narrower ones are filled up with white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        rows += [_fill(picture, picture.shape[0], width), np.full((GAP, width, 3), 255, np.uint8)]
    return np.concatenate(rows[:-1])


def arrange(pictures, columns):
    """Puts captioned pictures into a grid, row by row.

    Args:
        pictures (list[(str, ndarray)]): caption and picture; of one size.
        columns (int): pictures in a row.

    Returns:
        ndarray: `columns` pictures and the gaps between them wide.
    """
    width = max(picture.shape[1] for _, picture in pictures)
    rows = []
    for first in range(0, len(pictures), columns):
        row = pictures[first : first + columns]
        texts = [wrap(caption, width - 8) for caption, _ in row]
        most = max(map(len, texts))
        cells = [
            np.concatenate([_draw_text(lines, width, most), _fill(picture, picture.shape[0], width)])
            for lines, (_, picture) in zip(texts, row, strict=True)
        ]
        height = max(cell.shape[0] for cell in cells)
        cells = [_fill(cell, height, width + GAP) for cell in cells]
        rows.append(np.concatenate(cells, axis=1)[:, :-GAP])
    return stack(rows)


def _fill(picture, height, width):
    missing = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), constant_values=255)


def draw_legend(entries, width):
    """Draws which colour stands for what.

    Args:
        entries (list[(str, colour)]): text, and (3,) RGB in 0..255.
        width (int): px; entries go into as many rows as they need.

    Returns:
        ndarray: (., width, 3).
    """
    places, left, row = [], 4, 0
    for text, _ in entries:
        needed = 20 + round(load_font().getlength(text)) + 14
        if left > 4 and left + needed > width:
            left, row = 4, row + 1
        places.append((left, 4 + row * 22))
        left += needed
    canvas = Image.new("RGB", (width, 26 + row * 22), "white")
    draw = ImageDraw.Draw(canvas)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + 14, y + 14), fill=tuple(map(int, colour)), outline="black")
        draw.text((x + 20, y - 1), text, fill="black", font=load_font())
    return np.asarray(canvas)


def draw_colour_bar(low, high, width):
    """Draws the colours of :func:`heat_colours` between two texts, those of 0 and of 1.

    Returns:
        ndarray: (., width, 3).
    """
    font = load_font()
    left, right = 4 + round(font.getlength(low)) + 8, 4 + round(font.getlength(high)) + 8
    length = max(16, min(256, width - left - right))
    canvas = Image.new("RGB", (width, 26), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 3), low, fill="black", font=font)
    bar = np.broadcast_to(heat_colours(np.linspace(0, 1, length)), (14, length, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, 5))
    draw.text((left + length + 8, 3), high, fill="black", font=font)
    return np.asarray(canvas)
