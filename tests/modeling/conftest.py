import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

from d2_featcomp.engine import setup_config

# Shrinks any of the configs to what runs in seconds.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 20,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [16, 16],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.FEATCOMP.SSFC.CHANNELS": 8,
}


@pytest.fixture(autouse=True)
def event_storage():
    """Detectron2's losses write to one."""
    with EventStorage():
        yield


@pytest.fixture
def small_config():
    """A function: path of a config, overrides -> config, made small."""

    def make(path="configs/msfc_R50.yaml", **overrides):
        keyed = {key.replace("__", "."): value for key, value in overrides.items()}
        return setup_config(path, [part for item in {**SMALL, **keyed}.items() for part in item])

    return make


@pytest.fixture
def small_model(small_config):
    """A function: path of a config, overrides -> seeded model in evaluation mode."""

    def make(path="configs/msfc_R50.yaml", **overrides):
        torch.manual_seed(0)
        model = build_model(small_config(path, **overrides)).eval()
        # Freshly initialized batch norms of depth 18 let activations explode; calibrate them once.
        torch.manual_seed(1)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None
                    module.train()
            model.backbone(((torch.rand(2, 3, 128, 128) - 0.5) * 4).to(model.pixel_mean.device))
            model.backbone.eval()
        return model.eval()

    return make


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
