"""The detections of an image as bytes."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_featcomp.evaluation.answers import decode_answers, encode_answers


def detect(count, height=60, width=90, seed=0, keypoints=0):
    """Random instances."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([width, height])).reshape(count, 4)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = True
    found = Instances((height, width))
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.rand(count, generator=generator)
    found.pred_classes = torch.randint(80, (count,), generator=generator)
    found.pred_masks = masks
    if keypoints:
        places = torch.rand(count, keypoints, 3, generator=generator)
        places[..., :2] *= torch.tensor([width, height])
        found.pred_keypoints = places
    return found


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("keypoints", [0, 17])
def test_instances_come_back(count, keypoints):
    given = detect(count, keypoints=keypoints)
    found = decode_answers(encode_answers({"instances": given}))["instances"]
    assert found.image_size == given.image_size and set(found.get_fields()) == set(given.get_fields())
    assert torch.equal(found.pred_classes, given.pred_classes)
    assert torch.equal(found.pred_masks, given.pred_masks)
    pixel = 90 / 65535
    assert torch.allclose(found.scores, given.scores, atol=1 / 65535)
    assert torch.allclose(found.pred_boxes.tensor, given.pred_boxes.tensor, atol=pixel)
    if keypoints:
        assert torch.allclose(found.pred_keypoints[..., :2], given.pred_keypoints[..., :2], atol=pixel)
        assert torch.allclose(found.pred_keypoints[..., 2], given.pred_keypoints[..., 2], atol=1e-3)


def test_boxes_alone_take_twelve_bytes_each_at_most():
    given = detect(50)
    given.remove("pred_masks")
    data = encode_answers({"instances": given})
    assert len(data) <= 50 * 12 + 16 + 16
    assert not decode_answers(data)["instances"].has("pred_masks")


def test_low_scores_are_left_out():
    given = detect(20)
    found = decode_answers(encode_answers({"instances": given}, 0.5))["instances"]
    assert len(found) == int((given.scores >= 0.5).sum()) > 0
    assert torch.equal(found.pred_classes, given.pred_classes[given.scores >= 0.5])


def test_networks_that_detect_nothing_are_told():
    with pytest.raises(ValueError, match=r"\(sem_seg\) hold no instances"):
        encode_answers({"sem_seg": torch.zeros(2, 4, 4)})
