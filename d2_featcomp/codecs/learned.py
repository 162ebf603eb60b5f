"""The learned codec: uniform quantization, and a learned entropy model for the symbols.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a latent y; n: bit depth
"""

import torch
from torch import nn

from .base import FEATURE_CODEC_REGISTRY
from .entropy import ContextModel
from .entropy.range_coder import require_constriction
from .images.raw import RawCodec
from .quantized import QuantizedFeatureCodec, as_array, read_settings

__all__ = ["LearnedFeatureCodec"]

_MOST_BITS = 8


@FEATURE_CODEC_REGISTRY.register()
class LearnedFeatureCodec(QuantizedFeatureCodec):
    """Codes the symbols of a :class:`QuantizedFeatureCodec` by their probabilities, which a context
    model (:class:`ContextModel`) learns, and a range coder.

    A payload is never larger than fixed-length symbols: where the range coder would need more, those are
    sent in its place. Decoded symbols are the very ones that were coded, on every machine: coding
    computes in integers.

    In training, where gradients are computed, :meth:`quantize` adds the rate term "entropy", the
    estimated bits a symbol: minimizing it fits the context model. Its gradient for the latents is that
    of `rate_weight` times the estimated bytes of an image; with 0 they get none.

    Args:
        channels (sequence[int]): C of each latent.
        bits (int): n, 2..8.
        rate_weight (float): lambda, task loss for one byte of an image.
        group, hidden, rates, hyper, context: as :class:`ContextModel` takes them.
        settings: `quantizer`, `value_range`, `train_quantization` and `compressibility_units` of
            :class:`QuantizedFeatureCodec`.

    Raises:
        ValueError: a setting is out of range. ImportError: the package constriction is not installed.
    """

    name = "learned"
    lossless = True
    has_weights = True

    def __init__(
        self,
        *,
        channels,
        bits,
        rate_weight=0.0,
        group=0,
        hidden=0,
        rates=1,
        hyper=0,
        context=True,
        **settings,
    ):
        self.require_library()
        if not 2 <= bits <= _MOST_BITS:
            raise ValueError(
                f"codec {self.name!r} codes symbols of 2 to {_MOST_BITS} bits, not {bits} "
                "(MODEL.FEATCOMP.CODEC.BITS)"
            )
        if not 0 <= rate_weight < float("inf"):
            raise ValueError(
                f"MODEL.FEATCOMP.TRAIN.RATE_WEIGHT is {rate_weight}: it must be positive, or 0 for no "
                "such loss"
            )
        super().__init__(image_codec=RawCodec(bits=bits), **settings)
        self.rate_weight = rate_weight
        self.context_models = nn.ModuleList(
            ContextModel(count, bits, group, hidden, rates, hyper, context) for count in channels
        )

    def _can_omit_channels(self):
        return False  # a context model knows its channels, and constant ones cost next to nothing

    @classmethod
    def require_library(cls):
        require_constriction()

    @classmethod
    def from_config(cls, cfg, feature_split):
        """See :meth:`FeatureCodec.from_config`. Of a class in place of a split it knows no channels,
        and can only tell its settings."""
        featcomp = cfg.MODEL.FEATCOMP
        settings = read_settings(cfg, feature_split)
        if settings.pop("train_bits"):
            raise ValueError(
                f"codec {cls.name!r} learns one bit depth: set MODEL.FEATCOMP.BAF.TRAIN_BITS to ()"
            )
        for key in ("QUALITY", "EFFORT"):
            if featcomp.CODEC[key] is not None:
                raise ValueError(
                    f"codec {cls.name!r} takes no CODEC.{key}: leave it out, or set it to None"
                )
        for key, zero in (("GROUP", "choose it"), ("HIDDEN", "choose it"), ("HYPER", "have none")):
            if featcomp.CODEC.LEARNED[key] < 0:
                raise ValueError(
                    f"MODEL.FEATCOMP.CODEC.LEARNED.{key} is {featcomp.CODEC.LEARNED[key]}: give a "
                    f"number of channels, or 0 to {zero}"
                )
        if feature_split.codec_defaults.get("colour"):
            raise ValueError(f"codec {cls.name!r} codes features, not images: choose another CODEC.NAME")
        shapes = [] if isinstance(feature_split, type) else feature_split.reduced_shapes((256, 256))
        # Where training rounds anyway the decoder sees symbols; else it must begin to.
        if settings["train_quantization"] == "none":
            settings["train_quantization"] = "ste"
        return cls(
            channels=[channels for channels, _, _ in shapes],
            bits=featcomp.CODEC.BITS,
            rate_weight=featcomp.TRAIN.RATE_WEIGHT,
            group=featcomp.CODEC.LEARNED.GROUP,
            hidden=featcomp.CODEC.LEARNED.HIDDEN,
            hyper=featcomp.CODEC.LEARNED.HYPER,
            context=featcomp.CODEC.LEARNED.CONTEXT,
            **cls.read_rate_settings(cfg, feature_split),
            **settings,
        )

    @classmethod
    def read_rate_settings(cls, cfg, feature_split):
        """Reads what a subclass is built with beside the arguments of this class.

        Args:
            cfg, feature_split: as :meth:`FeatureCodec.from_config` takes them.

        Returns:
            dict: name of an argument -> its value.
        """
        return {}

    # ---- training ----------------------------------------------------------------------------------

    def quantize(self, ys):
        """See :meth:`FeatureCodec.quantize`."""
        y_hats, steps, rate_terms = super().quantize(ys)
        if self.training and torch.is_grad_enabled():  # it is there for its gradient
            rate_terms["entropy"] = self._rate_term(ys)
        return y_hats, steps, rate_terms

    def _rate_term(self, ys):
        symbols = sum(y[0].numel() for y in ys)
        self._bytes_of_rate_term = symbols / 8  # of an image, for one bit a symbol
        bits = sum(self._estimate_bits(y.float(), index) for index, y in enumerate(ys))
        self.estimated_bytes = bits.detach() / 8 / len(ys[0])
        return bits / symbols / len(ys[0])

    def _estimate_bits(self, y, index):
        """Estimates the bits of a latent, (N, C, H, W): a scalar Tensor. Of its gradient to `y` the rate
        term makes that of `rate_weight` times the bytes of an image."""
        scale = self.rate_weight * self._bytes_of_rate_term
        y = scale_gradient(y, scale) if scale else y.detach()
        return self.context_models[index](self._find_positions(y))

    def _find_positions(self, y):
        """(N, C, H, W) latents -> the same in units of step sizes, from the low end of their range."""
        low, high = (end.detach() for end in self._quantizer.find_batch_range(y))
        return (y - low) / ((high - low).clamp(min=1e-12) / (2**self.bits - 1))

    def update(self):
        """Makes the integers that coding uses from the weights that are trained."""
        for model in self.context_models:
            model.update()

    def train(self, mode=True):
        if self.training and not mode:
            self.update()
        return super().train(mode)

    # ---- stage 4 -----------------------------------------------------------------------------------

    @property
    def fitting_rates(self):
        """tuple: rates at which the fitted entropy model is measured; None stands for the only one."""
        return (None,)

    def keep_for_fitting(self, y):
        """Returns what training stage 4 keeps of a latent, (C, H, W): here its symbols, uint8."""
        return self.find_symbols(y).to(torch.uint8)

    def find_symbols_at(self, kept, index, rate):
        """Returns the symbols, (C, H, W) integers, of what :meth:`keep_for_fitting` returned."""
        return kept

    # ---- coding ------------------------------------------------------------------------------------

    def integer_models(self):
        """Returns what codes the symbols of each latent, list[IntegerModel]; it needs no PyTorch."""
        return [model.integer_model() for model in self.context_models]

    def count_macs(self, shapes):
        """See :meth:`FeatureCodec.count_macs`: those of the entropy models."""
        pairs = zip(self.integer_models(), shapes, strict=True)
        return sum(model.count_macs(shape) for model, shape in pairs)

    def find_symbols(self, y, index=0):
        """Quantizes a latent.

        Args:
            y (Tensor): (C, H, W) float.
            index (int): of the latent.

        Returns:
            Tensor: (C, H, W), integers below 2^n.
        """
        return self._quantize_latent(y.detach().float(), index)[0]

    def encode_symbols(self, symbols, index, rate=None):
        """Codes the symbols of a latent.

        Args:
            symbols (Tensor or ndarray): (C, H, W), of :meth:`find_symbols`.
            index (int): of the latent.
            rate (float or None): at which it was quantized, where the codec has several.

        Returns:
            bytes
        """
        return self.context_models[index].integer_model().encode(as_array(symbols, self.bits))

    def _decode_symbols(self, payload, shape, index):
        model = self.context_models[index].integer_model()
        return torch.from_numpy(model.decode(payload, shape))


def scale_gradient(values, scale):
    """Passes values on, and multiplies their gradient by `scale`, a number or a Tensor."""
    return _ScaledGradient.apply(values, scale)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.scale, None
