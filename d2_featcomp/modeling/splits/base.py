"""The contract of a feature split, and its registry."""

import abc
import logging

import torch
from detectron2.utils.logger import log_first_n
from torch import nn

from ...registry import Registry

__all__ = [
    "FEATURE_SPLIT_REGISTRY",
    "FeatureSplit",
    "build_feature_split",
    "compute_distillation_loss",
    "find_feature_split",
    "find_split_name",
    "find_stored_name",
]

# Name of earlier releases -> name of today. Config files may hold the former; bitstreams of format 1,
# fingerprints, exported files and cache keys keep them.
RENAMED_SPLITS = {
    "Image": "ImageSplit",
    "Layer": "IntermediateLayerSplit",
    "Pyramid": "PyramidSplit",
}


class SplitRegistry(Registry):
    """Registers feature splits, and finds those of `RENAMED_SPLITS` by their earlier names too."""

    def get(self, name):
        return super().get(self.name_today(name))

    def __contains__(self, name):
        return super().__contains__(self.name_today(name))

    def name_today(self, name):
        """Returns the name itself unless it is an earlier one that no other split has."""
        return name if super().__contains__(name) else RENAMED_SPLITS.get(name, name)


FEATURE_SPLIT_REGISTRY = SplitRegistry("FEATURE_SPLIT")
FEATURE_SPLIT_REGISTRY.__doc__ = """
Registry of feature splits: subclasses of :class:`FeatureSplit` that can be called as
`cls(cfg, backbone)`, where `backbone` has a method `output_shape()` that gives the features at the split
point; for splits inside a layer it is the whole backbone.
"""


class FeatureSplit(nn.Module, abc.ABC):
    """Reduction and restoration of the features at a split point: the edge reduces them to latents y,
    the cloud restores them from y_hat.

    Which of the module's weights belong to the edge and which to the cloud follows from which of them
    :meth:`reduce` and :meth:`restore` read.

    Attributes:
        defaults (dict): settings that suit this split, for what the config leaves open: "split_point"
            ("backbone", "layer" or "image", see :func:`build_split_point`; default "backbone"),
            "activated" (of a layer, default True), "from_scratch" (whether training needs no trained
            task network, default False).
        codec_defaults (dict): the same for the codec: "quantizer" (see `QUANTIZER_REGISTRY`),
            "value_range" (of "fixed"), "train_quantization" ("none", "noise" or "ste"), "colour"
            (whether y is an image in colour), "ordered" (False for features of the task network as they
            are, whose first channels matter no more than the last; default True). See
            :meth:`read_codec_defaults`.
    """

    defaults = {}
    codec_defaults = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Names of earlier releases, which other projects' splits may still have.
        earlier = {"default_quantizer": "quantizer", "value_range": "value_range"}
        given = {new: vars(cls)[old] for old, new in earlier.items() if old in vars(cls)}
        if given:
            cls.codec_defaults = {**cls.codec_defaults, **given}

    @classmethod
    def read_codec_defaults(cls, cfg):
        """Returns the `codec_defaults`, which of some splits depend on the config.

        Args:
            cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        """
        return cls.codec_defaults

    @abc.abstractmethod
    def reduce(self, features):
        """Reduces the features at the split point to latents.

        Args:
            features (dict[str, Tensor]): each (N, C, H, W) float.

        Returns:
            list[Tensor]: y, to be coded, each (N, C', H', W') float.
        """

    @abc.abstractmethod
    def restore(self, y_hats, image_size, step_sizes=None):
        """Restores the features from latents.

        Args:
            y_hats (list[Tensor]): as :meth:`reduce` returned, quantized or decoded from a bitstream.
            image_size ((int, int)): height and width, in pixels, of the padded images.
            step_sizes (list[Tensor] or None): of the quantizer, each (N, C', 1, 1) or (N, 1, 1, 1); None
                in training.

        Returns:
            dict[str, Tensor]: same keys and shapes as the features at the split point.
        """

    @abc.abstractmethod
    def reduced_shapes(self, image_size):
        """Computes the shapes of the latents.

        Args:
            image_size ((int, int)): height and width, in pixels, of a padded image.

        Returns:
            list[(int, int, int)]: C', H', W' of each latent.
        """

    def distillation_loss(self, restored, features):
        """Computes the loss of training with `LOSS: distill`, by default
        :func:`compute_distillation_loss`.

        Args:
            restored, features (dict[str, Tensor]): as :meth:`restore` returns, and :meth:`reduce` takes.

        Returns:
            Tensor: scalar. No gradient flows into `features`.
        """
        return compute_distillation_loss(restored, features)


def compute_distillation_loss(restored, features, channel_weights=None):
    """Computes the distance of the restored features from the original ones.

    Args:
        restored, features (dict[str, Tensor]): same keys; (N, C, H, W) float.
        channel_weights (dict[str, Tensor] or None): level -> (C,) float, weights of the squared errors.

    Returns:
        Tensor: scalar. Without weights, for each level the mean squared error over the level's
        variance, averaged over the levels. With them, the weighted sum of all squared errors over that
        of the features' squared distances from their channel's mean. 1 is what a constant (the mean)
        would reach. No gradient flows into `features`.
    """
    if channel_weights is not None:
        return _compute_weighted_loss(restored, features, channel_weights)
    losses = []
    for name, target in features.items():
        target = target.detach().float()
        error = (restored[name].float() - target).square().mean()
        losses.append(error / target.var(unbiased=False).clamp(min=1e-6))
    return torch.stack(losses).mean()


def _compute_weighted_loss(restored, features, channel_weights):
    errors, spreads = [], []
    for name, target in features.items():
        target = target.detach().float()
        weights = channel_weights[name].to(target).view(1, -1, 1, 1)
        centred = target - target.mean(dim=(0, 2, 3), keepdim=True)
        errors.append((weights * (restored[name].float() - target).square()).sum())
        spreads.append((weights * centred.square()).sum())
    return torch.stack(errors).sum() / torch.stack(spreads).sum().clamp(min=1e-12)


def build_feature_split(cfg, backbone):
    """Builds the split that `cfg.MODEL.FEATCOMP.SPLIT` names.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        backbone (Backbone): see `FEATURE_SPLIT_REGISTRY`.

    Returns:
        FeatureSplit

    Raises:
        ValueError: no split of that name is registered, or a setting does not suit the backbone.
    """
    return find_feature_split(cfg.MODEL.FEATCOMP.SPLIT)(cfg, backbone)


def find_feature_split(name):
    """Returns the registered class; ValueError, listing those there are, for an unknown name."""
    if name not in FEATURE_SPLIT_REGISTRY:
        known = ", ".join(sorted(split for split, _ in FEATURE_SPLIT_REGISTRY))
        raise ValueError(f"unknown feature split {name!r} (MODEL.FEATCOMP.SPLIT): choose one of {known}")
    return FEATURE_SPLIT_REGISTRY.get(name)


def find_split_name(name):
    """Returns the name of today of a registered split; logs, once, that an earlier one was given."""
    today = FEATURE_SPLIT_REGISTRY.name_today(name)
    if today != name:
        message = f"MODEL.FEATCOMP.SPLIT {name} is now called {today}"
        log_first_n(logging.WARNING, message, name="d2_featcomp", key="message")
    return today


def find_stored_name(name):
    """Returns the name under which bitstreams, fingerprints, exported files and cache keys know a split:
    that of its first release."""
    return {today: earlier for earlier, today in RENAMED_SPLITS.items()}.get(name, name)
