"""Writes scenes to disk as a COCO-format data set, once, and checks that what is there is whole."""

import functools
import io
import json
import logging
import multiprocessing
import os
import shutil
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock
from PIL import Image
from tqdm import tqdm

from ..disparity import make_stored_disparity

__all__ = ["MANIFEST", "ensure_scenes", "is_complete", "read_manifest", "write_scenes"]

MANIFEST = "scenes.json"  # written last: a folder without it is not complete
FORMAT = 1  # raise when the same seed would draw other pictures
_SEED_OF_PART = {"train": 0, "val": 1}


def read_manifest(root):
    """Returns the manifest of the data set in `root`, or None where there is none or it is damaged."""
    try:
        with open(os.path.join(root, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    return manifest if manifest.pop("checksum", None) == _checksum(manifest) else None


def _checksum(manifest):
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def is_complete(root):
    """Tells whether every file that the manifest of `root` lists is there, byte for byte."""
    manifest = read_manifest(root)
    if manifest is None:
        return False

    def matches(entry):
        name, size_and_checksum = entry
        try:
            with open(os.path.join(root, name), "rb") as file:
                data = file.read()
        except OSError:
            return False
        return size_and_checksum == [len(data), zlib.crc32(data)]

    with ThreadPoolExecutor() as pool:
        return all(pool.map(matches, manifest["files"].items()))


def ensure_scenes(root, recipe):
    """Makes `root` hold the data set of `recipe`; rebuilds a damaged, partial or outdated copy.

    Safe when several processes call it at once: one builds, the others wait and then find it.

    Args:
        root (str): folder of the data set.
        recipe (callable): returns (composers, description), see :func:`write_scenes`; called only
            if something must be built.
    """
    os.makedirs(os.path.dirname(os.path.abspath(root)), exist_ok=True)
    with file_lock(root):
        if is_complete(root):
            return
        if os.path.isdir(root) and os.listdir(root):
            logging.getLogger(__name__).warning("%s is damaged or outdated: rebuilding it", root)
        _write_scenes(root, *recipe())


def write_scenes(root, composers, description):
    """Draws and writes a whole data set, then moves it to `root` in one step. Other processes that call
    this or :func:`ensure_scenes` wait meanwhile.

    Args:
        root (str): replaced if it exists.
        composers (dict[str, SceneComposer]): "train" and "val".
        description (dict): "counts" (part -> number of images), "seed" (int), and whatever else the
            manifest should tell.

    Raises:
        FileExistsError: `root` holds something else than a data set of scenes.
        OSError: the disk is full or not writable; nothing is left that could be taken for complete.
    """
    if os.path.isdir(root) and os.listdir(root) and not os.path.exists(os.path.join(root, MANIFEST)):
        raise FileExistsError(
            f"{root!r} holds something else than scenes: choose another name or folder"
        )
    os.makedirs(os.path.dirname(os.path.abspath(root)), exist_ok=True)
    with file_lock(root):
        _write_scenes(root, composers, description)


def _write_scenes(root, composers, description):
    partial = f"{os.path.abspath(root)}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        files = {}
        for part, composer in composers.items():
            count = description["counts"][part]
            files.update(_write_part(partial, part, composer, count, description["seed"]))
        any_composer = next(iter(composers.values()))
        manifest = {
            **description,
            "format": FORMAT,
            "thing_classes": list(any_composer.objects.classes),
            "stuff_classes": list(any_composer.backgrounds.stuff_classes),
            "files": files,
        }
        # Through JSON and back: as it will be read.
        manifest["checksum"] = _checksum(json.loads(json.dumps(manifest)))
        _write(partial, MANIFEST, json.dumps(manifest, indent=1).encode())
        shutil.rmtree(root, ignore_errors=True)
        os.replace(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(root, name, data):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return name, (len(data), zlib.crc32(data))


def _encode(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


def _write_part(root, part, composer, count, seed):
    """Writes one part; returns {file name: (bytes, CRC32)}."""
    coco = {"images": [], "annotations": [], "categories": []}
    for class_id, name in enumerate(composer.objects.classes):
        coco["categories"].append({"id": class_id + 1, "name": name})
    files = {}
    draw = functools.partial(_draw, root, part, composer, seed)
    # Closed first where drawing fails or is interrupted: what waits is not drawn then.
    with _open_pool(count) as pool, closing(pool.map(draw, range(count), chunksize=8)) as drawn:
        progress = tqdm(drawn, total=count, desc=f"drawing {part} scenes", mininterval=1)
        for files_of_one, image, objects in progress:
            files.update(files_of_one)
            coco["images"].append(image)
            for annotation in objects:
                number = {"id": len(coco["annotations"]) + 1, "image_id": image["id"]}
                coco["annotations"].append({**number, **annotation})
    files.update([_write(root, f"instances_{part}.json", json.dumps(coco).encode())])
    return files


def _open_pool(count):
    """Returns an executor: forked processes where the work is worth it, since drawing mostly holds the
    interpreter's lock; threads otherwise."""
    workers = min(8, os.cpu_count() or 1)
    if count < 100 or workers == 1 or not sys.platform.startswith("linux"):
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))


def _draw(root, part, composer, seed, index):
    """Draws and writes one scene.

    Returns:
        (list, dict, list[dict]): its files, as :func:`_write` returns each; its COCO image; its COCO
        annotations without their ids.
    """
    scene = composer.compose(np.random.default_rng([seed, _SEED_OF_PART[part], index]))
    stem = f"{index:06d}"
    images = [
        ("images", "jpg", _encode(scene.image, format="JPEG", quality=95, subsampling=0)),
        ("semantic", "png", _encode(scene.semantic, format="PNG")),
        ("disparity", "png", _encode(make_stored_disparity(scene.disparity), format="PNG")),
    ]
    files = [_write(root, f"{part}/{kind}/{stem}.{end}", data) for kind, end, data in images]
    height, width = scene.semantic.shape
    image = {"id": index + 1, "file_name": f"{stem}.jpg", "height": height, "width": width}
    return files, image, [_annotate(item) for item in scene.objects]


def _annotate(item):
    mask = mask_util.encode(np.asfortranarray(item.mask, dtype=np.uint8))
    return {
        "category_id": item.class_id + 1,
        "iscrowd": 0,
        "area": int(mask_util.area(mask)),
        "bbox": mask_util.toBbox(mask).tolist(),
        "segmentation": {**mask, "counts": mask["counts"].decode("ascii")},
    }
