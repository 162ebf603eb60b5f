"""Configuration keys of NanoDet, all below `MODEL.NANODET`."""

from detectron2.config import CfgNode as CN

from d2_featcomp.config import CONFIG_REGISTRY

__all__ = ["add_nanodet_config"]


@CONFIG_REGISTRY.register()
def add_nanodet_config(cfg):
    """Adds the keys of NanoDet, with their defaults, those of NanoDet-g, to a Detectron2 config.

    Args:
        cfg (CfgNode): from `detectron2.config.get_cfg()`; changed in place.
    """
    cfg.MODEL.NANODET = CN()
    nanodet = cfg.MODEL.NANODET
    nanodet.NUM_CLASSES = 80
    # Channels of the stem; each of the last three stages has twice those of the stage before.
    nanodet.STEM_CHANNELS = 32
    # Residual blocks of the four stages.
    nanodet.BLOCKS = (1, 2, 2, 3)
    # Channels of the pyramid's levels, and of the head.
    nanodet.CHANNELS = 128
    # Bins of a distance's distribution: 0 to BINS - 1 strides.
    nanodet.BINS = 11
    # Least class score of a detection.
    nanodet.SCORE_THRESH_TEST = 0.05
    # Of each level, so many of the best candidates are looked at.
    nanodet.TOPK_CANDIDATES_TEST = 1000
    # Intersection over union at which the less certain of two detections of a class goes.
    nanodet.NMS_THRESH_TEST = 0.6
    # Nearest locations of each level that may belong to an object (ATSS sec. 3.2).
    nanodet.ATSS_TOPK = 9
    # Weights of quality focal loss, distribution focal loss and GIoU loss.
    nanodet.LOSS_WEIGHTS = (1.0, 0.25, 2.0)
