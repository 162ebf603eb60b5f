"""Pictures of instances, segments and keypoints on the image in which they were found."""

import dataclasses

import numpy as np
from detectron2.data import Metadata, MetadataCatalog, detection_utils
from detectron2.structures import BoxMode, Instances
from PIL import Image, ImageDraw

from .colours import class_colours, contrasting_colour
from .layout import MIN_SIDE, load_font, zoom_to

__all__ = ["collect_metadata", "draw_outputs", "draw_truth", "place_label"]

_OPACITY = 0.4  # of a mask's colour
_LEAST_SHARE = 0.005  # of the image, of a segment that gets a label
_KEYPOINT_SCORE = 0.05  # below, a keypoint is not drawn


@dataclasses.dataclass
class _Shape:
    """What is drawn of one object.

    Attributes:
        label (str): name of the class and score.
        colour ((3,) uint8): RGB, of the class.
        corners (ndarray or None): (4, 2) x, y of the box's corners, px.
        mask (ndarray or None): (H, W) bool.
        keypoints (ndarray or None): (K, 2) x, y, px.
    """

    label: str
    colour: np.ndarray
    corners: np.ndarray | None = None
    mask: np.ndarray | None = None
    keypoints: np.ndarray | None = None

    @property
    def area(self):
        if self.mask is not None:
            return int(self.mask.sum())
        return 0 if self.corners is None else float(np.ptp(self.corners, axis=0).prod())


def draw_outputs(image, outputs, metadata, threshold):
    """Draws what a network found onto an image, one colour a class.

    Args:
        image (ndarray): (H, W, 3) uint8 RGB.
        outputs (dict): of one image, from a Detectron2 network in evaluation mode.
        metadata (Metadata): names and colours, of :func:`collect_metadata`.
        threshold (float): instances of a lower score are left out.

    Returns:
        ndarray: (k * H, k * W, 3) uint8 RGB; k enlarges small images, to leave room for the labels.
    """
    if "panoptic_seg" in outputs:
        return _draw(image, _panoptic_shapes(*outputs["panoptic_seg"], metadata))
    shapes = []
    if "sem_seg" in outputs:
        shapes = _semantic_shapes(outputs["sem_seg"].argmax(dim=0).cpu().numpy(), metadata)
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        shapes += _instance_shapes(instances[instances.scores >= threshold], metadata)
    return _draw(image, shapes)


def draw_truth(image, annotations, metadata):
    """Draws annotated objects as :func:`draw_outputs` draws those that were found.

    Args:
        image (ndarray): (H, W, 3) uint8 RGB.
        annotations (list[dict]): in Detectron2's format; those with `iscrowd` are left out.
        metadata (Metadata): names and colours, of :func:`collect_metadata`.

    Returns:
        ndarray: as of :func:`draw_outputs`.
    """
    annotations = [dict(a) for a in annotations if not a.get("iscrowd", 0)]
    for annotation in annotations:
        if "keypoints" in annotation:
            annotation["keypoints"] = np.reshape(annotation["keypoints"], (-1, 3)).tolist()
    if any(a["bbox_mode"] == BoxMode.XYWHA_ABS for a in annotations):
        truth = detection_utils.annotations_to_instances_rotated(annotations, image.shape[:2])
    else:
        truth = detection_utils.annotations_to_instances(annotations, image.shape[:2], "bitmask")
    found = Instances(image.shape[:2])
    for name, values in truth.get_fields().items():  # as a network names and types them
        values = values if name == "gt_boxes" else getattr(values, "tensor", values)
        found.set(name.replace("gt_", "pred_"), values)
    return _draw(image, _instance_shapes(found, metadata))


def collect_metadata(outputs, categories=(), datasets=()):
    """Collects the names and colours by which outputs are drawn; no data set is loaded for them.

    Args:
        outputs (dict): of one image, from a Detectron2 network in evaluation mode.
        categories (sequence[dict]): of the instances' classes, with "name".
        datasets (sequence[str]): names of data sets; what is known of the first that names as many
            classes as are in `outputs` is used.

    Returns:
        Metadata: with a name, at least a number, for each class of a segment in `outputs`.
    """
    count = len(outputs["sem_seg"]) if "sem_seg" in outputs else 0
    if "panoptic_seg" in outputs:
        count = 1 + max((segment["category_id"] for segment in outputs["panoptic_seg"][1]), default=0)
    known = [MetadataCatalog.get(dataset).as_dict() for dataset in datasets]
    known = next((names for names in known if len(names.get("stuff_classes", ())) >= max(count, 1)), {})
    found = {key: known[key] for key in ("stuff_classes", "stuff_colors") if key in known}
    if count:
        found.setdefault("stuff_classes", [str(number) for number in range(count)])
    if categories:
        found["thing_classes"] = [category["name"] for category in categories]
    if "panoptic_seg" in outputs and len(found.get("thing_classes", ())) < count:
        found.setdefault("thing_classes", found["stuff_classes"])
    return Metadata(**found)


def _look(metadata, kind, index):
    """Name and colour of a class; `kind` is "thing" or "stuff"."""
    names = metadata.get(f"{kind}_classes", ())
    colours = metadata.get("stuff_colors", ()) if kind == "stuff" else ()
    colour = colours[index] if index < len(colours) else class_colours(index + 1)[index]
    return names[index] if index < len(names) else str(index), np.uint8(colour)


def _panoptic_shapes(segments, infos, metadata):
    segments, shapes = segments.cpu().numpy(), []
    for info in infos:
        kind = "thing" if info["isthing"] else "stuff"
        shapes.append(_Shape(*_look(metadata, kind, info["category_id"]), mask=segments == info["id"]))
    return shapes


def _semantic_shapes(labels, metadata):
    return [_Shape(*_look(metadata, "stuff", k), mask=labels == k) for k in np.unique(labels).tolist()]


def _instance_shapes(instances, metadata):
    shapes = []
    for index in range(len(instances)):
        name, colour = _look(metadata, "thing", int(instances.pred_classes[index]))
        if instances.has("scores"):
            name += f" {100 * float(instances.scores[index]):.0f}%"
        shape = _Shape(name, colour)
        if instances.has("pred_boxes"):
            shape.corners = _find_corners(instances.pred_boxes.tensor[index].numpy())
        if instances.has("pred_masks"):
            shape.mask = np.asarray(instances.pred_masks[index], bool)
        if instances.has("pred_keypoints"):
            points = instances.pred_keypoints[index].numpy()
            shape.keypoints = points[points[:, 2] > _KEYPOINT_SCORE, :2]
        shapes.append(shape)
    return shapes


def _find_corners(box):
    """(4,) x0, y0, x1, y1, or (5,) centre, size and degrees counter-clockwise -> (4, 2)."""
    if len(box) == 4:
        return box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    x, y, width, height, degrees = box
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2 * (width, height)
    return around @ np.array([[cos, -sin], [sin, cos]]) + (x, y)


def _draw(image, shapes):
    height, width = image.shape[:2]
    zoom = zoom_to(MIN_SIDE, height, width)
    size = width * zoom, height * zoom
    shapes = sorted(shapes, key=lambda shape: -shape.area)
    picture = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    for shape in shapes:
        if shape.mask is not None:
            _blend(picture, shape, size)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        _draw_lines(draw, shape, zoom)
    _draw_labels(draw, shapes, zoom, size)
    return np.asarray(canvas)


def _blend(picture, shape, size):
    mask = np.asarray(Image.fromarray(np.uint8(shape.mask) * 255).resize(size)) > 127
    mixed = (1 - _OPACITY) * picture[mask] + _OPACITY * shape.colour
    picture[mask] = np.round(mixed)
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture[mask & ~inside] = shape.colour


def _draw_lines(draw, shape, zoom):
    colour = tuple(shape.colour.tolist())
    if shape.corners is not None:
        points = [(x, y) for x, y in (shape.corners * zoom).tolist()]
        outline = [*points, *points[:2]]
        draw.line(outline, fill="black", width=4, joint="curve")
        draw.line(outline, fill=colour, width=2, joint="curve")
    for x, y in [] if shape.keypoints is None else (shape.keypoints * zoom).tolist():
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")


def _draw_labels(draw, shapes, zoom, size):
    font = load_font(max(14, min(size) // 40))
    placed = []
    for shape in shapes:
        extent = _find_extent(shape, size)
        if extent is None:
            continue
        _, _, width, height = map(round, font.getbbox(shape.label))
        box = place_label(np.multiply(extent, zoom), (width + 6, height + 5), size, placed)
        placed.append(box)
        x, y, right, bottom = box
        colour = tuple(shape.colour.tolist())
        draw.rectangle((x, y, right - 1, bottom - 1), fill=colour, outline="black")
        draw.text((x + 3, y + 1), shape.label, fill=contrasting_colour(colour), font=font)


def _find_extent(shape, size):
    """x0, y0, x1, y1 beside which the label goes; None: no label."""
    if shape.corners is not None:
        return *shape.corners.min(axis=0), *shape.corners.max(axis=0)
    if shape.mask is None or shape.area < _LEAST_SHARE * shape.mask.size:
        return None
    rows, columns = np.nonzero(shape.mask)  # of a segment: a pixel within, in its middle row
    row = rows[len(rows) // 2]
    columns = columns[rows == row]
    column = columns[len(columns) // 2]
    return column, row, column, row


def place_label(extent, label, size, placed):
    """Chooses where the label of an object goes.

    Args:
        extent (sequence): x0, y0, x1, y1 of the object, px.
        label ((int, int)): width and height of the label.
        size ((int, int)): width and height of the picture.
        placed (list): boxes of earlier labels, as returned.

    Returns:
        (int, int, int, int): x0, y0, x1, y1, at a corner of the object, within the picture if it fits;
        where it covers the least of earlier labels.
    """
    x0, y0, x1, y1 = map(round, extent)
    width, height = label
    boxes = []
    for x in (x0, x1 - width):
        for y in (y0 - height, y0, y1 - height, y1):
            x_in, y_in = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
            boxes.append((x_in, y_in, x_in + width, y_in + height))
    return min(boxes, key=lambda box: sum(_overlap(box, other) for other in placed))


def _overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)
