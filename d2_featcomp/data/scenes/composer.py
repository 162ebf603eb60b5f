"""Composes objects over a background into one annotated scene, with exact masks and disparity."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

__all__ = ["Background", "Scene", "SceneComposer", "SceneObject"]


@dataclass
class Background:
    """The background of a scene.

    Attributes:
        color (ndarray): (h, w, 3) float32 RGB in [0, 1].
        semantic (ndarray): (h, w) uint8, index into the source's `stuff_classes`.
        disparity (ndarray): (h, w) float32, pixels; 0 where it is not known.
        floor (ndarray): (h,) float32, the disparity at which an object's foot stands on that row,
            not decreasing.
    """

    color: np.ndarray
    semantic: np.ndarray
    disparity: np.ndarray
    floor: np.ndarray


@dataclass
class SceneObject:
    """One visible object: class id, boolean mask (h, w) of its visible pixels."""

    class_id: int
    mask: np.ndarray


@dataclass
class Scene:
    """A rendered scene.

    Attributes:
        image (ndarray): (h, w, 3) uint8 RGB.
        semantic (ndarray): (h, w) uint8; stuff classes first, then the object classes.
        disparity (ndarray): (h, w) float32, pixels; 0 where it is not known.
        objects (list[SceneObject]): far to near.
    """

    image: np.ndarray
    semantic: np.ndarray
    disparity: np.ndarray
    objects: list = field(default_factory=list)


@dataclass
class _Placed:
    sprite: np.ndarray
    class_id: int
    disparity: float
    left: int
    top: int

    def window(self, height, width):
        """Slices of the image and of the sprite where the two overlap."""
        sprite_height, sprite_width = self.sprite.shape[:2]
        rows = slice(max(0, self.top), min(height, self.top + sprite_height))
        columns = slice(max(0, self.left), min(width, self.left + sprite_width))
        return (rows, columns), (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )


class SceneComposer:
    """Places objects at random depths, lets near ones hide far ones, lights and renders the scene.

    Disparity is proportional to the size that an object is drawn for, so depth can be told from one
    view. An object whose source makes it larger or smaller than others is no nearer or farther.

    Args:
        objects: source with `classes` and `draw(rng, size, light) -> (RGBA, class id)`.
        backgrounds: source with `stuff_classes` and `draw(rng, height, width) -> Background`.
        sizes (tuple[tuple[int, int]]): (height, width) in pixels; one is drawn for each scene.
        object_size (tuple[float, float]): smallest and largest diameter in pixels.
        object_count (tuple[int, int]): smallest and largest number of objects placed.
    """

    PIXELS_PER_DISPARITY = 4.0  # object diameter in pixels at a disparity of one pixel
    MIN_VISIBLE = 0.6  # of an object's own area; objects hidden or cut off more than that go

    def __init__(
        self,
        *,
        objects,
        backgrounds,
        sizes=((192, 256), (256, 192)),
        object_size=(44, 130),
        object_count=(4, 8),
    ):
        self.objects = objects
        self.backgrounds = backgrounds
        self.sizes = sizes
        self.object_size = object_size
        self.object_count = object_count

    def compose(self, rng):
        """Composes a scene.

        Args:
            rng (numpy.random.Generator): decides everything.

        Returns:
            Scene
        """
        height, width = self.sizes[rng.integers(len(self.sizes))]
        background = self.backgrounds.draw(rng, height, width)
        azimuth = rng.uniform(0, 2 * np.pi)
        light = np.array([np.cos(azimuth), np.sin(azimuth)])
        count = rng.integers(self.object_count[0], self.object_count[1] + 1)
        placed = [self._place(rng, background, light, height, width) for _ in range(count)]
        placed.sort(key=lambda item: item.disparity)
        placed, masks = self._keep_visible(placed, height, width)
        image = self._render(rng, background, placed, light)
        semantic, disparity = background.semantic.copy(), background.disparity.copy()
        slant = np.linspace(-0.06, 0.06, width, dtype=np.float32)[None]
        for item, mask in zip(placed, masks, strict=True):
            semantic[mask] = len(self.backgrounds.stuff_classes) + item.class_id
            surface = np.broadcast_to(item.disparity * (1 + slant), mask.shape)
            disparity[mask] = surface[mask]
        visible = [SceneObject(p.class_id, m) for p, m in zip(placed, masks, strict=True)]
        return Scene(image, semantic, disparity, visible)

    def _place(self, rng, background, light, height, width):
        low, high = np.log(self.object_size)
        size = float(np.exp(rng.uniform(low, high)))
        sprite, class_id = self.objects.draw(rng, size, light)
        sprite_height, sprite_width = sprite.shape[:2]
        disparity = size / self.PIXELS_PER_DISPARITY
        foot = np.searchsorted(background.floor, disparity) + rng.normal(0, 0.12) * height
        top = int(np.clip(foot - sprite_height, -0.15 * sprite_height, height - 0.85 * sprite_height))
        left = int(rng.uniform(-0.15 * sprite_width, width - 0.85 * sprite_width))
        return _Placed(sprite, class_id, disparity, left, top)

    def _keep_visible(self, placed, height, width):
        """Drops the objects that too little is seen of; returns the rest and their visible masks."""
        kept, masks = [], []
        hidden = np.zeros((height, width), dtype=bool)
        for item in reversed(placed):  # near to far
            solid = np.zeros((height, width), dtype=bool)
            on_image, on_sprite = item.window(height, width)
            solid[on_image] = item.sprite[on_sprite][..., 3] > 0.5
            mask = solid & ~hidden
            if mask.sum() >= self.MIN_VISIBLE * (item.sprite[..., 3] > 0.5).sum():
                kept.append(item)
                masks.append(mask)
                hidden |= solid
        return kept[::-1], masks[::-1]

    @staticmethod
    def _render(rng, background, placed, light):
        height, width = background.semantic.shape
        canvas = background.color.copy()
        darkness = rng.uniform(0.1, 0.4)
        for item in placed:
            on_image, on_sprite = item.window(height, width)
            _cast_shadow(canvas, item, light, darkness)
            sprite = item.sprite[on_sprite]
            alpha = sprite[..., 3:]
            canvas[on_image] += (sprite[..., :3] - canvas[on_image]) * alpha
        exposure = np.exp(rng.uniform(np.log(0.7), np.log(1.25)))
        tint = 1 + rng.uniform(-0.1, 0.1, 3)
        falloff = rng.uniform(0, 0.25)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        gradient = 1 + falloff * (x * light[0] + y * light[1])
        canvas *= (exposure * gradient)[..., None].astype(np.float32) * tint.astype(np.float32)
        canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0, 0.008)
        return np.uint8(np.clip(canvas, 0, 1) * 255 + 0.5)


def _cast_shadow(canvas, item, light, darkness):
    """Darkens `canvas` in place where the object blocks the light."""
    height, width = canvas.shape[:2]
    sprite_height, sprite_width = item.sprite.shape[:2]
    reach = 0.07 * max(sprite_height, sprite_width)
    blur = max(1.0, reach / 2)
    margin = int(3 * blur) + 1
    alpha = Image.fromarray(np.uint8(np.pad(item.sprite[..., 3], margin) * 255))
    soft = np.asarray(alpha.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255
    shadow = _Placed(
        soft[..., None],
        item.class_id,
        item.disparity,
        round(item.left - margin - light[0] * reach),
        round(item.top - margin - light[1] * reach),
    )
    on_image, on_shadow = shadow.window(height, width)
    canvas[on_image] *= 1 - darkness * shadow.sprite[on_shadow]
