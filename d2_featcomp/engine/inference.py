"""Trained networks and images, prepared for inference."""

import numpy as np
import torch
from detectron2.modeling import build_model

from ..data.mappers import read_input_size
from ..modeling import SplitNetwork
from ..preprocessing import prepare_pixels
from .checkpoint import load_weights

__all__ = [
    "build_for_inference",
    "describe_input",
    "get_pixels",
    "make_input",
    "prepare_for_inference",
    "require_split",
]


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


def describe_input(cfg):
    """Describes what happens to a picture before it is normalized.

    Args:
        cfg (CfgNode): `INPUT.FORMAT`, `INPUT.MIN_SIZE_TEST` and `MAX_SIZE_TEST`,
            `MODEL.FEATCOMP.INPUT_SIZE`, `MODEL.PIXEL_MEAN` and `PIXEL_STD` are used.

    Returns:
        dict: see :mod:`d2_featcomp.preprocessing`, without "padding".

    Raises:
        ValueError: INPUT_SIZE is not two positive numbers.
    """
    size = read_input_size(cfg)
    sides = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}
    return {
        "format": cfg.INPUT.FORMAT,
        **({"size": list(size)} if size else sides),
        "mean": list(map(float, cfg.MODEL.PIXEL_MEAN)),
        "std": list(map(float, cfg.MODEL.PIXEL_STD)),
    }


def get_pixels(inputs, cfg):
    """The picture that a network's input holds.

    Args:
        inputs (dict): as a Detectron2 network takes it.
        cfg (CfgNode): of the network.

    Returns:
        ndarray: (h, w, 3) uint8 RGB, of the size at which the network gets it.
    """
    pixels = np.uint8(inputs["image"].permute(1, 2, 0).cpu().numpy())
    if cfg.INPUT.FORMAT == "L":
        pixels = pixels.repeat(3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1] if cfg.INPUT.FORMAT == "BGR" else pixels)


def make_input(picture, cfg):
    """Makes the input of a network from a picture.

    Args:
        picture (ndarray): (H, W, 3) uint8 RGB.
        cfg (CfgNode): see :func:`describe_input`.

    Returns:
        dict: as a Detectron2 network takes it.

    Raises:
        ValueError: it is so narrow that nothing of it is left at that size.
    """
    height, width = picture.shape[:2]
    pixels = torch.from_numpy(prepare_pixels(picture, describe_input(cfg)))
    return {"image": pixels, "height": height, "width": width}
