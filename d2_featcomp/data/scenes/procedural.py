"""Procedural objects and backgrounds: textured shapes over a textured wall and floor.

A class is a *shape*. Texture, colour, size, rotation and shear are drawn independently of it, so
neither colour nor texture nor position tells the classes apart.
"""

import numpy as np
from PIL import Image, ImageFilter

from .composer import Background

__all__ = ["ProceduralBackgrounds", "ProceduralObjects", "SHAPES"]


def _disk(u, v):
    return u * u + v * v <= 0.9


def _ring(u, v):
    radius = np.hypot(u, v)
    return (radius <= 1.0) & (radius >= 0.55)


def _square(u, v):
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _triangle(u, v):
    return np.maximum(v - 0.6, np.abs(u) * 0.866 - 0.5 * v - 0.5) <= 0


def _star(u, v):
    angle = np.arctan2(u, -v)
    ripple = np.abs((angle * 5 / (2 * np.pi)) % 1.0 - 0.5) * 2  # 1 at the five tips, 0 between
    return np.hypot(u, v) <= 0.42 + 0.58 * ripple


def _cross(u, v):
    short = np.minimum(np.abs(u), np.abs(v))
    return (short <= 0.3) & (np.maximum(np.abs(u), np.abs(v)) <= 0.95)


def _crescent(u, v):
    return (np.hypot(u, v) <= 1.0) & (np.hypot(u - 0.55, v) >= 0.8)


def _heart(u, v):
    u, v = u * 1.15, 0.15 - v * 1.15
    return (u * u + v * v - 0.6) ** 3 - u * u * v**3 * 1.6 <= 0


SHAPES = {
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
}


def _smooth_noise(rng, height, width, cell):
    """Bicubically enlarged white noise, float32 in about [0, 1], one lattice point every `cell` px."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    lattice = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(lattice.resize((width, height), Image.Resampling.BICUBIC))


def _stripes(rng, u, v, period):
    angle = rng.uniform(0, np.pi)
    wave = np.sin((u * np.cos(angle) + v * np.sin(angle)) * (2 * np.pi / period))
    return wave * 0.5 + 0.5 if rng.random() < 0.5 else (wave > 0).astype(np.float32)


def _checks(rng, u, v, period):
    angle = rng.uniform(0, np.pi)
    a, b = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return ((np.floor(a / period) + np.floor(b / period)) % 2).astype(np.float32)


def _dots(rng, u, v, period):
    a, b = u / period % 1.0 - 0.5, v / period % 1.0 - 0.5
    return (a * a + b * b < rng.uniform(0.05, 0.12)).astype(np.float32)


def _grain(rng, u, v, period):
    """Wood-like rings: distorted distance from a far centre."""
    warp = _smooth_noise(rng, *u.shape, cell=24) * 2
    distance = np.hypot(u + 90 * rng.uniform(0.5, 2), (v + 60) * rng.uniform(0.2, 0.6))
    return np.sin(distance * (2 * np.pi / period) + warp * np.pi) * 0.5 + 0.5


def _clouds(rng, u, v, period):
    height, width = u.shape
    coarse = _smooth_noise(rng, height, width, cell=period * 2)
    return 0.65 * coarse + 0.35 * _smooth_noise(rng, height, width, cell=max(2, period / 3))


_PATTERNS = (_stripes, _checks, _dots, _grain, _clouds)


def _texture(rng, u, v, colors):
    """Mixes two colours by a random pattern; (h, w, 3) float32, the coordinates `u`, `v` in px."""
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    mix = np.asarray(pattern(rng, u, v, period=rng.uniform(6, 26)), dtype=np.float32)
    mix = mix + (_smooth_noise(rng, *u.shape, cell=3) - 0.5) * rng.uniform(0.1, 0.4)
    return colors[0] + (colors[1] - colors[0]) * mix[..., None]


def _color_pair(rng):
    first = rng.uniform(0.05, 0.95, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-0.45, 0.45, 3), 0.02, 0.98).astype(np.float32)
    return first, second


class ProceduralObjects:
    """Draws textured, shaded shapes.

    Attributes:
        classes (tuple[str]): names; the index is the class id.
    """

    classes = tuple(SHAPES)

    def draw(self, rng, size, light):
        """
        Args:
            rng (numpy.random.Generator): all randomness comes from it.
            size (float): diameter in pixels.
            light (ndarray): (2,) unit vector (x, y) toward the light, in the image plane.

        Returns:
            (ndarray, int): (h, w, 4) float32 RGBA in [0, 1] (RGB may exceed 1 in a highlight)
            and the class id.
        """
        class_id = int(rng.integers(len(self.classes)))
        alpha = self._outline(rng, self.classes[class_id], size)
        height, width = alpha.shape
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        color = _texture(rng, u, v, _color_pair(rng))
        shade = self._bevel(alpha, size, light) * rng.uniform(0.5, 1.6)
        return np.dstack([color * (1 + shade)[..., None], alpha]).astype(np.float32), class_id

    @staticmethod
    def _outline(rng, shape, size):
        angle = rng.uniform(0, 2 * np.pi)
        stretch = np.exp(rng.uniform(-0.22, 0.22))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[stretch, rng.uniform(-0.2, 0.2)], [0, 1 / stretch]])
        forward = shear @ rotation * (size / 2)
        reach = np.abs(forward).sum(axis=1)  # of the square [-1, 1]^2 under the map
        side = np.ceil(reach * 2).astype(int) + 2
        samples = 2  # a side of each pixel, for anti-aliasing
        y, x = np.mgrid[0 : side[1] * samples, 0 : side[0] * samples].astype(np.float32)
        x, y = (x + 0.5) / samples - side[0] / 2, (y + 0.5) / samples - side[1] / 2
        inverse = np.linalg.inv(forward).astype(np.float32)
        u, v = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
        inside = SHAPES[shape](u, v).astype(np.float32)
        alpha = inside.reshape(side[1], samples, side[0], samples).mean(axis=(1, 3))
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    @staticmethod
    def _bevel(alpha, size, light):
        """Relative brightness of a raised edge that faces `light`, zero inside."""
        radius = max(1.0, size * 0.05)
        margin = int(3 * radius) + 1
        padded = Image.fromarray(np.uint8(np.pad(alpha, margin) * 255))
        relief = np.asarray(padded.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
        slope_y, slope_x = np.gradient(relief)
        facing = -(slope_x * light[0] + slope_y * light[1]) * radius
        return facing[margin:-margin, margin:-margin] * 1.6


class ProceduralBackgrounds:
    """Draws a textured wall above a textured floor that recedes toward it.

    Attributes:
        stuff_classes (tuple[str]): names of the background classes.
    """

    stuff_classes = ("wall", "floor")

    def draw(self, rng, height, width):
        """
        Args:
            rng (numpy.random.Generator): all randomness comes from it.
            height, width (int): in pixels.

        Returns:
            Background
        """
        rows = np.arange(height, dtype=np.float32)
        horizon = rng.uniform(0.2, 0.55) * height
        far, near = rng.uniform(3, 6), rng.uniform(34, 42)  # disparity in px
        below = np.clip((rows - horizon) / (height - horizon), 0, 1)
        disparity = far + (near - far) * below
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        wall = _texture(rng, u, v, _color_pair(rng))
        # A floor point seen at disparity d lies at depth ~ 1/d: the texture shrinks toward the wall.
        scale = (near / disparity)[:, None] * 0.6
        floor = _texture(rng, (u - width / 2) * scale, 200.0 * scale + 0 * u, _color_pair(rng))
        is_floor = np.broadcast_to((rows >= horizon)[:, None], (height, width))
        return Background(
            color=np.where(is_floor[..., None], floor, wall).astype(np.float32),
            semantic=is_floor.astype(np.uint8),
            disparity=np.repeat(disparity[:, None], width, axis=1).astype(np.float32),
            floor=disparity,
        )
