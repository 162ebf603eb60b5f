"""Objects and backgrounds cut from real pixels: RGBA images and photographs in folders."""

import os
import re
from collections import defaultdict
from functools import partial

import numpy as np
from PIL import Image

from ...images import make_upright
from ..images import open_image
from .composer import Background

__all__ = ["CutoutObjects", "PhotoBackgrounds", "list_cutouts", "list_photos"]

_IMAGE_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_MIRRORED = re.compile(r"([_-](mirror|flip|flipped|left|right))+$", re.IGNORECASE)
_MIN_SIDE = 32  # px; smaller cut-outs would be enlarged beyond recognition
_MAX_SIDE = 320  # px; larger cut-outs are reduced once, at loading


def _walk_images(folder):
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder!r}: give an existing folder of images")
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(_IMAGE_SUFFIXES):
                yield os.path.join(parent, name)


def _split(groups, part, val_fraction):
    """Every n-th group is for validation, one at least; the other groups are for training."""
    every = max(2, min(round(1 / val_fraction), len(groups)))
    chosen = (
        [g for i, g in enumerate(groups) if i % every == every - 1]
        if part == "val"
        else [g for i, g in enumerate(groups) if i % every != every - 1]
    )
    return [path for group in chosen for path in group]


def list_cutouts(folder, part, *, classes=None, exclude=(), val_fraction=0.25, min_per_class=8):
    """Lists the cut-outs of one part; a cut-out and its mirrored twin always share a part.

    Args:
        folder (str): its sub-folders are the classes; images at any depth below belong to them.
        part (str): "train" or "val"; the two never share a cut-out.
        classes (sequence[str] or None): sub-folders to use; None uses all that hold at least
            `min_per_class` usable cut-outs, mirrored twins counted once.
        exclude (sequence[str]): cut-outs whose path below `folder` contains one of these are left out.
        val_fraction (float): share of each class that goes to "val".
        min_per_class (int): see `classes`.

    Returns:
        dict[str, list[str]]: class name -> paths, both sorted.

    Raises:
        FileNotFoundError: no such folder. ValueError: a class without enough cut-outs.
    """
    groups = defaultdict(lambda: defaultdict(list))
    for path in _walk_images(folder):
        relative = os.path.relpath(path, folder)
        name = relative.split(os.sep)[0]
        if name == os.path.basename(relative) or any(word in relative for word in exclude):
            continue
        if classes is not None and name not in classes:
            continue
        if _is_cutout(path):
            stem = os.path.splitext(relative)[0].lower()
            groups[name][_MIRRORED.sub("", stem)].append(path)
    wanted = sorted(classes) if classes is not None else sorted(groups)
    counts = {name: sum(map(len, groups[name].values())) for name in wanted}
    if classes is None:
        wanted = [name for name in wanted if len(groups[name]) >= min_per_class]
    short = [name for name in wanted if len(groups[name]) < 2]
    if short or not wanted:
        raise ValueError(
            f"{folder!r} has too few RGBA cut-outs of {short or 'any class'}: each class needs a "
            f"sub-folder with at least two images that have transparent pixels and sides of at "
            f"least {_MIN_SIDE} px (found {counts})"
        )
    return {name: _split(list(groups[name].values()), part, val_fraction) for name in wanted}


def _is_cutout(path):
    """Tells whether the image has both transparent and opaque pixels, and enough of them."""

    def look(image):
        if min(image.size) < _MIN_SIDE or not (
            image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        ):
            return False
        opaque = np.asarray(image.convert("RGBA").getchannel("A")) > 127
        return bool(0.05 < opaque.mean() < 0.98)

    return open_image(path, look)


def list_photos(folder, part, *, include=(), val_fraction=0.25):
    """Lists the photographs of one part, "train" or "val"; the two never share one.

    Args:
        folder (str): images at any depth below it are photographs.
        part (str): "train" or "val".
        include (sequence[str]): photographs whose path below `folder` contains one of these are
            used; none: all.
        val_fraction (float): share that goes to "val".

    Raises:
        FileNotFoundError: no such folder. ValueError: fewer than two such images in it.
    """
    photos = [
        [path]
        for path in _walk_images(folder)
        if not include or any(word in os.path.relpath(path, folder) for word in include)
    ]
    if len(photos) < 2:
        raise ValueError(
            f"{folder!r} holds {len(photos)} images"
            + (f" of {', '.join(include)}" if include else "")
            + ": two or more backgrounds are needed"
        )
    return _split(photos, part, val_fraction)


class CutoutObjects:
    """Draws randomly turned, mirrored and lit copies of RGBA images.

    Args:
        cutouts (dict[str, list[str]]): class name -> image paths, as :func:`list_cutouts` gives.
        relative_sizes (dict[str, float]): part of a path -> size of such cut-outs relative to others
            at the same distance; the longest that a path contains counts, 1 where there is none.
    """

    def __init__(self, cutouts, relative_sizes=None):
        self.classes = tuple(cutouts)
        self._relative_sizes = relative_sizes or {}
        self._sprites = [
            [(_load_cutout(path), self._find_relative_size(path)) for path in paths]
            for paths in cutouts.values()
        ]

    def _find_relative_size(self, path):
        path = path.replace(os.sep, "/")
        found = [part for part in self._relative_sizes if part in path]
        return self._relative_sizes[max(found, key=len)] if found else 1.0

    def draw(self, rng, size, light):
        """See :meth:`ProceduralObjects.draw`; `size` is multiplied by the relative size of the cut-out
        that is drawn, `light` is unused: photographs bring their own."""
        class_id = int(rng.integers(len(self.classes)))
        sprites = self._sprites[class_id]
        sprite, relative_size = sprites[rng.integers(len(sprites))]
        if rng.random() < 0.5:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = relative_size * size / max(sprite.size)
        sprite = sprite.resize(
            [max(4, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS
        )
        sprite = sprite.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
        rgba = np.asarray(sprite, dtype=np.float32) / 255
        rgba[..., :3] = rgba[..., :3] * rng.uniform(0.8, 1.2) + rng.uniform(-0.08, 0.08)
        return rgba, class_id


def _load_cutout(path):
    image = open_image(path, lambda file: make_upright(path, file).convert("RGBA"))
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    solid = image.getchannel("A").point(lambda a: 255 * (a > 127))
    return image.crop(solid.getbbox())


class PhotoBackgrounds:
    """Draws random crops of photographs, of unknown depth.

    Args:
        paths (list[str]): images, as :func:`list_photos` gives.
    """

    stuff_classes = ("background",)
    _KEPT_SIDE = 768  # px; larger photographs are reduced once, at loading

    def __init__(self, paths):
        self._photos = []
        for path in paths:
            image = open_image(path, partial(self._read, path))
            image.thumbnail((self._KEPT_SIDE * 2, self._KEPT_SIDE), Image.Resampling.LANCZOS)
            self._photos.append(image)

    def _read(self, path, image):
        image.draft("RGB", (self._KEPT_SIDE, self._KEPT_SIDE))
        return make_upright(path, image).convert("RGB")

    @staticmethod
    def _lay_floor(height):
        """As seen from above, so that objects stand in the lower two thirds, the largest lowest."""
        rows = np.arange(height)
        return np.interp(rows, (0.35 * height, height), (6, 34)).astype(np.float32)

    def draw(self, rng, height, width):
        """See :meth:`ProceduralBackgrounds.draw`."""
        photo = self._photos[rng.integers(len(self._photos))]
        largest = min(photo.width / width, photo.height / height)
        scale = rng.uniform(0.4, 1.0) * largest
        left = rng.uniform(0, photo.width - scale * width)
        top = rng.uniform(0.6, 1.0) * (photo.height - scale * height)  # the ground is below
        crop = photo.resize(
            (width, height),
            Image.Resampling.LANCZOS,
            box=(left, top, left + scale * width, top + scale * height),
        )
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Background(
            color=np.asarray(crop, dtype=np.float32) / 255,
            semantic=np.zeros((height, width), dtype=np.uint8),
            disparity=np.zeros((height, width), dtype=np.float32),
            floor=self._lay_floor(height),
        )
