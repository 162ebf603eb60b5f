"""Decoding of YOLO-v3's raw predictions (Redmon and Farhadi 2018, sec. 2.1).

Shape shorthand in this module:
    N: images of a batch; A: anchors of a scale (3); K: classes
    H, W: height and width of a scale's grid
    Boxes are x1, y1, x2, y2 or, as "cxcywh", centre and size; all in pixels of the padded image.
"""

import torch

__all__ = ["convert_to_corners", "decode_predictions"]

# exp() of the predicted log size stays finite, and no box is wider than this many anchors.
MAX_LOG_SIZE = 8.0


def decode_predictions(raw, anchors, stride):
    """Decodes raw predictions of one scale to boxes and logits (YOLO-v3 sec. 2.1).

    bx = (sigmoid(tx) + cx) * stride and bw = pw * exp(tw); likewise y and h.

    Args:
        raw (Tensor): (N, A * (5 + K), H, W) float, as :class:`YOLOV3Head` gives them.
        anchors (Tensor): (A, 2) float, width and height in pixels.
        stride (int): of the grid, in pixels.

    Returns:
        (Tensor, Tensor, Tensor): boxes "cxcywh" (N, A * H * W, 4), objectness logits (N, A * H * W) and
        class logits (N, A * H * W, K), for anchor, row and column in this order.
    """
    n, _, height, width = raw.shape
    raw = raw.float().reshape(n, len(anchors), -1, height, width).permute(0, 1, 3, 4, 2)
    rows = torch.arange(height, device=raw.device, dtype=raw.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=raw.device, dtype=raw.dtype)[None].expand(height, width)
    centres = (raw[..., :2].sigmoid() + torch.stack([columns, rows], dim=-1)) * stride
    sizes = raw[..., 2:4].clamp(max=MAX_LOG_SIZE).exp() * anchors[:, None, None]
    boxes = torch.cat([centres, sizes], dim=-1)
    return boxes.flatten(1, 3), raw[..., 4].flatten(1), raw[..., 5:].flatten(1, 3)


def convert_to_corners(boxes):
    """Converts (..., 4) "cxcywh" to (..., 4) x1, y1, x2, y2."""
    centres, sizes = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)
