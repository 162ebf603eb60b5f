"""The architectures on a GPU: training, inference through bytes, evaluation."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid, ViT, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import Trainer
from d2_featcomp.modeling.checkpoint_names import make_saved_name

pytestmark = pytest.mark.gpu

VITDET = "a tiny ViTDet"
# Its config, a loss and a field of its outputs; what its evaluation measures.
CASES = {
    "msfc_R50": ("loss_mask", "pred_masks", ("bbox", "segm")),
    "msfc_retinanet_R50": ("loss_cls", "pred_boxes", ("bbox",)),
    "msfc_cascade_R50": ("loss_box_reg_stage2", "pred_masks", ("bbox", "segm")),
    "msfc_keypoint_R50": ("loss_keypoint", "pred_keypoints", ("bbox", "keypoints")),
    "msfc_pointrend_R50": ("loss_mask_point", "pred_masks", ("bbox", "segm")),
    "msfc_panoptic_R50": ("loss_sem_seg", "pred_masks", ("bbox", "segm", "sem_seg")),
    VITDET: ("loss_mask", "pred_masks", ("bbox", "segm")),
}
SIZE = 96, 128
BOXES = ((8, 8, 40, 56), (60, 20, 110, 80))  # x0, y0, x1, y1


@BACKBONE_REGISTRY.register()
def build_tiny_vitdet_backbone(cfg, input_shape: ShapeSpec):
    """One block with windows, one without, and the pyramid of ViTDet's paper."""
    vit = ViT(
        img_size=128,
        in_chans=input_shape.channels,
        embed_dim=32,
        depth=2,
        num_heads=2,
        use_rel_pos=True,
        window_size=4,
        window_block_indexes=(0,),
    )
    return SimpleFeaturePyramid(
        vit,
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=128,
    )


def overrides(name):
    if name == VITDET:
        pytest.importorskip("timm.models.layers", reason="Detectron2's ViT needs timm")
        return {"MODEL__BACKBONE__NAME": "build_tiny_vitdet_backbone"}
    if name == "msfc_keypoint_R50":
        return {"MODEL__ROI_HEADS__NUM_CLASSES": 1}
    return {"MODEL__POINT_HEAD__NUM_CLASSES": 3, "MODEL__POINT_HEAD__FC_DIM": 16}


def config_of(name):
    return "configs/msfc_R50.yaml" if name == VITDET else f"configs/{name}.yaml"


@pytest.fixture
def options(device):
    """A function: name of a case -> overrides, those of the device among them."""

    def make(name, **more):
        return {**overrides(name), "MODEL__DEVICE": str(device), **more}

    return make


@pytest.mark.parametrize("name", CASES)
def test_training_changes_the_whole_network(name, options, small_config, make_record, device):
    torch.manual_seed(0)
    cfg = small_config(config_of(name), **options(name))
    masks = {"polygon": PolygonMasks, "bitmask": BitMasks}[cfg.INPUT.MASK_FORMAT]
    model = build_model(cfg).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    losses = model([make_record(seed=seed, masks=masks) for seed in (0, 1)])
    assert CASES[name][0] in losses
    assert all(loss.device.type == device.type and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    for part in ("feature_split.msff", "feature_split.encoder", "feature_split.msfr", "backbone"):
        changed = [
            not torch.equal(parameter, before[key])
            for key, parameter in model.named_parameters()
            if make_saved_name(key).startswith(part)
        ]
        assert any(changed), part
    assert all(torch.isfinite(parameter).all() for parameter in trained)


@pytest.mark.parametrize("name", CASES)
def test_inference_runs_through_bytes(name, options, small_model, make_record, device):
    model = small_model(config_of(name), **options(name))
    record = {**make_record(64, 96), "height": 128, "width": 192}
    for fused in (False, True):
        if fused:
            model.fuse_for_inference()
        (output,) = model([record])
        instances = output["instances"]
        assert instances.image_size == (128, 192)
        assert len(instances) > 0 and instances.has(CASES[name][1])
        assert instances.scores.device.type == device.type
        data = output["bitstream"].to_bytes()
        (again,) = model.cloud_inference([FeatureBitstream.from_bytes(data)])
        assert len(again["instances"]) > 0
        if name == "msfc_panoptic_R50":
            assert output["sem_seg"].shape == (4, 128, 192)
            assert output["panoptic_seg"][0].shape == (128, 192)


def annotation(box, category):
    x0, y0, x1, y1 = map(float, box)
    points = [(x0 + (x1 - x0) * k / 17, y0 + (y1 - y0) * k / 17, 2) for k in range(17)]
    return {
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "keypoints": [value for point in points for value in point],
        "iscrowd": 0,
    }


@pytest.fixture
def register_images(tmp_path):
    """A function: kind of evaluator, number of classes -> name of a data set of two images."""
    registered = []

    def register(kind, classes):
        rng = np.random.default_rng(0)
        records = []
        for number in range(2):
            image, labels = tmp_path / f"{number}.png", tmp_path / f"{number}-labels.png"
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
            Image.fromarray(rng.integers(0, 4, SIZE, dtype=np.uint8)).save(labels)
            records.append(
                {
                    "file_name": str(image),
                    "sem_seg_file_name": str(labels),
                    "image_id": number,
                    "height": SIZE[0],
                    "width": SIZE[1],
                    "annotations": [
                        annotation(box, min(which, classes - 1)) for which, box in enumerate(BOXES)
                    ],
                }
            )
        name = f"gpu_{kind}_{tmp_path.name}"
        DatasetCatalog.register(name, lambda: json.loads(json.dumps(records)))
        MetadataCatalog.get(name).set(
            evaluator_type=kind,
            thing_classes=[f"thing {k}" for k in range(classes)],
            keypoint_names=[f"point {k}" for k in range(17)],
            stuff_classes=[f"stuff {k}" for k in range(4)],
            ignore_label=255,
        )
        registered.append(name)
        return name

    yield register
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_measures_accuracy_and_rate(
    name, options, small_config, small_model, register_images, tmp_path
):
    groups = CASES[name][2]
    classes = 1 if "keypoints" in groups else 3
    kinds = ["coco"] + ["sem_seg"] * ("sem_seg" in groups)
    settings = options(
        name,
        DATASETS__TEST=tuple(register_images(kind, classes) for kind in kinds),
        INPUT__MIN_SIZE_TEST=SIZE[0],
        INPUT__MAX_SIZE_TEST=SIZE[1],
        DATALOADER__NUM_WORKERS=0,
        OUTPUT_DIR=str(tmp_path),
    )
    model = small_model(config_of(name), **settings)
    found = Trainer.test(small_config(config_of(name), **settings), model)
    found = [found] if len(kinds) == 1 else list(found.values())
    merged = {group: values for each in found for group, values in each.items()}
    assert merged.keys() == {*groups, "feature_rate"}
    assert all(each["feature_rate"]["kB"] > 0 for each in found)
    for group in groups:
        score = merged[group]["mIoU" if group == "sem_seg" else "AP"]
        assert 0 <= score <= 100, group
