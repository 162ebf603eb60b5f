"""Trained networks and images, prepared for inference."""

import numpy as np
import torch
from detectron2.modeling import build_model

from ..data.mappers import build_test_resize
from ..modeling import SplitNetwork
from .checkpoint import load_weights

__all__ = ["build_for_inference", "make_input", "prepare_for_inference", "require_split"]


def prepare_for_inference(model, cfg):
    """Puts a network whose weights are loaded into evaluation mode, as MODEL.FEATCOMP.INFERENCE says.

    Args:
        model (nn.Module): changed in place; one that is not split is always computed as it is.
        cfg (CfgNode): that it was built from.
    """
    model.eval()
    if isinstance(model, SplitNetwork):
        model.accelerate(cfg.MODEL.FEATCOMP.INFERENCE)


def require_split(model, wanted):
    """Raises ValueError if a network that ought to be split is not."""
    if wanted and not isinstance(model, SplitNetwork):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE built a {type(model).__name__} that is not split: set it to "
            "SplitNetwork and MODEL.FEATCOMP.TASK_NETWORK to the network, or MODEL.FEATCOMP.ENABLED to "
            "False"
        )


def build_for_inference(cfg, weights, enabled=True):
    """Builds a network in evaluation mode with trained weights.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`; not changed.
        weights (str): checkpoint.
        enabled (bool): False builds the task network alone, not split.

    Returns:
        nn.Module

    Raises:
        FileNotFoundError, CheckpointError: see :func:`load_weights`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FEATCOMP.ENABLED = enabled
    model = build_model(cfg)
    require_split(model, enabled)
    load_weights(model, weights)
    prepare_for_inference(model, cfg)
    return model


def make_input(picture, cfg):
    """Makes the input of a network from a picture.

    Args:
        picture (ndarray): (H, W, 3) uint8 RGB.
        cfg (CfgNode): see :func:`build_test_resize`; `INPUT.FORMAT` is used, too.

    Returns:
        dict: as a Detectron2 network takes it.

    Raises:
        ValueError: it is so narrow that nothing of it is left at that size.
    """
    height, width = picture.shape[:2]
    transform = build_test_resize(cfg).get_transform(picture)
    if 0 in (getattr(transform, "new_h", height), getattr(transform, "new_w", width)):
        raise ValueError(
            f"an image of {width} x {height} pixels has no width or height left where its longer side "
            f"has {cfg.INPUT.MAX_SIZE_TEST} pixels (INPUT.MAX_SIZE_TEST): cut it into pieces"
        )
    pixels = transform.apply_image(picture)
    if cfg.INPUT.FORMAT == "BGR":
        pixels = pixels[:, :, ::-1]
    tensor = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32))
    return {"image": tensor, "height": height, "width": width}
