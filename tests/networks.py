"""Small networks of every kind: their settings, and copies of the networks, each built once."""

import collections
import copy
import os

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from d2_featcomp import add_featcomp_config
from d2_featcomp.engine import setup_config

MSFC = "configs/quick/msfc_R18.yaml"
FCTM = "configs/quick/fctm_v1_R18.yaml"
BAF = "configs/quick/baf_yolov3_tiny.yaml"
YOLO = "configs/quick/yolov3_tiny.yaml"
TASKS = "configs/quick/mtl_R34.yaml"

# A ResNet with a fiftieth of the weights of depth 18, which Detectron2 builds in one width alone.
NARROW = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
}
# Of the quick config of MSFC: few channels, and heads that cost next to nothing.
TINY = {
    **NARROW,
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.FEATCOMP.SSFC.CHANNELS": 4,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}
TINY_TASKS = {**NARROW, "MODEL.DEVICE": "cpu", "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
# Any config of the paper's networks, made so small that it runs at once.
SHRUNK = {
    **NARROW,
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
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


# A small network of every kind of split.
KINDS = {
    "msfc": (MSFC, TINY),
    "efficientnet": (
        MSFC,
        {
            **TINY,
            "MODEL.BACKBONE.NAME": "build_efficientnet_lite_fpn_backbone",
            "MODEL.EFFICIENTNET_LITE.NORM": "BN",
            "MODEL.FEATCOMP.MSFF.DOWNSAMPLE": "space_to_depth",
        },
    ),
    "fctm": (FCTM, TINY),
    "pyramid": (
        MSFC,
        {**TINY, "MODEL.FEATCOMP.SPLIT": "Pyramid", "MODEL.FEATCOMP.CODEC.BITS": 8},
    ),
    "levels": (
        MSFC,
        {
            **TINY,
            "MODEL.FEATCOMP.SPLIT": "PyramidTransform",
            "MODEL.FEATCOMP.PYRAMID_TRANSFORM.CHANNELS": (4, 5, 6, 7),
            "MODEL.FEATCOMP.CODEC.NAME": "variable_rate",
            "MODEL.FEATCOMP.CODEC.BITS": 6,
        },
    ),
    "image": (
        MSFC,
        {
            **TINY,
            "MODEL.FEATCOMP.SPLIT": "ImageSplit",
            "MODEL.FEATCOMP.CODEC.NAME": "jpeg420",
            "MODEL.FEATCOMP.CODEC.BITS": 8,
        },
    ),
    "baf": (BAF, {"MODEL.DEVICE": "cpu"}),
    "layer": (
        BAF,
        {"MODEL.DEVICE": "cpu", "MODEL.FEATCOMP.SPLIT": "Layer", "MODEL.FEATCOMP.CODEC.BITS": 8},
    ),
    "tasks": (TASKS, TINY_TASKS),
    "gains": (TASKS, {**TINY_TASKS, "MODEL.FEATCOMP.CHANNEL_GAINS": True}),
}


def listed(settings):
    """list[str]: config overrides of a dict, as command lines take them."""
    return [str(part) for item in settings.items() for part in item]


def config_of(kind, weights="", *more):
    """
    Args:
        kind (str): of KINDS.
        weights (str): MODEL.WEIGHTS.
        more: config overrides, key and value in turn.

    Returns:
        CfgNode: frozen.
    """
    path, settings = KINDS[kind]
    return setup_config(path, [*listed({**settings, "MODEL.WEIGHTS": weights}), *map(str, more)])


def dotted(overrides):
    """dict: with keys in which each "__" has become a dot."""
    return {key.replace("__", "."): value for key, value in overrides.items()}


_MOST = 6  # of some 50 MB each
_built = collections.OrderedDict()


def build(path, overrides, seed=0, prepare=None):
    """Builds a network, or copies one that was built of the same settings.

    Args:
        path (str): of its config.
        overrides (sequence): of the config, key and value in turn.
        seed (int): of its weights.
        prepare (callable or None): gets the new network, and changes it.

    Returns:
        nn.Module: the caller's own, in evaluation mode. PyTorch's random numbers are then where they
        were after it was built, whether it has been built now or not.
    """
    if any(os.path.isfile(str(value)) for value in overrides):  # which may change
        return _build(path, overrides, seed, prepare)
    key = path, tuple(map(repr, overrides)), seed, prepare
    if key not in _built:
        _built[key] = _build(path, overrides, seed, prepare), torch.get_rng_state()
    _built.move_to_end(key)
    if len(_built) > _MOST:
        _built.popitem(last=False)
    network, state = _built[key]
    torch.set_rng_state(state)
    return copy.deepcopy(network)


def _build(path, overrides, seed, prepare):
    torch.manual_seed(seed)
    network = build_model(setup_config(path, list(overrides))).eval()
    if prepare is not None:
        prepare(network)
    return network


def save(kind, path, seed=0, **settings):
    """Writes the first weights of a small network, for command lines that take `overrides_of(kind)`."""
    network = build(KINDS[kind][0], listed({**KINDS[kind][1], **settings}), seed)
    torch.save({"model": network.state_dict()}, path)
    return network


def random_network(kind, seed=0):
    """A network of KINDS with statistics of norms, gains and an order of channels of its own."""
    path, settings = KINDS[kind]
    return build(path, listed(settings), seed, randomize)


def randomize(network):
    """Gives a network statistics of norms, gains and an order of channels of its own."""
    for name, buffer in network.named_buffers():  # unlike those of any other network
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    split = network.feature_split
    if getattr(split, "gains", None) is not None:
        for parameter in split.parameters():
            parameter.data.uniform_(-0.5, 0.5)
    if hasattr(split, "set_channel_order"):
        split.set_channel_order(torch.randperm(split.layer.out_channels))


def own_config(network, backbone, split):
    """The config of another project's network, by the names that it is registered with; not frozen."""
    cfg = get_cfg()
    add_featcomp_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "SplitNetwork"
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.FEATCOMP.TASK_NETWORK = network
    cfg.MODEL.FEATCOMP.SPLIT = split
    return cfg


def shrunk_config(path="configs/msfc_R50.yaml", **overrides):
    """Any config, shrunk; in keys of `overrides`, "__" stands for a dot."""
    return setup_config(path, _shrunk(overrides))


def shrunk_network(path="configs/msfc_R50.yaml", **overrides):
    """The network of a shrunk config."""
    return build(path, _shrunk(overrides))


def calibrated_network(path="configs/msfc_R50.yaml", **overrides):
    """The network of a shrunk config with norms that fit noise: with those of fresh weights activations
    of depth 18 would explode."""
    return build(path, _shrunk(overrides), 0, calibrate)


def _shrunk(overrides):
    keyed = {**SHRUNK, **dotted(overrides)}
    return [part for item in keyed.items() for part in item]


def show_noise(network, sizes):
    """Fits the norms of the edge sub-model of a network to noise of these sizes, so that its features
    vary; returns the generator of the noise."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.train()
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        network.edge_features([{"image": torch.rand(3, *size, generator=generator) * 255}])
    network.eval()
    return generator


@torch.no_grad()
def calibrate(network):
    """Fits the norms of a network to noise."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.train()
    network.backbone(((torch.rand(2, 3, 128, 128) - 0.5) * 4).to(network.pixel_mean.device))
    network.eval()
