"""The losses of YOLO-v3 (Redmon and Farhadi 2018, sec. 2.1 and 2.2).

Shape shorthand in this module:
    N: images of a batch; A: anchors of a scale (3); K: classes
    H, W: height and width of a scale's grid; R: predictions of all scales together
    Boxes are x1, y1, x2, y2 or, as "cxcywh", centre and size; all in pixels of the padded image.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, pairwise_iou

from .decoding import convert_to_corners, decode_predictions

__all__ = ["compute_yolo_losses"]


def _best_anchor(sizes, anchors):
    """(G, 2) sizes -> (G,) index of the anchor (B, 2) that overlaps most when centred alike."""
    smaller = torch.minimum(sizes[:, None], anchors[None]).prod(dim=-1)
    union = sizes.prod(dim=-1)[:, None] + anchors.prod(dim=-1)[None] - smaller
    return (smaller / union.clamp(min=1e-9)).argmax(dim=1)


def compute_yolo_losses(raw, targets, *, anchors, strides, image_size, ignore_threshold):
    """Computes the losses of YOLO-v3 (sec. 2.1 and 2.2), summed over predictions, averaged over images.

    Each object belongs to the anchor whose shape fits it best, in the cell of its centre. Centre: binary
    cross-entropy of tx and ty, whose gradient, sigmoid(tx) minus its target, is Darknet's; size: half
    squared errors of tw and th; both times 2 minus the share of the image that the object covers.
    Objectness and classes: binary cross-entropy. Predictions that overlap an object by more than
    `ignore_threshold` without having been assigned to one say nothing about objectness. Of several
    objects that belong to one prediction, the last gives the box, and all give their classes.

    Args:
        raw (list[Tensor]): for each scale (N, A * (5 + K), H, W) float.
        targets (list[Instances]): N, with `gt_boxes` in pixels of the padded image and `gt_classes`.
        anchors (list[Tensor]): for each scale (A, 2), width and height in pixels.
        strides (list[int]): for each scale, pixels.
        image_size ((int, int)): height and width of the padded images, pixels.
        ignore_threshold (float): intersection over union, 0 to 1.

    Returns:
        dict[str, Tensor]: "loss_box", "loss_objectness" and "loss_cls", scalars.
    """
    decoded = [decode_predictions(*scale) for scale in zip(raw, anchors, strides, strict=True)]
    # Of each scale: where its predictions start among all R, and the width of its grid.
    starts = [0]
    for boxes, _, _ in decoded:
        starts.append(starts[-1] + boxes.shape[1])
    boxes, objectness, logits = (torch.cat(parts, dim=1) for parts in zip(*decoded, strict=True))
    offsets = torch.cat([_offsets(x, len(a)) for x, a in zip(raw, anchors, strict=True)], dim=1)
    losses = {"loss_box": 0.0, "loss_objectness": 0.0, "loss_cls": 0.0}
    for index, target in enumerate(targets):
        gt = target.gt_boxes.tensor.to(boxes)
        centres, sizes = (gt[:, :2] + gt[:, 2:]) / 2, (gt[:, 2:] - gt[:, :2]).clamp(min=1e-3)
        rows, wanted = _assign(centres, sizes, raw, anchors, strides, starts)
        with torch.no_grad():
            overlap = pairwise_iou(Boxes(convert_to_corners(boxes[index])), Boxes(gt))
            near = (
                overlap.max(dim=1).values > ignore_threshold
                if len(gt)
                else overlap.new_zeros(len(overlap), dtype=torch.bool)
            )
            is_object = torch.zeros_like(objectness[index])
            is_object[rows] = 1.0
            counted = ~near | (is_object > 0)
        error = F.binary_cross_entropy_with_logits(objectness[index], is_object, reduction="none")
        losses["loss_objectness"] = losses["loss_objectness"] + error[counted].sum()
        weight = 2 - sizes.prod(dim=1) / (image_size[0] * image_size[1])
        slots, slot_of, last = _group_by_slot(rows)
        losses["loss_box"] = losses["loss_box"] + _box_loss(
            offsets[index, slots], wanted[last], weight[last]
        )
        classes = logits.new_zeros(len(slots), logits.shape[-1])
        classes[slot_of, target.gt_classes] = 1.0
        losses["loss_cls"] = losses["loss_cls"] + F.binary_cross_entropy_with_logits(
            logits[index, slots], classes, reduction="sum"
        )
    return {name: loss / len(targets) for name, loss in losses.items()}


def _group_by_slot(rows):
    """(G,) rows that objects belong to -> (S,) the distinct ones, (G,) where among them each object's
    is, (S,) index of the last object of each."""
    slots, slot_of = rows.unique(return_inverse=True)
    last = torch.zeros_like(slots).scatter_reduce(
        0, slot_of, torch.arange(len(rows), device=rows.device), "amax"
    )
    return slots, slot_of, last


def _box_loss(found, wanted, weight):
    """(S, 4) tx, ty, tw, th; (S, 4) sigmoid(tx), sigmoid(ty), tw, th that are wanted; (S,) -> scalar."""
    centre = F.binary_cross_entropy_with_logits(found[:, :2], wanted[:, :2], reduction="none")
    size = (found[:, 2:] - wanted[:, 2:]).square() / 2
    return (weight * (centre + size).sum(dim=1)).sum()


def _offsets(raw, num_anchors):
    """(N, A * (5 + K), H, W) -> (N, A * H * W, 4): tx, ty, tw, th."""
    n, _, height, width = raw.shape
    raw = raw.float().reshape(n, num_anchors, -1, height, width)[:, :, :4]
    return raw.permute(0, 1, 3, 4, 2).flatten(1, 3)


def _assign(centres, sizes, raw, anchors, strides, starts):
    """Rows, among all R predictions, that G objects belong to, and what these should predict.

    Returns:
        (Tensor, Tensor): (G,) int64, and (G, 4) float: sigmoid(tx), sigmoid(ty), tw, th.
    """
    best = _best_anchor(sizes, torch.cat(anchors))
    rows, wanted, passed = torch.zeros_like(best), sizes.new_zeros(len(best), 4), 0
    for scale, (x, scale_anchors, stride) in enumerate(zip(raw, anchors, strides, strict=True)):
        mine = (best >= passed) & (best < passed + len(scale_anchors))
        anchor = best[mine] - passed
        passed += len(scale_anchors)
        height, width = x.shape[-2:]
        position = centres[mine] / stride
        cell = position.floor()
        cell[:, 0].clamp_(0, width - 1)
        cell[:, 1].clamp_(0, height - 1)
        column, row = cell.long().unbind(dim=1)
        rows[mine] = starts[scale] + (anchor * height + row) * width + column
        shape = (sizes[mine] / scale_anchors[anchor]).log()
        wanted[mine] = torch.cat([(position - cell).clamp(0, 1), shape], dim=1)
    return rows, wanted
