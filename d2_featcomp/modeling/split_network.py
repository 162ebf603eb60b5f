"""Any Detectron2 network, cut in two: one half for the edge, one for the cloud."""

from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ..codecs import build_feature_codec
from .compressibility import build_compressibility
from .split_inference import SplitInference
from .splits import build_feature_split

__all__ = ["SplitNetwork", "split_network"]

LOSSES = ("task", "distill", "both")
INFERENCE = ("plain", "fused", "compiled", "bfloat16")


@META_ARCH_REGISTRY.register()
def SplitNetwork(cfg):
    """Builds `cfg.MODEL.FEATCOMP.TASK_NETWORK` and cuts it as `cfg.MODEL.FEATCOMP` says.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        nn.Module: the task network, with the methods of :class:`SplitInference` unless
        `MODEL.FEATCOMP.ENABLED` is False.

    Raises:
        ValueError: the task network is unknown or cannot be cut, or a setting is out of range.
    """
    featcomp = cfg.MODEL.FEATCOMP
    if featcomp.TASK_NETWORK not in META_ARCH_REGISTRY or featcomp.TASK_NETWORK == "SplitNetwork":
        raise ValueError(
            f"MODEL.FEATCOMP.TASK_NETWORK is {featcomp.TASK_NETWORK!r}: name a registered Detectron2 "
            "meta-architecture, e.g. GeneralizedRCNN, RetinaNet or PanopticFPN"
        )
    if featcomp.INFERENCE not in INFERENCE:
        raise ValueError(
            f"MODEL.FEATCOMP.INFERENCE is {featcomp.INFERENCE!r}: choose one of {', '.join(INFERENCE)}"
        )
    network = META_ARCH_REGISTRY.get(featcomp.TASK_NETWORK)(cfg)
    if not featcomp.ENABLED:
        return network
    _require_backbone(network)
    feature_split = build_feature_split(cfg, network.backbone)
    return split_network(
        network,
        feature_split=feature_split.to(cfg.MODEL.DEVICE),
        feature_codec=build_feature_codec(cfg, feature_split),
        loss=featcomp.LOSS,
        freeze_task_network=featcomp.FREEZE_TASK_NETWORK,
        compressibility=build_compressibility(cfg),
    )


def _require_backbone(network):
    if not isinstance(getattr(network, "backbone", None), nn.Module):
        raise ValueError(
            f"{type(network).__name__} cannot be cut: it has no attribute `backbone`, the module whose "
            "features are sent"
        )


def split_network(
    network,
    *,
    feature_split,
    feature_codec,
    loss="task",
    freeze_task_network=False,
    compressibility=None,
):
    """Cuts a network that was already built.

    The network keeps its class's behaviour and the names of its parameters; the split's parameters
    are added as `feature_split.*`. It must call `self.backbone(images)` once in its `forward`, and hold
    the buffers `pixel_mean` and `pixel_std`, as Detectron2's own do.

    Args:
        network (nn.Module): a Detectron2 meta-architecture with an attribute `backbone`. Changed in
            place: its class becomes a subclass of it and :class:`SplitInference`.
        feature_split (FeatureSplit): built for that backbone.
        feature_codec (FeatureCodec): used by the edge half.
        loss (str): what training minimizes: "task" (the network's own losses), "distill" (the
            distance of the restored features from the original ones) or "both".
        freeze_task_network (bool): train only the split; batch norm statistics stay too.
        compressibility (Compressibility or None): a loss of what is sent, which training adds.

    Returns:
        nn.Module: `network`.

    Raises:
        ValueError: no backbone, an unknown loss, or a compressibility loss for a split that training
            leaves unchanged.
    """
    _require_backbone(network)
    if loss not in LOSSES:
        raise ValueError(f"unknown training loss {loss!r}: choose one of {', '.join(LOSSES)}")
    if compressibility is not None and not feature_split.trains_edge:
        raise ValueError(
            f"MODEL.FEATCOMP.SPLIT {feature_split.name} sends what training does not change: set "
            "MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT to 0"
        )
    base = type(network)
    network.__class__ = type(f"Split{base.__name__}", (SplitInference, base), {})
    network.feature_split = feature_split
    network.feature_codec = feature_codec
    network._install(loss, freeze_task_network, compressibility)
    return network
