"""A backbone with a split point inside: the one road from images to restored features.

images -> head -> reduce -> codec -> restore -> tail -> what the backbone returns
"""

from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import signature

from detectron2.modeling.backbone import Backbone

from .split_checks import require_latents, require_restored, require_tensors
from .splits.base import compute_distillation_loss

__all__ = [
    "DecodedLatents",
    "SplitBackbone",
    "SplitCall",
    "find_size_divisibility",
    "open_call",
    "unsplit_backbone",
]


@dataclass
class DecodedLatents:
    """Latents that were decoded from the bitstreams of some images.

    Attributes:
        y_hats (list[Tensor]): restored latents, each (N, C', H', W') float32.
        step_sizes (list[Tensor]): of their quantizers, each (N, C', 1, 1) or (N, 1, 1, 1) float32.
        image_size ((int, int)): height and width, in pixels, of the padded images.
    """

    y_hats: list
    step_sizes: list
    image_size: tuple


@dataclass
class SplitCall:
    """One call of a network whose backbone is split: what has to pass beside the meta-architecture,
    which hands its backbone images and takes features, nothing else.

    Attributes:
        decoded (DecodedLatents or None): start from here in place of the images.
        encode (callable or None): computes latents from images in place of
            :meth:`SplitBackbone.encode_features`: the same, faster. Not with `distill`.
        distill (bool): compute the distance of the restored from the original features.
        channel_weights (dict[str, Tensor] or None): of that distance, see
            :func:`compute_distillation_loss`; None is the split's own distance.
        uncoded (bool): neither reduce nor code; for the gradient of what follows.
        tail (bool): compute what comes after the split point.
        losses (dict[str, Tensor]): "loss_distill", if asked for.
        rates (dict[str, Tensor]): rate terms of the codec, not weighted.
        features (dict[str, Tensor]): where `uncoded`, those at the split point, from which gradients are
            computed.
    """

    decoded: DecodedLatents | None = None
    encode: Callable | None = None
    distill: bool = False
    channel_weights: dict | None = None
    uncoded: bool = False
    tail: bool = True
    losses: dict = field(default_factory=dict)
    rates: dict = field(default_factory=dict)
    features: dict = field(default_factory=dict)


# Of this thread (or task), so that a server may use one network in several.
_CALL = ContextVar("split call", default=None)


@contextmanager
def open_call(**settings):
    """Opens a :class:`SplitCall` for the calls of a network inside the `with` block, and yields it."""
    call = SplitCall(**settings)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


def unsplit_backbone(network):
    """Returns the backbone of a meta-architecture, whether it is split or not."""
    backbone = network.backbone
    return backbone.backbone if isinstance(backbone, SplitBackbone) else backbone


def find_size_divisibility(network):
    """Returns int: what a meta-architecture pads images to multiples of, by an attribute of its own, as
    Panoptic-DeepLab's and Mask2Former's have it, or else its backbone's; 0 does not pad."""
    own = getattr(network, "size_divisibility", 0) or 0
    return own if own > 0 else network.backbone.size_divisibility


class SplitBackbone(Backbone):
    """Replaces the backbone of a network; returns the same features, as the cloud restores them.

    In training and, outside of :class:`SplitNetwork`, in evaluation the codec is called as a module:
    there its quantization is computed, but no bytes are made.

    Args:
        backbone (Backbone): that is split.
        split_point (SplitPoint): where; made for that backbone.
        feature_split (FeatureSplit): how features are reduced and restored.
        feature_codec (FeatureCodec): how the latent is coded.
    """

    def __init__(self, *, backbone, split_point, feature_split, feature_codec):
        super().__init__()
        self.backbone = backbone
        self.feature_split = feature_split
        self.feature_codec = feature_codec
        self.split_point = split_point
        # Splits of earlier releases do not ask for step sizes.
        self._gives_steps = "step_sizes" in signature(feature_split.restore).parameters

    @property
    def size_divisibility(self):
        return self.backbone.size_divisibility

    @property
    def padding_constraints(self):
        return self.backbone.padding_constraints

    def output_shape(self):
        return self.backbone.output_shape()

    def forward(self, images):
        """Computes the backbone's features, through the codec.

        Args:
            images (Tensor): (N, C, h, w) float, as the backbone takes them.

        Returns:
            dict[str, Tensor]: as the backbone returns.
        """
        call = _CALL.get() or SplitCall()
        if self.split_point.name == "image":  # coded before the network
            return self.backbone(images)
        if call.decoded is not None:
            return self.decode_features(call.decoded)
        if call.uncoded:
            found = self.split_point.head(images)
            call.features = {name: x.detach().requires_grad_() for name, x in found.items()}
            return self.split_point.tail(call.features)
        size, features = tuple(images.shape[-2:]), None
        if call.encode is not None:
            y = call.encode(images)
        else:
            features = self.split_point.head(images)
            y = self.feature_split.reduce(features)
        require_latents(self.feature_split, y, size)
        y_hats, step_sizes, rates = self.feature_codec.quantize(y)
        steps = None if self.training else step_sizes
        restored = self.restore(DecodedLatents(y_hats, steps, size))
        if features is not None:
            shapes = {name: tuple(x.shape[1:]) for name, x in features.items()}
            require_restored(self.feature_split, restored, shapes)
        call.rates.update(rates)
        if call.distill:
            call.losses["loss_distill"] = (
                self.feature_split.distillation_loss(restored, features)
                if call.channel_weights is None
                else compute_distillation_loss(restored, features, call.channel_weights)
            )
        return self.split_point.tail(restored) if call.tail else {}

    def encode_features(self, images):
        """Computes the edge's part: images to latents.

        Args:
            images (Tensor): as :meth:`forward` takes them.

        Returns:
            list[Tensor]: y, each (N, C', H', W') float.
        """
        y = self.feature_split.reduce(self.split_point.head(images))
        require_tensors(self.feature_split, y)
        return y

    def decode_features(self, decoded):
        """Computes the cloud's part: latents to what the backbone returns.

        Args:
            decoded (DecodedLatents): from bitstreams.

        Returns:
            dict[str, Tensor]: as the backbone returns.
        """
        restored = self.restore(decoded)
        size, specs = decoded.image_size, self.split_point.feature_source().output_shape()
        shapes = {
            name: (spec.channels, *((side // spec.stride, -(-side // spec.stride)) for side in size))
            for name, spec in specs.items()
        }
        require_restored(self.feature_split, restored, shapes)
        return self.split_point.tail(restored)

    def restore(self, decoded):
        """Restores the features at the split point from latents.

        Args:
            decoded (DecodedLatents): from bitstreams, or quantized; `step_sizes` None in training.

        Returns:
            dict[str, Tensor]: as :meth:`FeatureSplit.restore`.
        """
        steps = (decoded.step_sizes,) if self._gives_steps else ()
        return self.feature_split.restore(decoded.y_hats, decoded.image_size, *steps)
