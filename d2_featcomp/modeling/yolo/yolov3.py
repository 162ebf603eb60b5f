"""YOLO-v3, the network that BaF is about.

Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv 1804.02767, 2018.

Shape shorthand in this module:
    N: images of a batch; A: anchors of a scale (3); K: classes
    Boxes are x1, y1, x2, y2, in pixels.
"""

import math

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from ...codecs import BitstreamError
from ..norms import require_norm
from .decoding import convert_to_corners, decode_predictions
from .head import YOLOV3Head
from .losses import compute_yolo_losses

__all__ = ["YOLOV3"]


@META_ARCH_REGISTRY.register()
class YOLOV3(nn.Module):
    """YOLO-v3 and YOLO-v3-tiny, by backbone.

    Args:
        backbone (Backbone): whose outputs are the scales.
        head (YOLOV3Head): built for them.
        anchors (list[list[(float, float)]]): for each scale, coarse to fine, width and height in pixels.
        num_classes (int): K.
        pixel_mean, pixel_std (list[float]): of the channels, (0, 0, 0) and (255, 255, 255) for Darknet.
        letterbox (int): side, in pixels, of the square in whose middle each image is put, on gray;
            0: images keep their sizes, padded with gray right and at the bottom.
        ignore_threshold (float): see :func:`compute_yolo_losses`.
        score_threshold (float): least objectness times class probability.
        nms_threshold (float): intersection over union at which the less certain of two goes.
        max_detections (int): an image.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        anchors,
        num_classes,
        pixel_mean,
        pixel_std,
        letterbox=0,
        ignore_threshold=0.5,
        score_threshold=0.005,
        nms_threshold=0.45,
        max_detections=100,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        shapes = sorted(backbone.output_shape().items(), key=lambda item: -item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.strides = [shape.stride for _, shape in shapes]
        # Of sides of padded images, so that finer scales are exactly twice as large; not all backbones
        # say so themselves.
        self.multiple = math.lcm(self.strides[0], backbone.size_divisibility or 1)
        if letterbox % self.multiple:
            raise ValueError(
                f"MODEL.YOLOV3.LETTERBOX is {letterbox}: it must be a multiple of {self.multiple}, or 0"
            )
        for index, scale in enumerate(anchors):
            self.register_buffer(f"anchors_{index}", torch.tensor(scale, dtype=torch.float32), False)
        self.num_classes = num_classes
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.letterbox = letterbox
        self.ignore_threshold = ignore_threshold
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    @classmethod
    def from_config(cls, cfg):
        yolo = cfg.MODEL.YOLOV3
        require_norm("YOLOV3.NORM", yolo.NORM)
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": YOLOV3Head(cfg, backbone.output_shape()),
            "anchors": yolo.ANCHORS,
            "num_classes": yolo.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "letterbox": yolo.LETTERBOX,
            "ignore_threshold": yolo.IGNORE_THRESHOLD,
            "score_threshold": yolo.SCORE_THRESH_TEST,
            "nms_threshold": yolo.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self):
        return self.pixel_mean.device

    @property
    def anchors(self):
        """list[Tensor]: for each scale, coarse to fine, (A, 2): width and height in pixels."""
        return [getattr(self, f"anchors_{index}") for index in range(len(self.strides))]

    def forward(self, batched_inputs):
        """Computes losses in training, else detections.

        Args:
            batched_inputs (list[dict]): each with "image", (3, height, width) Tensor; in training
                "instances" with `gt_boxes` and `gt_classes`; else optionally "height" and "width", the
                size in pixels that boxes are given in.

        Returns:
            dict[str, Tensor]: losses, in training; else list[dict], each with "instances" that have
            `pred_boxes`, `scores` and `pred_classes`.

        Raises:
            BitstreamError: features that were decoded are of images in another letterbox.
        """
        images = self.preprocess_image(batched_inputs)
        raw = self.predict(self.backbone(images.tensor))
        if self.training:
            return self.losses(raw, images, [record["instances"] for record in batched_inputs])
        padded = tuple(images.tensor.shape[-2:])
        self._require_size(raw, padded)
        return [
            {"instances": self._finish(instances, record, size, padded)}
            for instances, record, size in zip(
                self.detect(raw), batched_inputs, images.image_sizes, strict=True
            )
        ]

    def _require_size(self, raw, padded):
        found = self._find_padded_size(raw)
        if found != padded:
            raise BitstreamError(
                f"these features are of an image padded to {found} pixels (height, width); here "
                f"MODEL.YOLOV3.LETTERBOX, {self.letterbox}, pads it to {padded}: set it as on the edge"
            )

    def _find_padded_size(self, raw):
        return tuple(side * self.strides[0] for side in raw[0].shape[-2:])

    def predict(self, features):
        """Computes predictions: dict[str, Tensor] of the backbone -> list[Tensor] of
        :class:`YOLOV3Head`."""
        return self.head([features[name] for name in self.in_features])

    def losses(self, raw, images, instances):
        """Computes :func:`compute_yolo_losses`; boxes refer to the unpadded images.

        Raises:
            ValueError: an object is of a class that the network does not have.
        """
        self._require_classes(instances)
        padded = tuple(images.tensor.shape[-2:])
        targets = []
        for target, size in zip(instances, images.image_sizes, strict=True):
            left, top = self._origin(size, padded)
            moved = Instances(padded, gt_classes=target.gt_classes.to(self.device))
            shift = torch.tensor([left, top, left, top], device=self.device)
            moved.gt_boxes = Boxes(target.gt_boxes.tensor.to(self.device) + shift)
            targets.append(moved)
        return compute_yolo_losses(
            raw,
            targets,
            anchors=self.anchors,
            strides=self.strides,
            image_size=padded,
            ignore_threshold=self.ignore_threshold,
        )

    def _require_classes(self, instances):
        largest = max((int(x.gt_classes.max()) for x in instances if len(x)), default=0)
        if largest >= self.num_classes:
            raise ValueError(
                f"MODEL.YOLOV3.NUM_CLASSES is {self.num_classes}, but an object is of class {largest}, "
                f"counted from 0: set it to at least {largest + 1}"
            )

    def detect(self, raw):
        """Detects objects in raw predictions.

        Args:
            raw (list[Tensor]): as :class:`YOLOV3Head` gives them.

        Returns:
            list[Instances]: of each image, in pixels of the padded image, best first.
        """
        decoded = [
            decode_predictions(*scale) for scale in zip(raw, self.anchors, self.strides, strict=True)
        ]
        boxes, objectness, logits = (torch.cat(parts, dim=1) for parts in zip(*decoded, strict=True))
        size = self._find_padded_size(raw)
        scores = objectness.sigmoid()[..., None] * logits.sigmoid()
        return [
            self._select(convert_to_corners(image_boxes), image_scores, size)
            for image_boxes, image_scores in zip(boxes, scores, strict=True)
        ]

    def _select(self, boxes, scores, size):
        rows, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        boxes, scores = boxes[rows], scores[rows, classes]
        keep = batched_nms(boxes, scores, classes, self.nms_threshold)[: self.max_detections]
        return Instances(
            size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
        )

    def _finish(self, instances, record, size, padded):
        """From pixels of the padded image to those of the original one."""
        left, top = self._origin(size, padded)
        boxes = instances.pred_boxes.tensor - instances.pred_boxes.tensor.new_tensor(
            [left, top, left, top]
        )
        inner = Instances(tuple(size), **{**instances.get_fields(), "pred_boxes": Boxes(boxes)})
        return detector_postprocess(inner, record.get("height", size[0]), record.get("width", size[1]))

    def _origin(self, size, padded):
        """Computes where an image of height and width `size` starts in its padded image: x, y in
        pixels."""
        if not self.letterbox:
            return 0, 0
        return (padded[1] - size[1]) // 2, (padded[0] - size[0]) // 2

    def describe_preprocessing(self):
        """Tells apart what sizes of images do not, for the fingerprint of bitstreams: where an image is
        put that fills the letterbox nearly."""
        return "" if self.letterbox else "corner"

    def preprocess_image(self, batched_inputs):
        """Scales, letterboxes or pads images.

        Args:
            batched_inputs (list[dict]): each with "image", (3, height, width) Tensor.

        Returns:
            ImageList: (N, 3, h, w) float; `image_sizes` are those of the images themselves.

        Raises:
            ValueError: an image does not fit into the letterbox.
        """
        images = [record["image"].to(self.device) for record in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        sizes = [tuple(image.shape[-2:]) for image in images]
        if self.letterbox:
            height = width = self.letterbox
            if any(max(size) > self.letterbox for size in sizes):
                raise ValueError(
                    f"an image of {sizes} pixels (height, width) is larger than the letterbox: set "
                    f"INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST to MODEL.YOLOV3.LETTERBOX, "
                    f"{self.letterbox}"
                )
        else:
            height, width = (
                -(-max(side) // self.multiple) * self.multiple for side in zip(*sizes, strict=True)
            )
        gray = (127.5 - self.pixel_mean) / self.pixel_std
        batch = gray.expand(len(images), len(images[0]), height, width).clone()
        for row, image, size in zip(batch, images, sizes, strict=True):
            left, top = self._origin(size, (height, width))
            row[:, top : top + size[0], left : left + size[1]] = image
        return ImageList(batch, sizes)
