"""Backbones of a stem and stages, laid out as Detectron2's ResNet is."""

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

__all__ = ["StagedBackbone", "build_fpn", "require_features"]


class StagedBackbone(Backbone):
    """A stem, then stages that each read the one before.

    Attributes:
        stem (nn.Module): from the images to the first stage.
        stage_names (tuple[str]): each is the attribute of a stage.

    Args:
        stem (nn.Module): see above.
        stages (dict[str, (nn.Module, ShapeSpec)]): name -> stage, channels and stride of its output.
        out_features (sequence[str]): stages whose outputs are returned.
    """

    def __init__(self, stem, stages, out_features):
        super().__init__()
        self.stem = stem
        self.stage_names = tuple(stages)
        for name, (stage, _) in stages.items():
            self.add_module(name, stage)
        self._out_features = [name for name in stages if name in out_features]
        self._out_feature_channels = {name: shape.channels for name, (_, shape) in stages.items()}
        self._out_feature_strides = {name: shape.stride for name, (_, shape) in stages.items()}

    @property
    def stages(self):
        """list[nn.Module]: in order."""
        # By name: a copy of the module has stages of its own.
        return [getattr(self, name) for name in self.stage_names]

    def forward(self, x):
        """Computes the features of images.

        Args:
            x (Tensor): (N, 3, H, W) float.

        Returns:
            dict[str, Tensor]: fine to coarse, each (N, C, H / stride, W / stride), rounded up by most
            networks.
        """
        return self._run(x)[1]

    def _run(self, x):
        """Returns the last stage's output, and what :meth:`forward` does."""
        x, found = self.stem(x), {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = stage(x)
            if name in self._out_features:
                found[name] = x
        return x, found

    def output_shape(self):
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {n: ShapeSpec(channels=channels[n], stride=strides[n]) for n in self._out_features}

    def freeze(self, freeze_at):
        """Freezes the first parts: their weights, and the statistics of their batch norms.

        Args:
            freeze_at (int): 0 none, 1 the stem, 2 the stem and the first stage, and so on, as
                `MODEL.BACKBONE.FREEZE_AT` counts.

        Returns:
            StagedBackbone: itself.
        """
        for name in ("stem", *self.stage_names)[: max(freeze_at, 0)]:
            part = self.freeze_norms(getattr(self, name).requires_grad_(False))
            setattr(self, name, part)
        return self

    @staticmethod
    def freeze_norms(module):
        """Returns the module with batch norms that keep their statistics and weights."""
        return FrozenBatchNorm2d.convert_frozen_batchnorm(module)


def require_features(wanted, available, key):
    """Raises ValueError unless all features that a config wants are there.

    Args:
        wanted, available (sequence[str]): names.
        key (str): of the config that names the wanted ones.
    """
    if not wanted or not set(wanted) <= set(available):
        raise ValueError(f"{key} is {list(wanted)}: choose from {', '.join(available)}")


def build_fpn(cfg, bottom_up):
    """Puts Detectron2's FPN, by the keys `MODEL.FPN`, on a backbone; a coarser level is pooled.
    ValueError where the backbone does not have the features."""
    require_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up.output_shape(), "MODEL.FPN.IN_FEATURES")
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
