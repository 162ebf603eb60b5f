"""Back-and-forth prediction.

Choi, Cohen and Bajic, "Back-and-Forth Prediction for Deep Tensor Compression", ICASSP 2020.

Shape shorthand in this module:
    N: images of a batch; Q, P: channels of the layer's input and output; s: its stride
    C: channels of the latent; H, W: height and width of the layer's output
"""

import itertools
import logging

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import nn

from ...codecs.variable_rate import VariableRateFeatureCodec
from ...ops import charbonnier_loss, check_bits, consolidate
from ..split_point import InsideLayer
from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .channel_order import read_channel_order

__all__ = ["BaF", "BaFPredictor"]


class BaFPredictor(nn.Module):
    """Backward prediction (fig. 2): from C channels of a convolution's output to all Q of its input.

    Four 3 x 3 convolutions, each but the last followed by PReLU; the first enlarges s times.

    Args:
        in_channels (int): C.
        out_channels (int): Q.
        hidden_channels (int): between the convolutions.
        scale (int): s.
    """

    def __init__(self, *, in_channels, out_channels, hidden_channels, scale):
        super().__init__()
        self.scale = scale
        widths = [in_channels, *3 * [hidden_channels], out_channels]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.activations = nn.ModuleList(nn.PReLU(hidden_channels) for _ in range(3))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, a=0.25)
            nn.init.zeros_(conv.bias)

    def enlarge(self, x):
        """(N, C, H, W) float -> (N, C, s * H, s * W), what the first convolution gets."""
        return F.interpolate(x, scale_factor=float(self.scale), mode="nearest") if self.scale > 1 else x

    def forward(self, x):
        """(N, C, H, W) float -> (N, Q, s * H, s * W)."""
        x = self.enlarge(x)
        for conv, activation in zip(self.convs, self.activations, strict=False):
            x = activation(conv(x))
        return self.convs[-1](x)

    @torch.no_grad()
    def standardize(self, mean, deviation):
        """Changes the first convolution so that it does to x what it did to (x - mean) / deviation.

        Args:
            mean, deviation (Tensor): (C,) float.
        """
        first = self.convs[0]
        first.weight /= deviation[:, None, None]
        first.bias -= (first.weight * mean[:, None, None]).sum(dim=(1, 2, 3))

    def require_linear_start(self):
        """Raises ValueError if there are fewer hidden channels than :meth:`start_linear` needs, Q."""
        hidden, width = self.convs[0].out_channels, self.convs[-1].out_channels
        if hidden < width:
            raise ValueError(
                f"MODEL.FEATCOMP.BAF.HIDDEN_CHANNELS is {hidden}: to start from the least-squares "
                f"prediction it must be at least {width}, the channels of the layer's input. Else set "
                "MODEL.FEATCOMP.BAF.FIT_IMAGES to 0"
            )

    @torch.no_grad()
    def start_linear(self, weight, bias):
        """Makes the predictor compute one convolution; training goes on from there.

        The first convolution becomes it, the others pass its output on; where there are more hidden
        channels than that takes, the rest stay as they were initialized, without effect at first.

        Args:
            weight (Tensor): (Q, C, 3, 3).
            bias (Tensor): (Q,).

        Raises:
            ValueError: there are fewer hidden channels than Q.
        """
        self.require_linear_start()
        width = len(weight)
        self.convs[0].weight[:width], self.convs[0].bias[:width] = weight, bias
        for conv in self.convs[1:]:
            conv.weight[:width] = 0
            conv.weight[range(width), range(width), 1, 1] = 1
        for activation in self.activations:
            activation.weight[:width] = 1  # passes negative values too


@FEATURE_SPLIT_REGISTRY.register()
class BaF(FeatureSplit):
    """Codes C of a layer's P channels and predicts the others from them.

    In the cloud: inverse batch norm; :class:`BaFPredictor`, which predicts the layer's input; the
    layer's own convolution and batch norm; and, for the channels of the latent, eq. 6.

    Args:
        layer (ConvLayer): at the split point.
        stride (int): of the layer's output, in pixels.
        channels (int): C.
        hidden_channels (int): of the predictor.
        order (Tensor or None): (P,) int64, channels by how much they tell; None: to be set later, by
            :meth:`set_channel_order` or by loading a checkpoint.
        use_consolidation (bool): whether eq. 6 is applied.
        ends_are_values (bool): whether the ends of the range in which the codec quantizes a channel are
            among the values that it decodes, as where they are its minimum and maximum: eq. 6 then cuts
            at the decoded extremes. With lossy codecs, and by the ranges' float16 from n = 8 on, these
            may lie a step inside the range, and a few values in 10,000 are cut that need not be.

    Raises:
        ValueError: C is out of range.
    """

    defaults = {"split_point": "layer", "activated": False}
    codec_defaults = {"quantizer": "channel", "train_quantization": "ste"}

    @configurable
    def __init__(
        self,
        *,
        layer,
        stride,
        channels,
        hidden_channels,
        order=None,
        use_consolidation=True,
        ends_are_values=True,
    ):
        super().__init__()
        _check(layer, channels, hidden_channels)
        self.layer = layer
        self.stride = stride
        self.channels = channels
        self.use_consolidation = use_consolidation
        self.ends_are_values = ends_are_values
        self.predictor = BaFPredictor(
            in_channels=channels,
            out_channels=layer.in_channels,
            hidden_channels=hidden_channels,
            scale=layer.stride,
        )
        # -1 until it is known; part of every checkpoint.
        self.register_buffer("order", torch.full((layer.out_channels,), -1))
        if order is not None:
            self.order.copy_(order)

    @classmethod
    def from_config(cls, cfg, backbone):
        featcomp = cfg.MODEL.FEATCOMP
        if not isinstance(backbone, InsideLayer):
            backbone = InsideLayer(backbone, featcomp.LAYER, activated=False)
        layer = backbone.layer
        if featcomp.CODEC.QUANTIZER not in ("", "channel"):
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.QUANTIZER is {featcomp.CODEC.QUANTIZER!r}: BaF quantizes each "
                'channel in its own range; leave it "" or set it to channel'
            )
        for bits in featcomp.BAF.TRAIN_BITS:
            try:
                check_bits(bits)
            except ValueError as error:
                raise ValueError(f"MODEL.FEATCOMP.BAF.TRAIN_BITS: {error}") from error
        path = featcomp.BAF.CHANNEL_ORDER
        order = None
        if path:
            order = read_channel_order(path, layer=layer.number, channels=layer.out_channels)
        return {
            "layer": layer,
            "stride": backbone.stride,
            "channels": featcomp.BAF.CHANNELS,
            "hidden_channels": featcomp.BAF.HIDDEN_CHANNELS,
            "order": order,
            "use_consolidation": featcomp.BAF.CONSOLIDATE,
            # Codec variable_rate counts its steps from the middle of the range.
            "ends_are_values": VariableRateFeatureCodec.name != featcomp.CODEC.NAME,
        }

    @property
    def has_channel_order(self):
        """bool: whether it is known which channels the latent has."""
        return bool((self.order >= 0).all())

    def set_channel_order(self, order):
        """Sets the order in which channels are chosen.

        Args:
            order (Tensor): (P,) int64, a permutation of the layer's channels, best first.
        """
        self.order.copy_(order)

    def standardize(self):
        """Fits a predictor that was just initialized to the scale of the latent's channels."""
        norm, own = self.layer.conv.norm, self.latent_channels
        deviation = (norm.running_var[own] + norm.eps).sqrt()
        self.predictor.standardize(norm.running_mean[own], deviation)

    def predictor_input(self, y_hat):
        """Computes what the predictor's first convolution gets.

        Args:
            y_hat (Tensor): (N, C, H, W) float, the latent, quantized.

        Returns:
            Tensor: (N, C, s * H, s * W), before batch norm, enlarged.
        """
        return self.predictor.enlarge(self._before_norm(y_hat))

    @property
    def latent_channels(self):
        """Tensor: (C,) int64, numbers of the latent's channels."""
        if not self.has_channel_order:
            raise ValueError(
                "it is not known which channels to code: train the split, load one that was trained, or "
                "name a file of tools/select_channels.py in MODEL.FEATCOMP.BAF.CHANNEL_ORDER"
            )
        return self.order[: self.channels]

    sent_channels = latent_channels  # earlier name

    def reduce(self, features):
        """{"z": (N, P, H, W), after batch norm} -> [(N, C, H, W)]."""
        return [features["z"][:, self.latent_channels]]

    def reduced_shapes(self, image_size):
        return [(self.channels, *(side // self.stride for side in image_size))]

    def restore(self, y_hats, image_size, step_sizes=None):
        """[(N, C, H, W)], dequantized -> {"z": (N, P, H, W)}; in training without eq. 6."""
        (y_hat,) = y_hats
        z = self.layer(self.predictor(self._before_norm(y_hat)))
        if step_sizes is not None and self.use_consolidation:
            own = self.latent_channels
            low = high = None
            if self.ends_are_values:
                low, high = (f(y_hat, dim=(2, 3), keepdim=True) for f in (torch.amin, torch.amax))
            z[:, own] = consolidate(z[:, own], y_hat, step_sizes[0], low, high)
        return {"z": z}

    def _before_norm(self, y_hat):
        """Inverts the batch norm of the latent's channels."""
        own = self.latent_channels
        scale, shift = self.layer.scale[own, None, None], self.layer.shift[own, None, None]
        # A channel of scale 0 is constant: nothing is known of its convolution.
        safe = torch.where(scale == 0, torch.ones_like(scale), scale)
        return torch.where(scale == 0, torch.zeros_like(y_hat), (y_hat - shift) / safe)

    def distillation_loss(self, restored, features):
        """Computes the Charbonnier loss after the activation (eq. 7), a mean."""
        activated = (self.layer.activate(each["z"]) for each in (restored, features))
        restored, original = activated
        return charbonnier_loss(restored, original.detach())


def _check(layer, channels, hidden_channels):
    if not 1 <= channels <= layer.out_channels:
        raise ValueError(
            f"MODEL.FEATCOMP.BAF.CHANNELS is {channels}: layer {layer.number} has "
            f"{layer.out_channels} channels"
        )
    if hidden_channels < 1:
        raise ValueError(
            f"MODEL.FEATCOMP.BAF.HIDDEN_CHANNELS is {hidden_channels}: it must be at least 1"
        )
    if channels & (channels - 1):
        logging.getLogger("d2_featcomp").info(
            "MODEL.FEATCOMP.BAF.CHANNELS %d is no power of two: the tiled image has empty tiles",
            channels,
        )
