"""NanoDet-g: a one-stage detector whose boxes are distributions of distances.

Shape shorthand in this module:
    N: images of a batch; K: classes; B: bins of a distance; R: locations of all levels together
    Boxes are x1, y1, x2, y2, in pixels of the padded image.
"""

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances

from .assigner import assign_atss
from .head import NanoDetHead, decode_boxes, decode_distances, make_centres
from .losses import compute_losses

__all__ = ["NanoDet"]


@META_ARCH_REGISTRY.register()
class NanoDet(DenseDetector):
    """NanoDet on any pyramid of levels of equal width.

    Args:
        backbone (Backbone): whose outputs are the levels.
        head (NanoDetHead): for them, fine to coarse.
        num_classes (int): K.
        score_threshold (float): least score of a detection.
        topk_candidates (int): best candidates of a level that are looked at.
        nms_threshold (float): intersection over union at which the less certain of two goes.
        max_detections (int): an image.
        atss_topk (int): see :func:`assign_atss`.
        loss_weights (sequence[float]): see :func:`compute_losses`.
        pixel_mean, pixel_std (list[float]): of the channels.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        num_classes,
        pixel_mean,
        pixel_std,
        score_threshold=0.05,
        topk_candidates=1000,
        nms_threshold=0.6,
        max_detections=100,
        atss_topk=9,
        loss_weights=(1.0, 0.25, 2.0),
    ):
        super().__init__(backbone, head, pixel_mean=pixel_mean, pixel_std=pixel_std)
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.atss_topk = atss_topk
        self.loss_weights = tuple(loss_weights)

    @classmethod
    def from_config(cls, cfg):
        backbone, nanodet = build_backbone(cfg), cfg.MODEL.NANODET
        widths = {shape.channels for shape in backbone.output_shape().values()}
        if len(widths) != 1:
            raise ValueError(f"NanoDet needs levels of equal width, not of {sorted(widths)} channels")
        head = NanoDetHead(
            levels=len(backbone.output_shape()),
            channels=widths.pop(),
            num_classes=nanodet.NUM_CLASSES,
            bins=nanodet.BINS,
        )
        return {
            "backbone": backbone,
            "head": head,
            "num_classes": nanodet.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "score_threshold": nanodet.SCORE_THRESH_TEST,
            "topk_candidates": nanodet.TOPK_CANDIDATES_TEST,
            "nms_threshold": nanodet.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "atss_topk": nanodet.ATSS_TOPK,
            "loss_weights": nanodet.LOSS_WEIGHTS,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Computes the losses of a batch, dict[str, Tensor]; see :func:`compute_losses`.

        Raises:
            ValueError: an object is of a class that the network does not have.
        """
        largest = max((int(x.gt_classes.max()) for x in gt_instances if len(x)), default=0)
        if largest >= self.num_classes:
            raise ValueError(
                f"MODEL.NANODET.NUM_CLASSES is {self.num_classes}, but an object is of class {largest}, "
                f"counted from 0: set it to at least {largest + 1}"
            )
        centres = self._centres(features)
        strides = [
            level.new_full((len(points),), stride)
            for level, points, stride in zip(features, centres, self.strides, strict=True)
        ]
        with torch.no_grad():
            assigned = [
                assign_atss(centres, self.strides, x.gt_boxes.tensor, topk=self.atss_topk)
                for x in gt_instances
            ]
        logits, distances = (torch.cat(parts, dim=1) for parts in zip(*predictions, strict=True))
        return compute_losses(
            logits.float(),
            distances.float(),
            torch.cat(centres),
            torch.cat(strides).float(),
            gt_instances,
            assigned,
            weights=self.loss_weights,
        )

    def forward_inference(self, images, features, predictions):
        """Detects objects: list[Instances] of each image, best first, with `pred_boxes`, `scores` and
        `pred_classes`."""
        centres = self._centres(features)
        return [
            self._detect([(logits[n], distances[n]) for logits, distances in predictions], centres, size)
            for n, size in enumerate(images.image_sizes)
        ]

    def _centres(self, features):
        return [
            make_centres(*level.shape[-2:], stride, level.device)
            for level, stride in zip(features, self.strides, strict=True)
        ]

    def _detect(self, predictions, centres, image_size):
        """Of one image: per level class logits (L, K), distance logits (L, 4, B) and centres (L, 2)."""
        found = []
        for (logits, distances), points, stride in zip(predictions, centres, self.strides, strict=True):
            scores = logits.float().sigmoid()
            rows, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
            scores, order = scores[rows, classes].sort(descending=True, stable=True)
            order, scores = order[: self.topk_candidates], scores[: self.topk_candidates]
            rows, classes = rows[order], classes[order]
            boxes = decode_boxes(points[rows], decode_distances(distances[rows].float()) * stride)
            found.append((boxes, scores, classes))
        boxes, scores, classes = map(torch.cat, zip(*found, strict=True))
        keep = batched_nms(boxes, scores, classes, self.nms_threshold)[: self.max_detections]
        return Instances(
            image_size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
        )
