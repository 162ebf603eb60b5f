"""The contract of a feature split, and its registry."""

import abc

import torch
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["FEATURE_SPLIT_REGISTRY", "FeatureSplit", "build_feature_split", "find_feature_split"]

FEATURE_SPLIT_REGISTRY = Registry("FEATURE_SPLIT")
FEATURE_SPLIT_REGISTRY.__doc__ = """
Registry of feature splits: subclasses of :class:`FeatureSplit` that can be called as
`cls(cfg, backbone)`, where `backbone` is the Detectron2 backbone after or in which it is cut.
"""


class FeatureSplit(nn.Module, abc.ABC):
    """What happens to the features at the cut.

    The edge half calls :meth:`reduce` on them and sends the result; the cloud half calls
    :meth:`restore` on what it received. A split cuts after the backbone unless it overrides the methods
    that take one.

    Attributes:
        sends_image (bool): whether the image itself is sent and the cloud runs the whole network.
        trains_edge (bool): whether training changes what is sent; if not, there is nothing that could
            learn to be compressible.
        trains_from_scratch (bool): whether step 3 of training needs no trained task network.
        anchor_split (str or None): name of the split that sends all features at the same cut, to compare
            with.
        edge_modules (tuple[str]): names of the sub-modules that the edge half runs.
        codec_defaults (dict): what the config leaves open of the codec: "quantizer", "value_range",
            "train_quantization", see :class:`QuantizedFeatureCodec`, and "colour", whether codecs of
            colour images may be used.
    """

    sends_image = False
    trains_edge = True
    trains_from_scratch = False
    anchor_split = None
    edge_modules = ()
    codec_defaults = {
        "quantizer": "tensor",
        "value_range": (-1.0, 1.0),
        "train_quantization": "none",
        "colour": False,
    }

    @property
    def name(self):
        """str: the name in the registry and on the wire."""
        return type(self).__name__

    @abc.abstractmethod
    def reduce(self, features):
        """
        Args:
            features (dict[str, Tensor]): at the cut, each (N, C, H, W) float.

        Returns:
            list[Tensor]: what to quantize and send, each (N, C', H', W') float.
        """

    @abc.abstractmethod
    def restore(self, tensors, image_size):
        """
        Args:
            tensors (list[Tensor]): as :meth:`reduce` returned, or decoded from a bitstream.
            image_size ((int, int)): height and width, in pixels, of the padded images.

        Returns:
            dict[str, Tensor]: same keys and shapes as the features at the cut.
        """

    @abc.abstractmethod
    def reduced_shapes(self, image_size):
        """
        Args:
            image_size ((int, int)): height and width, in pixels, of a padded image.

        Returns:
            list[(int, int, int)]: C', H', W' of each tensor of :meth:`reduce`.
        """

    def stand_in(self, tensors):
        """In training: stands in for the codec, between :meth:`reduce` and :meth:`restore`.

        Args:
            tensors (list[Tensor]): each (N, C', H', W') float.

        Returns:
            list[Tensor]: of the same shapes, differentiable; by default as they are.
        """
        return tensors

    def forward(self, features, image_size):
        """In training: reduces the features, stands in for the codec, and restores them.

        Args and result are those of :meth:`reduce` and :meth:`restore`.
        """
        return self.restore(self.stand_in(self.reduce(features)), image_size)

    def quick_reduce(self, backbone, images):
        """What :meth:`reduce` gives of a backbone's features, where not all of them need be computed.

        Args:
            backbone (Backbone): that the split was built for.
            images (Tensor): (N, C, h, w) float, as the backbone takes them.

        Returns:
            list[Tensor] or None: the same sums as :meth:`reduce`, with gradients; None if that takes all
            of the backbone.
        """
        return None

    def edge(self, backbone, images):
        """The edge half.

        Args:
            backbone (Backbone): that the split was built for.
            images (Tensor): (N, C, H, W) float, as the backbone takes them.

        Returns:
            (list[Tensor], int): what to quantize and send, and the number of elements of the features at
            the cut, of one image, before any reduction.
        """
        features = backbone(images)
        return self.reduce(features), sum(x[0].numel() for x in features.values())

    def cloud(self, backbone, tensors, image_size, steps):
        """The cloud half, up to what the backbone returns.

        Args:
            backbone (Backbone): that the split was built for.
            tensors (list[Tensor]): decoded, each (N, C', H', W') float.
            image_size ((int, int)): height and width, in pixels, of the padded images.
            steps (list[Tensor]): of the quantizer, see :meth:`FeatureCodec.quantizer_steps`; each
                (N, C', 1, 1) or (N, 1, 1, 1).

        Returns:
            dict[str, Tensor]: as the backbone returns.
        """
        return self.restore(tensors, image_size)

    def edge_state(self, backbone):
        """Yields (name, Tensor): all that the edge half's output depends on."""
        parts = {"backbone": backbone}
        for name in self.edge_modules:
            parts[f"feature_split.{name}"] = getattr(self, name)
        for prefix, module in parts.items():
            yield from module.state_dict(prefix=f"{prefix}.", keep_vars=True).items()

    def cloud_state(self, backbone):
        """Yields (name, Tensor): of backbone and split, what the cloud half's output depends on."""
        for name, tensor in self.state_dict(prefix="feature_split.", keep_vars=True).items():
            if name.split(".")[1] not in self.edge_modules:
                yield name, tensor

    def cloud_modules(self, network):
        """Modules of a network that may be computed otherwise for features of :meth:`restore`.

        Args:
            network (SplitInference): not changed.

        Returns:
            dict[str, nn.Module]: name of a child of the network -> a module that gives the same.
        """
        return {}

    def unfolded(self):
        """tuple[nn.Module]: convolutions whose batch norms are read, so must not be folded into them."""
        return ()

    def cut_module(self, backbone):
        """The module whose output :meth:`replace` takes the place of in training."""
        return backbone

    def replace(self, output, inputs):
        """In training: what the cloud half would see in place of an output of :meth:`cut_module`.

        Args:
            output (dict[str, Tensor] or Tensor): of that module.
            inputs (Tensor): that it was computed from.

        Returns:
            (as `output`, list[Tensor]): what the cloud half would see, and what would be coded; the
            latter empty where `trains_edge` is False.
        """
        sent = self.reduce(output)
        return self.restore(self.stand_in(sent), inputs.shape[-2:]), sent

    def run_to_cut(self, backbone, images):
        """In training: runs :meth:`cut_module` and what comes before it; returns nothing."""
        backbone(images)

    def distillation_loss(self, restored, features):
        """What training with `LOSS: distill` minimizes, by default :func:`distillation_loss`.

        Args:
            restored, features: as :meth:`replace` returns first, and takes.

        Returns:
            Tensor: scalar. No gradient flows into `features`.
        """
        return distillation_loss(restored, features)


def distillation_loss(restored, features):
    """Distance of the restored features from the original ones.

    Args:
        restored, features (dict[str, Tensor]): same keys; (N, C, H, W) float.

    Returns:
        Tensor: scalar; for each level the mean squared error over the level's variance, averaged over
        the levels. 1 is what a constant (the mean) would reach. No gradient flows into `features`.
    """
    losses = []
    for name, target in features.items():
        target = target.detach().float()
        error = (restored[name].float() - target).square().mean()
        losses.append(error / target.var(unbiased=False).clamp(min=1e-6))
    return torch.stack(losses).mean()


def build_feature_split(cfg, backbone):
    """Builds the split that `cfg.MODEL.FEATCOMP.SPLIT` names.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        backbone (Backbone): the backbone that the network is cut after.

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
