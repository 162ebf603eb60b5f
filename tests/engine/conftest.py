"""Small networks of every kind of split, with random weights."""

import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.engine import setup_config

CONFIGS = {
    "msfc": (
        "configs/quick/msfc_R18.yaml",
        ("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.FEATCOMP.SSFC.CHANNELS", 4),
    ),
    "pyramid": (
        "configs/quick/msfc_R18.yaml",
        (
            "MODEL.FPN.OUT_CHANNELS",
            16,
            "MODEL.FEATCOMP.SPLIT",
            "Pyramid",
            "MODEL.FEATCOMP.CODEC.BITS",
            8,
        ),
    ),
    "image": (
        "configs/quick/msfc_R18.yaml",
        (
            *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.FEATCOMP.SPLIT", "Image"),
            *("MODEL.FEATCOMP.CODEC.NAME", "jpeg420", "MODEL.FEATCOMP.CODEC.BITS", 8),
        ),
    ),
    "baf": ("configs/quick/baf_yolov3_tiny.yaml", ()),
    "layer": (
        "configs/quick/baf_yolov3_tiny.yaml",
        ("MODEL.FEATCOMP.SPLIT", "Layer", "MODEL.FEATCOMP.CODEC.BITS", 8),
    ),
    "tasks": ("configs/quick/mtl_R34.yaml", ("MODEL.RESNETS.DEPTH", 18)),
    "gains": (
        "configs/quick/mtl_R34.yaml",
        ("MODEL.RESNETS.DEPTH", 18, "MODEL.FEATCOMP.CHANNEL_GAINS", True),
    ),
}


def _configured(name, weights="", *more):
    config, settings = CONFIGS[name]
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights), *settings, *more]
    return setup_config(config, list(map(str, opts)))


@pytest.fixture(scope="session")
def configured():
    """A function: name of a network, weights, config overrides -> CfgNode."""
    return _configured


@pytest.fixture(scope="session")
def random_network():
    """A function: name of a network, seed -> the network, in evaluation mode."""

    def build(name, seed=0):
        torch.manual_seed(seed)
        network = build_model(_configured(name)).eval()
        for buffer_name, buffer in network.named_buffers():  # unlike those of any other network
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
        if name == "gains":
            for parameter in network.feature_split.parameters():
                parameter.data.uniform_(-0.5, 0.5)
        if name == "baf":
            split = network.feature_split
            split.set_channel_order(torch.randperm(split.layer.out_channels))
        return network

    return build
