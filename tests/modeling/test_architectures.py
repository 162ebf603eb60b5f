"""The six architectures, each cut by its YAML alone."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, PolygonMasks

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.modeling.checkpoint_names import make_saved_name

CASES = {
    "msfc_R50": ("loss_mask", "pred_masks"),
    "fctm_v1_R50": ("loss_mask", "pred_masks"),
    "msfc_keypoint_R50": ("loss_keypoint", "pred_keypoints"),
    "msfc_cascade_R50": ("loss_box_reg_stage2", "pred_masks"),
    "msfc_retinanet_R50": ("loss_cls", "pred_boxes"),
    "msfc_panoptic_R50": ("loss_sem_seg", "pred_masks"),
    "msfc_pointrend_R50": ("loss_mask_point", "pred_masks"),
}


def options(name):
    # Detectron2's Keypoint R-CNN knows persons only, and PointRend its own number of classes.
    if name == "msfc_keypoint_R50":
        return {"MODEL__ROI_HEADS__NUM_CLASSES": 1}
    return {"MODEL__POINT_HEAD__NUM_CLASSES": 3, "MODEL__POINT_HEAD__FC_DIM": 16}


@pytest.mark.parametrize("name", CASES)
def test_losses_reach_the_whole_network(name, small_config, make_record):
    torch.manual_seed(0)
    cfg = small_config(f"configs/{name}.yaml", **options(name))
    masks = {"polygon": PolygonMasks, "bitmask": BitMasks}[cfg.INPUT.MASK_FORMAT]
    model = build_model(cfg).train()
    losses = model([make_record(seed=seed, masks=masks) for seed in (0, 1)])
    assert CASES[name][0] in losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for part in ("feature_split.msff", "feature_split.encoder", "feature_split.msfr", "backbone"):
        gradients = [
            parameter.grad.abs().sum()
            for key, parameter in model.named_parameters()
            if make_saved_name(key).startswith(part) and parameter.grad is not None
        ]
        assert gradients and max(gradients) > 0, part


@pytest.mark.parametrize("name", CASES)
def test_inference_runs_through_bytes(name, small_model, make_record):
    model = small_model(f"configs/{name}.yaml", **options(name))
    record = {**make_record(64, 96), "height": 128, "width": 192}
    (output,) = model([record])
    instances = output["instances"]
    assert instances.image_size == (128, 192)
    assert len(instances) > 0 and instances.has(CASES[name][1])
    stream = output["bitstream"]
    assert isinstance(stream, FeatureBitstream)
    assert stream.total_bits == 8 * len(stream.to_bytes())
    assert stream.sizes.original == (128, 192)
    assert stream.sizes.resized == (64, 96)
    if name == "msfc_panoptic_R50":
        assert output["sem_seg"].shape == (4, 128, 192)
        assert output["panoptic_seg"][0].shape == (128, 192)
