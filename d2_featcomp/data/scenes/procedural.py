"""Procedural objects and backgrounds: marked, shaded shapes over a textured wall and floor.

A class is an outline, most often with the marking that it prefers. Colours, size, rotation, shear and
place are drawn independently of the class, so none of them gives it away.
"""

import numpy as np
from PIL import Image, ImageFilter

from .composer import Background

__all__ = ["CLASSES", "ProceduralBackgrounds", "ProceduralObjects"]

# Outlines and markings are functions of an object's own coordinates u (right), v (down), each about
# -1 to 1. Outlines give a boolean map, markings values from 0 to 1; `f` is a marking's frequency.


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


def _heart(u, v):
    u, v = u * 1.15, 0.15 - v * 1.15
    return (u * u + v * v - 0.6) ** 3 - u * u * v**3 * 1.6 <= 0


def _circles(u, v, f):
    return np.cos(np.hypot(u, v) * 3 * f * np.pi) * 0.5 + 0.5


def _sectors(u, v, f):
    return np.arctan2(v, u) / (2 * np.pi) * 2 * round(4 * f) % 2 // 1


def _checks(u, v, f):
    return (np.floor(u * 2.5 * f) + np.floor(v * 2.5 * f)) % 2


def _bars(u, v, f):
    return np.floor(v * 4 * f) % 2


def _core(u, v, f):
    return np.exp(-(u * u + v * v) * 5 * f)


def _lattice(u, v, f):
    return (np.minimum((u + v) * 1.7 * f % 1, (u - v) * 1.7 * f % 1) < 0.25) * 1.0


# Class name -> outline, preferred marking.
CLASSES = {
    "disk": (_disk, _circles),
    "ring": (_ring, _sectors),
    "square": (_square, _checks),
    "triangle": (_triangle, _bars),
    "star": (_star, _core),
    "heart": (_heart, _lattice),
}
_MARKINGS = tuple(marking for _, marking in CLASSES.values())
_PREFERENCE = 0.9  # how often an object has the marking that its class prefers


def _smooth_noise(rng, height, width, cell):
    """Bicubically enlarged white noise, float32 in about [0, 1], one lattice point every `cell` px."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    lattice = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    return np.asarray(lattice.resize((width, height), Image.Resampling.BICUBIC))


class ProceduralObjects:
    """Draws marked, shaded shapes.

    Attributes:
        classes (tuple[str]): names; the index is the class id.
    """

    classes = tuple(CLASSES)

    def draw(self, rng, size, light):
        """Draws an object.

        Args:
            rng (numpy.random.Generator): all randomness comes from it.
            size (float): diameter in pixels.
            light (ndarray): (2,) unit vector (x, y) toward the light, in the image plane.

        Returns:
            (ndarray, int): (h, w, 4) float32 RGBA in [0, 1] (RGB may exceed 1 in a highlight)
            and the class id.
        """
        class_id = int(rng.integers(len(self.classes)))
        outline, marking = CLASSES[self.classes[class_id]]
        if rng.random() >= _PREFERENCE:
            marking = _MARKINGS[rng.integers(len(_MARKINGS))]
        alpha, mix = self._cut_out(rng, outline, marking, size)
        mix = mix + (_smooth_noise(rng, *mix.shape, cell=3) - 0.5) * rng.uniform(0, 0.12)
        first = rng.uniform(0.05, 0.95, 3)
        second = np.where(first < 0.5, 1.0, 0.0) * rng.uniform(0.4, 1.0, 3)
        second = first + (second - first) * rng.uniform(0.05, 0.25)
        color = first + (second - first) * mix[..., None]
        shade = self._bevel(alpha, size, light) * rng.uniform(0.3, 1.0)
        return np.dstack([color * (1 + shade)[..., None], alpha]).astype(np.float32), class_id

    @staticmethod
    def _cut_out(rng, outline, marking, size):
        """Coverage and marking of each pixel, both (h, w) float32 in [0, 1]."""
        angle = rng.uniform(-0.35, 0.35)
        stretch = np.exp(rng.uniform(-0.22, 0.22))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[stretch, rng.uniform(-0.12, 0.12)], [0, 1 / stretch]])
        forward = shear @ rotation * (size / 2)
        reach = np.abs(forward).sum(axis=1)  # of the square [-1, 1]^2 under the map
        width, height = np.ceil(reach * 2).astype(int) + 2
        samples = 2  # a side of each pixel, for anti-aliasing
        y, x = np.mgrid[0 : height * samples, 0 : width * samples].astype(np.float32)
        x, y = (x + 0.5) / samples - width / 2, (y + 0.5) / samples - height / 2
        inverse = np.linalg.inv(forward).astype(np.float32)
        u, v = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y

        def per_pixel(values):
            values = np.asarray(values, dtype=np.float32)
            return values.reshape(height, samples, width, samples).mean(axis=(1, 3))

        alpha = per_pixel(outline(u, v))
        mix = per_pixel(marking(u, v, rng.uniform(0.8, 1.25)))
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return alpha[window], mix[window]

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


# Textures of the background, functions of a random generator and coordinates in pixels.


def _waves(rng, x, y):
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 26)
    return np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)) * 0.5 + 0.5


def _grain(rng, x, y):
    """Wood-like rings: distorted distance from a far centre."""
    warp = _smooth_noise(rng, *x.shape, cell=24) * 2
    distance = np.hypot(x + 90 * rng.uniform(0.5, 2), (y + 60) * rng.uniform(0.2, 0.6))
    return np.sin(distance * (2 * np.pi / rng.uniform(6, 26)) + warp * np.pi) * 0.5 + 0.5


def _clouds(rng, x, y):
    cell = rng.uniform(12, 50)
    return 0.65 * _smooth_noise(rng, *x.shape, cell) + 0.35 * _smooth_noise(rng, *x.shape, cell / 6)


def _tiles(rng, x, y):
    side = rng.uniform(10, 30)
    return ((x / side % 1 < 0.12) | (y / side % 1 < 0.12)) * 1.0


_TEXTURES = (_waves, _grain, _clouds, _tiles)


def _surface(rng, x, y):
    """A textured surface; (h, w, 3) float32 RGB."""
    texture = _TEXTURES[rng.integers(len(_TEXTURES))]
    mix = texture(rng, x, y) + (_smooth_noise(rng, *x.shape, cell=3) - 0.5) * rng.uniform(0, 0.12)
    first = rng.uniform(0.05, 0.95, 3)
    second = np.clip(first + rng.uniform(-0.06, 0.06, 3), 0.02, 0.98)
    return (first + (second - first) * mix[..., None]).astype(np.float32)


class ProceduralBackgrounds:
    """Draws a textured wall above a textured floor that recedes toward it.

    Attributes:
        stuff_classes (tuple[str]): names of the background classes.
    """

    stuff_classes = ("wall", "floor")

    def draw(self, rng, height, width):
        """Draws a background.

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
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        wall = _surface(rng, x, y)
        # A floor point seen at disparity d lies at depth ~ 1/d: the texture shrinks toward the wall.
        scale = (near / disparity)[:, None] * 0.6
        floor = _surface(rng, (x - width / 2) * scale, 200.0 * scale + 0 * x)
        is_floor = np.broadcast_to((rows >= horizon)[:, None], (height, width))
        return Background(
            color=np.where(is_floor[..., None], floor, wall),
            semantic=is_floor.astype(np.uint8),
            disparity=np.repeat(disparity[:, None], width, axis=1).astype(np.float32),
            floor=disparity,
        )
