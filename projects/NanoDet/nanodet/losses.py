"""The losses of NanoDet.

Li et al., "Generalized Focal Loss", NeurIPS 2020: quality focal loss (eq. 4, 5) and distribution focal
loss (eq. 6); Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

Shape shorthand in this module:
    N: images of a batch; K: classes; B: bins of a distance; R: locations of all levels together
    P: locations, of all images, that belong to an object
"""

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from fvcore.nn import giou_loss

from .head import decode_boxes, decode_distances

__all__ = ["compute_losses", "distribution_focal_loss", "quality_focal_loss"]


def quality_focal_loss(logits, quality, beta=2.0):
    """Computes the quality focal loss, |y - sigma|^beta times the cross-entropy (GFL eq. 4).

    Args:
        logits (Tensor): any shape, float.
        quality (Tensor): same shape, y in 0..1: the overlap where a location belongs to an object of
            that class, else 0.
        beta (float): how much less easy examples count.

    Returns:
        Tensor: scalar, the sum.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return ((quality - logits.sigmoid()).abs() ** beta * entropy).sum()


def distribution_focal_loss(logits, target):
    """Computes the distribution focal loss: cross-entropy with a distance's two bins (GFL eq. 6).

    Args:
        logits (Tensor): (..., B) float.
        target (Tensor): (...) float, 0..B - 1.

    Returns:
        Tensor: (...) float.
    """
    below = target.floor().clamp(max=logits.shape[-1] - 2).long()
    share = target - below
    log_probability = logits.log_softmax(dim=-1)
    pair = [log_probability.gather(-1, (below + k)[..., None])[..., 0] for k in (0, 1)]
    return -(pair[0] * (1 - share) + pair[1] * share)


def compute_losses(logits, distances, centres, strides, targets, assigned, *, weights):
    """Computes the losses of a batch; those of boxes are weighted by the location's class score, and all
    are averaged over what belongs to objects.

    Args:
        logits (Tensor): (N, R, K) float.
        distances (Tensor): (N, R, 4, B) float.
        centres (Tensor): (R, 2) float, pixels.
        strides (Tensor): (R,) float, pixels.
        targets (list[Instances]): N, with `gt_boxes` (pixels) and `gt_classes`.
        assigned (list[Tensor]): N, each (R,) int64: index of the object, or -1.
        weights (sequence[float]): of the three losses.

    Returns:
        dict[str, Tensor]: "loss_qfl", "loss_dfl" and "loss_giou", scalars.
    """
    owners = torch.stack(assigned)
    images, rows = (owners >= 0).nonzero(as_tuple=True)
    owner = owners[images, rows]
    boxes, classes = _gather_targets(targets, images, owner)
    points, stride = centres[rows], strides[rows, None]
    raw = distances[images, rows]
    found = decode_boxes(points, decode_distances(raw) * stride)
    score = logits[images, rows].detach().sigmoid().amax(dim=-1)
    quality = torch.zeros_like(logits)
    overlap = _overlap(found.detach(), boxes)
    quality[images, rows, classes] = overlap
    wanted = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1) / stride
    wanted = wanted.clamp(0, raw.shape[-1] - 1 - 0.1)
    positives = _mean_over_processes(score.new_tensor(float(len(rows)))).clamp(min=1.0)
    total = _mean_over_processes(score.sum()).clamp(min=1e-6)
    of_box = distribution_focal_loss(raw, wanted).mean(dim=1)
    losses = {
        "loss_qfl": quality_focal_loss(logits, quality) / positives,
        "loss_dfl": (of_box * score).sum() / total,
        "loss_giou": (giou_loss(found, boxes) * score).sum() / total,
    }
    return {name: w * loss for w, (name, loss) in zip(weights, losses.items(), strict=True)}


def _gather_targets(targets, images, owner):
    """(P, 4) boxes and (P,) classes of the objects that locations belong to."""
    counts = [len(target) for target in targets]
    starts = torch.tensor([sum(counts[:n]) for n in range(len(counts))], device=owner.device)
    boxes = torch.cat([target.gt_boxes.tensor for target in targets])
    classes = torch.cat([target.gt_classes for target in targets])
    index = starts[images] + owner
    return boxes[index], classes[index]


def _overlap(found, boxes):
    """(P, 4), (P, 4) -> (P,) intersection over union."""
    low, high = torch.maximum(found[:, :2], boxes[:, :2]), torch.minimum(found[:, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1) for x in (found, boxes)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def _mean_over_processes(value):
    if comm.get_world_size() == 1:
        return value
    torch.distributed.all_reduce(value)
    return value / comm.get_world_size()
