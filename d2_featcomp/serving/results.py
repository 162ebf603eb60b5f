"""Results of the cloud sub-model, as JSON and pictures."""

import base64
import contextlib
import io
import json
import os

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from ..deploy.classes import make_categories
from ..deploy.pictures import collect_metadata, draw_outputs
from ..files import write_bytes, write_text
from ..images import IMAGE_SUFFIXES, read_picture

__all__ = ["draw_result", "make_result", "read_result", "write_result"]

DISPARITY_SCALE = 256  # of 16-bit maps: value = 256 * disparity + 1, as Cityscapes has it


def make_result(name, output, class_names=(), threshold=0.0):
    """Makes the JSON result of an image from the network's output.

    Args:
        name (str): of the image.
        output (dict): of :meth:`cloud_inference` for one bitstream.
        class_names (sequence[str or dict]): of the instances' classes, if known: names, or categories as
            :func:`choose_categories` returns.
        threshold (float): instances of a lower score are left out.

    Returns:
        dict: of JSON's own types: "image_id" (the name), "height", "width", and what the network found:
        "instances" (as COCO's results: "category_id", the data set's or counted from 1, "category" if
        known, "bbox" x, y, width, height in pixels, "score", "segmentation" run-length coded; but for
        "image_id", the name, see :func:`write_coco_results`), "segments" (of panoptic
        networks), "maps": PNG files in base64: "segmentation" and "panoptic" (label of each pixel),
        "disparity" (16 bits, 256 * pixels + 1), "reconstruction" (RGB).
    """
    height, width = output["bitstream"].sizes.original
    found = {"image_id": name, "height": height, "width": width}
    if "instances" in output:
        instances = output["instances"].to("cpu")
        if threshold:
            instances = instances[instances.scores >= threshold]
        found["instances"] = instances_to_coco_json(instances, name)
        categories = make_categories(class_names)
        for instance in found["instances"]:
            index = instance["category_id"]
            instance["category_id"] = index + 1
            if index < len(categories):
                instance["category_id"] = categories[index]["id"]
                instance["category"] = categories[index]["name"]
    maps = {}
    if "sem_seg" in output:
        maps["segmentation"] = _png(output["sem_seg"].argmax(dim=0))
    if "panoptic_seg" in output:
        labels, segments = output["panoptic_seg"]
        maps["panoptic"] = _png(labels)
        found["segments"] = [dict(segment) for segment in segments]
    if "disparity" in output:
        maps["disparity"] = _png((output["disparity"] * DISPARITY_SCALE + 1).round().clamp(0, 65535))
    if "reconstruction" in output:
        colours = (output["reconstruction"].clamp(0, 1) * 255).round().byte()
        maps["reconstruction"] = _png(colours.permute(1, 2, 0))
    if maps:
        found["maps"] = {key: base64.b64encode(data).decode() for key, data in maps.items()}
    return json.loads(json.dumps(found, default=_number))


def _number(value):
    return value.item()


def _png(values):
    array = values.detach().cpu().to(torch.int64).numpy()
    depth = np.uint8 if array.max(initial=0) < 256 else np.uint16
    file = io.BytesIO()
    Image.fromarray(array.astype(depth)).save(file, format="PNG")
    return file.getvalue()


def write_result(result, folder):
    """Writes `NAME.json`, and each map as the file `NAME_<map>.png` that it then names; the JSON last.

    Args:
        result (dict): from :func:`make_result`.
        folder (str): where to.

    Returns:
        str: path of the JSON file.

    Raises:
        OSError: it cannot be written; no map is left behind.
    """
    name = result["image_id"]
    path = os.path.join(folder, f"{name}.json")
    files = {key: f"{name}_{key}.png" for key in result.get("maps", {})}
    try:
        for key, data in result.get("maps", {}).items():
            write_bytes(base64.b64decode(data), os.path.join(folder, files[key]))
        write_text(json.dumps({**result, "maps": files} if files else result), path)
    except OSError:
        for file in files.values():  # that nothing names
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, file))
        raise
    return path


def read_result(path):
    """dict: that :func:`write_result` was given.

    Raises:
        FileNotFoundError: it is not there. ValueError: it is damaged.
    """
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    if not isinstance(result, dict) or not isinstance(result.get("maps", {}), dict):
        raise ValueError(f"{path!r} is no result")
    for key, name in result.get("maps", {}).items():
        with open(os.path.join(os.path.dirname(path), name), "rb") as file:
            result["maps"][key] = base64.b64encode(file.read()).decode()
    return result


def draw_result(output, name, images, folder, class_names=(), threshold=0.5):
    """Draws what was found onto the original image; writes `NAME_found.png`.

    Args:
        output (dict): of :meth:`cloud_inference` for one bitstream.
        name (str): of the image, without suffix.
        images (str): folder of the originals.
        folder (str): where to write.
        class_names (sequence[str or dict]): for labels, as :func:`make_result` takes them.
        threshold (float): instances of a lower score are left out.

    Raises:
        FileNotFoundError: there is no image of that name.
    """
    wanted = {name.lower(), *(f"{name}{suffix}".lower() for suffix in IMAGE_SUFFIXES)}
    path = next((p for p in sorted(os.listdir(images)) if p.lower() in wanted), None)
    if path is None:
        raise FileNotFoundError(f"no image {name!r} in {images!r} ({', '.join(IMAGE_SUFFIXES)})")
    metadata = collect_metadata(output, make_categories(class_names))
    picture = draw_outputs(read_picture(os.path.join(images, path)), output, metadata, threshold)
    Image.fromarray(picture).save(os.path.join(folder, f"{name}_found.png"))
