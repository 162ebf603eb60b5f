"""The answers anchor: what an edge would send that computes everything, its detections.

Who splits a network sends less than this, or leaves work to the cloud that the edge cannot do.
"""

import io
import zlib

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances

from ..codecs import CodedTensor, FeatureBitstream, ImageSizes, StreamDescription

__all__ = ["decode_answers", "encode_answers", "make_answer_stream"]

_STEPS = 2**16 - 1  # boxes, scores and keypoints are 16-bit integers


def encode_answers(output, least_score=0.0):
    """Codes the detections of one image: as columns of 16-bit integers and run-length masks, compressed
    together (zlib).

    Args:
        output (dict): of a Detectron2 network in evaluation mode: "instances" with `pred_boxes`,
            `scores`, `pred_classes` and, where the network gives them, `pred_masks` ((N, H, W) bool) and
            `pred_keypoints`.
        least_score (float): of the instances that are sent.

    Returns:
        bytes: :func:`decode_answers` reads them. Boxes and keypoints are rounded to 1/65535 of the
        image's longer side, scores to 1/65535; masks are exact.

    Raises:
        ValueError: the output holds no instances.
    """
    instances = output.get("instances")
    if instances is None:
        raise ValueError(
            f"the network's outputs ({', '.join(sorted(output))}) hold no instances: the answers anchor "
            "is for networks that detect"
        )
    instances = instances[instances.scores >= least_score].to("cpu")
    height, width = instances.image_size
    longest = max(height, width)
    file = io.BytesIO()
    has = [instances.has("pred_masks"), instances.has("pred_keypoints")]
    _write(file, np.array([len(instances), height, width, has[0] + 2 * has[1]]), "<u4")
    _write(file, instances.pred_classes.numpy(), "<u2")
    _write_shares(file, instances.scores.numpy(), 1)
    _write_shares(file, instances.pred_boxes.tensor.numpy().T, longest)
    if has[1]:
        points = instances.pred_keypoints.numpy()[:, :, :3]
        _write(file, np.array([points.shape[1]]), "<u4")
        _write_shares(file, points[:, :, :2], longest)
        _write(file, points[:, :, 2], "<f2")
    if has[0]:
        counts = [_run_lengths(mask) for mask in instances.pred_masks]
        _write(file, np.array([len(each) for each in counts], dtype=np.int64), "<u4")
        file.write(b"".join(counts))
    return zlib.compress(file.getvalue(), 9)


def decode_answers(data):
    """Inverse of :func:`encode_answers`.

    Args:
        data (bytes): that this program has coded.

    Returns:
        dict: {"instances": Instances on the CPU}.
    """
    file = io.BytesIO(zlib.decompress(data))
    count, height, width, has = _read(file, 4, "<u4").tolist()
    longest = max(height, width)
    instances = Instances((height, width))
    instances.pred_classes = torch.from_numpy(_read(file, count, "<u2").astype(np.int64))
    instances.scores = _read_shares(file, (count,), 1)
    instances.pred_boxes = Boxes(_read_shares(file, (4, count), longest).T.contiguous())
    if has & 2:
        (points,) = _read(file, 1, "<u4").tolist()
        places = _read_shares(file, (count, points, 2), longest)
        scores = _read(file, count * points, "<f2").astype(np.float32).reshape(count, points, 1)
        instances.pred_keypoints = torch.cat([places, torch.from_numpy(scores)], dim=2)
    if has & 1:
        lengths = _read(file, count, "<u4").tolist()
        masks = [
            mask_util.decode({"size": [height, width], "counts": file.read(length)})
            for length in lengths
        ]
        masks = np.stack(masks) if masks else np.zeros((0, height, width))
        instances.pred_masks = torch.from_numpy(masks.astype(bool))
    return {"instances": instances}


def make_answer_stream(data, record):
    """Makes the bitstream that carries coded answers, to count its bytes; its feature elements are the
    image's.

    Args:
        data (bytes): of :func:`encode_answers`.
        record (dict): of the image, as the network takes it.

    Returns:
        FeatureBitstream
    """
    channels, *resized = record["image"].shape
    original = (record.get("height", resized[0]), record.get("width", resized[1]))
    description = StreamDescription(
        split="answers",
        codec="zlib",
        lossless=True,
        bits=8,
        quantizer="none",
        shapes=((channels, *resized),),
        feature_elements=channels * resized[0] * resized[1],
    )
    return FeatureBitstream(
        fingerprint=bytes(4),
        sizes=ImageSizes(padded=tuple(resized), resized=tuple(resized), original=original),
        tensors=[CodedTensor({"y": data})],
        description=description,
    )


def _run_lengths(mask):
    return mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))["counts"]


def _write(file, values, dtype):
    file.write(np.ascontiguousarray(values).astype(dtype).tobytes())


def _read(file, count, dtype):
    return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype)


def _write_shares(file, values, largest):
    _write(file, np.clip(np.round(values / largest * _STEPS), 0, _STEPS), "<u2")


def _read_shares(file, shape, largest):
    values = _read(file, int(np.prod(shape)), "<u2").astype(np.float64) * largest / _STEPS
    return torch.from_numpy(values.astype(np.float32).reshape(shape))
