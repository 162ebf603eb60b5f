"""Which locations belong to which object.

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training
Sample Selection", CVPR 2020.

Shape shorthand in this module:
    G: objects of an image; R: locations of all levels together; T: candidates of an object
"""

import torch
from detectron2.structures import Boxes, pairwise_iou

__all__ = ["assign_atss"]

_ANCHOR = 5.0  # side of a location's square, in strides, by whose overlap objects choose locations


def assign_atss(centres, strides, boxes, topk=9):
    """Assigns locations to objects (ATSS algorithm 1).

    The candidates of an object are the `topk` locations of each level nearest to its centre. Those
    belong to it whose squares (5 strides wide) overlap it by at least the mean plus the standard
    deviation of its candidates' overlaps, and whose centres lie inside it. A location that several
    objects would have belongs to the one that its square overlaps most.

    Args:
        centres (list[Tensor]): of each level (L, 2) float, x and y in pixels.
        strides (list[int]): of each level.
        boxes (Tensor): (G, 4) float, x1, y1, x2, y2 in pixels.
        topk (int): see above.

    Returns:
        Tensor: (R,) int64, index of the object, -1 for background.
    """
    points = torch.cat(centres)
    nothing = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if len(boxes) == 0:
        return nothing
    sides = torch.cat(
        [x.new_full((len(x), 1), _ANCHOR * s) for x, s in zip(centres, strides, strict=True)]
    )
    squares = torch.cat([points - sides / 2, points + sides / 2], dim=1)
    overlaps = pairwise_iou(Boxes(boxes), Boxes(squares))
    candidates = _find_candidates(centres, boxes, topk)
    of_candidates = overlaps.gather(1, candidates)
    threshold = of_candidates.mean(dim=1) + of_candidates.std(dim=1)
    nearest = points[candidates]  # (G, T, 2)
    inside = ((nearest > boxes[:, None, :2]) & (nearest < boxes[:, None, 2:])).all(dim=2)
    chosen = inside & (of_candidates >= threshold[:, None])
    kept = torch.full_like(overlaps, -1.0)
    kept.scatter_(1, candidates, torch.where(chosen, of_candidates, -1.0))
    best, owner = kept.max(dim=0)
    return torch.where(best >= 0, owner, nothing)


def _find_candidates(centres, boxes, topk):
    """(G, T) int64: locations, among all R, that are nearest to each object."""
    middles, found, passed = (boxes[:, :2] + boxes[:, 2:]) / 2, [], 0
    for points in centres:
        distances = torch.cdist(middles, points)
        found.append(distances.topk(min(topk, len(points)), largest=False).indices + passed)
        passed += len(points)
    return torch.cat(found, dim=1)
