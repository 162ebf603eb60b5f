"""A split of your own: a bottleneck of 1 x 1 convolutions at any split point.

A feature split has four methods: `reduce` runs on the edge, `restore` in the cloud, `reduced_shapes`
tells the decoder which shapes to expect, and the constructor builds what both need. The export finds out
which weights belong to which side. The number of channels has its own config key,
MODEL.BOTTLENECK.CHANNELS.

Train it instead of MSFC, here after stage res3 of the quick start's network, and measure it:

    featcomp train --import examples/own_split.py --config quick/msfc_R18 OUTPUT_DIR output/own_split \\
        MODEL.FEATCOMP.SPLIT Bottleneck MODEL.FEATCOMP.SPLIT_POINT res3 MODEL.BOTTLENECK.CHANNELS 4
    featcomp eval --import examples/own_split.py --config quick/msfc_R18 OUTPUT_DIR output/own_split \\
        MODEL.FEATCOMP.SPLIT Bottleneck MODEL.FEATCOMP.SPLIT_POINT res3 MODEL.BOTTLENECK.CHANNELS 4 \\
        MODEL.WEIGHTS output/own_split/model_final.pth

The training takes as long as that of the quick start. `featcomp export`, `sweep` and `split-table` take
the same options and settings.
"""

from detectron2.config import CfgNode
from torch import nn

from d2_featcomp.config import CONFIG_REGISTRY
from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, FeatureSplit


@CONFIG_REGISTRY.register()
def add_bottleneck_config(cfg):
    cfg.MODEL.BOTTLENECK = CfgNode({"CHANNELS": 8})


@FEATURE_SPLIT_REGISTRY.register()
class Bottleneck(FeatureSplit):
    """Sends a few channels of each feature map at the split point."""

    codec_defaults = {"quantizer": "fixed", "value_range": (-1.0, 1.0)}  # that of tanh

    def __init__(self, cfg, backbone):
        super().__init__()
        self.channels = cfg.MODEL.BOTTLENECK.CHANNELS
        self.shapes = backbone.output_shape()  # name -> channels and stride, at the split point
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for name, shape in self.shapes.items():
            self.encoders[name] = nn.Sequential(nn.Conv2d(shape.channels, self.channels, 1), nn.Tanh())
            self.decoders[name] = nn.Conv2d(self.channels, shape.channels, 1)

    def reduce(self, features):
        """Edge: dict of (N, C, H, W) features -> list of (N, C', H, W) latents."""
        return [self.encoders[name](features[name]) for name in self.shapes]

    def restore(self, y_hats, image_size, step_sizes=None):
        """Cloud: quantized latents -> dict of features, with their original names and shapes."""
        named = zip(self.shapes, y_hats, strict=True)
        return {name: self.decoders[name](y_hat) for name, y_hat in named}

    def reduced_shapes(self, image_size):
        """(C', H, W) of each latent of a padded image of (height, width) pixels."""
        height, width = image_size
        strides = [shape.stride for shape in self.shapes.values()]
        return [(self.channels, -(-height // stride), -(-width // stride)) for stride in strides]
