"""Reads from a config what a split network consists of."""

from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ..codecs import FEATURE_CODEC_REGISTRY, build_feature_codec
from .acceleration import require_inference
from .named_weights import read_named_weights
from .split_backbone import SplitBackbone
from .split_point import AfterBackbone, BeforeNetwork, build_split_point
from .splits import build_feature_split, find_feature_split, find_split_name

__all__ = ["check_split_config", "read_split_settings", "require_backbone"]


def read_split_settings(cfg):
    """Builds what a :class:`SplitNetwork` consists of.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        dict: arguments of :class:`SplitNetwork`.

    Raises:
        ValueError: see :func:`check_split_config`, :func:`require_backbone`, or no such split point or
            split, or two that do not suit one another.
    """
    check_split_config(cfg)
    featcomp = cfg.MODEL.FEATCOMP
    network = META_ARCH_REGISTRY.get(featcomp.TASK_NETWORK)(cfg)
    require_backbone(network)
    defaults = find_feature_split(featcomp.SPLIT).defaults
    split_point = build_split_point(
        featcomp.SPLIT_POINT or defaults.get("split_point", "backbone"),
        network.backbone,
        layer=featcomp.LAYER,
        activated=defaults.get("activated", True),
    )
    _require_suiting_point(featcomp, defaults, split_point)
    feature_split = build_feature_split(cfg, split_point.feature_source())
    return {
        "network": network,
        "split_point": split_point,
        "feature_split": feature_split,
        "feature_codec": build_feature_codec(cfg, feature_split),
        "split_name": find_split_name(featcomp.SPLIT),
        "loss": featcomp.LOSS,
        "loss_weights": read_named_weights(
            featcomp.LOSS_WEIGHTS,
            "FEATCOMP.LOSS_WEIGHTS",
            "a loss of the task network",
            '(("loss_mask", 2.0),)',
        ),
        "freeze_task_network": featcomp.FREEZE_TASK_NETWORK,
        "rate_weights": _rate_weights(featcomp),
        "preprocessing": _describe_preprocessing(cfg),
    }


def _require_suiting_point(featcomp, defaults, point):
    """Refuses a split point whose features the split would look for in vain."""
    wanted = defaults.get("split_point", "backbone")
    if isinstance(point, BeforeNetwork) != (wanted == "image"):
        advice = "" if wanted == "image" else ", or choose ImageSplit"
    elif (
        wanted == "layer"
        and isinstance(point, AfterBackbone)
        and hasattr(point.backbone, "list_split_layers")
    ):
        advice = ", or choose PyramidSplit, which codes all features after a backbone as they are"
    else:
        return
    raise ValueError(
        f"MODEL.FEATCOMP.SPLIT_POINT is {point.name!r}, where SPLIT {featcomp.SPLIT} finds nothing "
        f"to code: leave it '', which is {wanted!r}{advice}"
    )


def _describe_preprocessing(cfg):
    """str: what happens to an image before the network."""
    if size := tuple(cfg.MODEL.FEATCOMP.INPUT_SIZE):
        return f"{cfg.INPUT.FORMAT} {size}"
    return f"{cfg.INPUT.FORMAT} {cfg.INPUT.MIN_SIZE_TEST} {cfg.INPUT.MAX_SIZE_TEST}"


def _rate_weights(featcomp):
    weights = {}
    if featcomp.COMPRESSIBILITY.WEIGHT:
        weights["compressibility"] = featcomp.COMPRESSIBILITY.WEIGHT
    # Training looks at whether the codec suits: a trained network may be measured with others.
    if featcomp.TRAIN.RATE_WEIGHT and featcomp.CODEC.NAME in FEATURE_CODEC_REGISTRY:
        weights["entropy"] = 1.0  # the codec weights it itself
    return weights


def check_split_config(cfg):
    """Raises ValueError for an unknown network to split, or way of inference."""
    featcomp = cfg.MODEL.FEATCOMP
    if featcomp.TASK_NETWORK not in META_ARCH_REGISTRY or featcomp.TASK_NETWORK == "SplitNetwork":
        raise ValueError(
            f"MODEL.FEATCOMP.TASK_NETWORK is {featcomp.TASK_NETWORK!r}: name a registered Detectron2 "
            "meta-architecture, e.g. GeneralizedRCNN, RetinaNet or PanopticFPN"
        )
    require_inference(featcomp.INFERENCE)


def require_backbone(network):
    """Raises ValueError for a network without an attribute `backbone`, or one that is split already."""
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f"{type(network).__name__} cannot be split: it has no attribute `backbone`, the module "
            "whose features are coded"
        )
    if isinstance(backbone, SplitBackbone):
        raise ValueError(
            f"{type(network).__name__} is split already: build it anew to split it in another way"
        )
