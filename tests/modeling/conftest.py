import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage


@pytest.fixture(autouse=True)
def event_storage():
    """Detectron2's losses write to one."""
    with EventStorage():
        yield


@pytest.fixture
def make_record():
    """A function: height, width, seed -> dict of a dataset mapper with every kind of annotation."""

    def make(height=64, width=96, seed=0, masks=PolygonMasks):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 10.0, 60.0, 50.0]])
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.zeros(2, dtype=torch.int64)
        if masks is PolygonMasks:
            corners = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes.tolist()]
            instances.gt_masks = PolygonMasks([[corner] for corner in corners])
        else:
            instances.gt_masks = BitMasks(torch.ones(2, height, width, dtype=torch.bool))
        points = torch.tensor([[20.0, 20.0, 2.0]]).repeat(2, 17, 1)
        points[1, :, 0] = 45.0
        instances.gt_keypoints = Keypoints(points)
        return {
            "image": image,
            "height": height,
            "width": width,
            "instances": instances,
            "sem_seg": torch.randint(0, 4, (height, width), generator=generator),
        }

    return make
