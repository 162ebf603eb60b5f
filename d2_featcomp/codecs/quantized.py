"""The codec without parameters: uniform quantization, and an image codec for the symbols.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a latent y; n: bit depth
"""

import difflib
from functools import partial

import numpy as np
import torch

from ..ops import (
    FLOAT_BITS,
    add_quantization_noise,
    check_bits,
    compressibility_loss,
    quantize_ste,
)
from .base import FeatureCodec
from .images import build_image_codec
from .quantizers import Quantizer, build_quantizer
from .symbol_coding import arrange, code_floats, code_symbols
from .symbols import SymbolDecoder, dequantize, step_size, symbols_from_image

__all__ = ["QuantizedFeatureCodec", "as_array", "read_defaults", "read_settings"]

TRAIN_QUANTIZATIONS = ("none", "noise", "ste")
UNITS = ("features", "steps")
# Of a split that does not say otherwise.
DEFAULTS = {
    "quantizer": "tensor",
    "value_range": (-1.0, 1.0),
    "train_quantization": "none",
    "ordered": True,
}


class QuantizedFeatureCodec(FeatureCodec):
    """Quantizes latents uniformly and codes the symbols by an image codec.

    A payload is never larger than fixed-length symbols: where the image codec would need more, those
    take its place.

    In evaluation :meth:`quantize` and `forward` give the y_hat of a lossless image codec; the loss of a
    lossy one is in :meth:`decompress` of :meth:`compress` alone.

    Args:
        image_codec (ImageCodec): also fixes the bit depth.
        quantizer (str or Quantizer): "fixed" (one range for all data), "tensor" or "channel" (their own
            minimum and maximum, coded as float16), or another of `QUANTIZER_REGISTRY`.
        value_range ((float, float)): the range of "fixed"; must be float16 values. Not used with a
            Quantizer that has a range of its own.
        train_quantization (str): the quantization surrogate of training: "none", "noise" (uniform, one
            step size wide; gradients flow through the range, too) or "ste" (rounding in the range that
            would be coded, with a straight-through gradient).
        train_bits (tuple[int]): with "ste", each image of a training batch is quantized with one of
            these bit depths; () is the image codec's.
        compressibility_units (str or None): adds the rate term "compressibility" in training, of
            latents measured in "features" (as they are, MTL eq. 5) or "steps" (in step sizes; then it
            does not help to make all latents smaller). None adds none.

    Raises:
        ValueError: one of them is unknown, or an empty or unrepresentable range.
    """

    def __init__(
        self,
        *,
        image_codec,
        quantizer="fixed",
        value_range=(-1.0, 1.0),
        train_quantization="none",
        train_bits=(),
        compressibility_units=None,
    ):
        super().__init__()
        self.image_codec = image_codec
        self.value_range = _checked_range(value_range)
        if not isinstance(quantizer, Quantizer):
            quantizer = build_quantizer(quantizer, self.value_range)
        elif quantizer.value_range is not None:
            self.value_range = tuple(map(float, quantizer.value_range))
        if quantizer.omits_channels and not self._can_omit_channels():
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.QUANTIZER {quantizer.name} leaves channels out, but codec "
                f"{self.name!r} codes all of them: choose another of the two"
            )
        self._quantizer = quantizer
        self.train_quantization = _checked("TRAIN_QUANTIZATION", train_quantization, TRAIN_QUANTIZATIONS)
        self.train_bits = tuple(check_bits(bits) for bits in train_bits)
        self.compressibility_units = compressibility_units
        if compressibility_units is not None:
            _checked("COMPRESSIBILITY.UNITS", compressibility_units, UNITS)

    @classmethod
    def from_config(cls, cfg, feature_split):
        """See :meth:`FeatureCodec.from_config`."""
        codec = cfg.MODEL.FEATCOMP.CODEC
        settings = read_settings(cfg, feature_split)
        image_codec = build_image_codec(
            codec.NAME, bits=codec.BITS, quality=codec.QUALITY, effort=codec.EFFORT
        )
        if image_codec.layout == "colour" and not feature_split.codec_defaults.get("colour"):
            raise ValueError(
                f"codec {codec.NAME!r} codes colour images, not features: use it with "
                "MODEL.FEATCOMP.SPLIT ImageSplit, or choose another MODEL.FEATCOMP.CODEC.NAME"
            )
        return cls(image_codec=image_codec, **settings)

    @property
    def name(self):
        """str: of the image codec."""
        return self.image_codec.name

    @property
    def bits(self):
        """int: n, the bit depth of a symbol."""
        return self.image_codec.bits

    @property
    def lossless(self):
        """bool: whether the image codec is lossless."""
        return self.image_codec.lossless

    @property
    def quantizer(self):
        """str: "fixed", "tensor", "channel" or another of `QUANTIZER_REGISTRY`; "none" at 32 bits."""
        return "none" if self.bits == FLOAT_BITS else self._quantizer.name

    def _can_omit_channels(self):
        return self.image_codec.layout != "colour"

    def describe(self):
        """See :meth:`FeatureCodec.describe`."""
        low, high = self.value_range
        return (
            f"{type(self).__name__} {self.name} bits={self.bits} lossless={self.lossless} "
            f"quantizer={self.quantizer}" + (f"[{low!r},{high!r}]" if self.quantizer == "fixed" else "")
        )

    # ---- training and evaluation -----------------------------------------------------------------

    def quantize(self, ys):
        """See :meth:`FeatureCodec.quantize`; everything is computed in float32."""
        ys = [y.float() for y in ys]
        if not self.training:
            return (*_unzip(self._quantize_batch(y, index) for index, y in enumerate(ys)), {})
        bits = self._draw_bits(len(ys[0]) if ys else 0)
        y_hats, steps = _unzip(self._surrogate(y, bits, index) for index, y in enumerate(ys))
        rate_terms = {}
        if self.compressibility_units is not None:
            rate_terms["compressibility"] = self._compressibility(ys)
        return y_hats, steps, rate_terms

    def _quantize_batch(self, y, index):
        """In evaluation: (y_hat, step sizes)."""
        if self.bits == FLOAT_BITS:
            return y, y.new_zeros(len(y), 1, 1, 1)
        y_hats, steps = [], []
        for x in y.detach():
            symbols, low, high = self._quantize_latent(x, index)
            y_hats.append(dequantize(symbols, self.bits, low, high))
            steps.append(step_size(self.bits, low, high))
        return torch.stack(y_hats), torch.stack(steps)

    def _draw_bits(self, images):
        """In training: the bit depth of each image of a batch."""
        if self.train_quantization != "ste" or not self.train_bits:
            return [self.bits] * images
        return [self.train_bits[int(torch.randint(len(self.train_bits), ()))] for _ in range(images)]

    def _surrogate(self, y, bits, index):
        """In training: (y_hat, step sizes)."""
        if self.train_quantization == "ste":
            y_hats, steps = _unzip(self._round(x, n) for x, n in zip(y, bits, strict=True))
            return torch.stack(y_hats), torch.stack(steps)
        low, high = self._quantizer.find_batch_range(y)
        steps = step_size(self.bits, low, high).detach()
        if self.train_quantization == "noise":
            y = add_quantization_noise(y, self.bits, low, high)
        return y, steps

    def _round(self, x, bits):
        """(C, H, W) -> (the same, rounded with a straight-through gradient, step size)."""
        low, high = self._quantizer.find_range(x)
        x = x + (self._quantizer.simplify(x, low, high) - x).detach()
        return quantize_ste(x, bits, low, high), step_size(bits, low, high)

    def _compressibility(self, ys):
        """The mean over all elements of all latents, a scalar Tensor."""
        if self.compressibility_units == "steps":
            ys = [y / self._positive_step(y) for y in ys]
        total = sum(compressibility_loss(y) * y.numel() for y in ys)
        return total / sum(y.numel() for y in ys)

    def _positive_step(self, y):
        """Gradients flow through it, so that the scale of the latents makes no difference."""
        low, high = self._quantizer.find_batch_range(y)
        extent = torch.where(high - low > 0, high - low, 1.0)
        return extent / (2 ** (8 if self.bits == FLOAT_BITS else self.bits) - 1)

    # ---- coding ----------------------------------------------------------------------------------

    def compress(self, ys, **stream):
        """See :meth:`FeatureCodec.compress`. With the keyword arguments of :func:`compress_stream`,
        which this method took once, it returns what that function does."""
        if stream:
            from .streams import compress_stream

            return compress_stream(ys, self, **stream)
        return [self._compress_latent(y.detach().float(), index) for index, y in enumerate(ys)]

    def _compress_latent(self, y, index):
        if self.bits == FLOAT_BITS:
            return code_floats(y.cpu().numpy())
        return self._code_symbols(*self._quantize_latent(y, index), index)

    def _code_symbols(self, symbols, low, high, index):
        """CodedTensor of symbols (C, H, W) and the range that is sent."""
        return code_symbols(
            as_array(symbols, self.bits),
            (low.cpu().numpy(), high.cpu().numpy()),
            self.bits,
            self._quantizer,
            partial(self.encode_symbols, index=index),
        )

    def encode_symbols(self, symbols, index):
        """Codes the symbols, (C, H, W) ndarray or Tensor, of the latent of that index: bytes."""
        symbols = as_array(symbols, self.bits)
        return self.image_codec.encode(arrange(symbols, self.image_codec.layout))

    def _quantize_latent(self, y, index):
        """(C, H, W) float32 -> (symbols, low, high); the latter (1 or C, 1, 1) float32."""
        return self._quantizer.quantize(y, self.bits)

    def find_range(self, y):
        """Finds the range in which a latent, (C, H, W) float32, is quantized, see
        :meth:`Quantizer.find_range`."""
        return self._quantizer.find_range(y)

    @property
    def _decoder(self):
        return SymbolDecoder(
            name=self.name,
            bits=self.bits,
            quantizer=self._quantizer,
            decode_symbols=self._decode_symbols,
        )

    @property
    def _decode_symbols(self):
        return symbols_from_image(type(self.image_codec), self.bits, self.lossless)

    def decompress(self, tensors, shapes, device="cpu"):
        """See :meth:`FeatureCodec.decompress`."""
        return self._decoder.decompress(tensors, shapes, device)

    def step_sizes(self, tensors, shapes, device="cpu"):
        """See :meth:`FeatureCodec.step_sizes`."""
        return self._decoder.step_sizes(tensors, shapes, device)


def read_defaults(cfg, feature_split):
    """Returns the `codec_defaults` of a split, with `DEFAULTS` for what it leaves open; `cfg` and
    `feature_split` are as :meth:`FeatureCodec.from_config` takes them. ValueError for an unknown key."""
    given = feature_split.read_codec_defaults(cfg)
    known = (*DEFAULTS, "colour")
    for key in given:
        if key not in known:
            split = feature_split if isinstance(feature_split, type) else type(feature_split)
            similar = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {similar[0]!r}? " if similar else ""
            raise ValueError(
                f"codec_defaults of {split.__name__} have an unknown key {key!r}: {hint}Known are "
                f"{', '.join(known)}"
            )
    return {**DEFAULTS, **given}


def read_settings(cfg, feature_split):
    """Reads what a :class:`QuantizedFeatureCodec` is built with, but for the image codec.

    Args:
        cfg, feature_split: as :meth:`FeatureCodec.from_config` takes them.

    Returns:
        dict: name of an argument -> its value.

    Raises:
        ValueError: a setting is out of range.
    """
    featcomp = cfg.MODEL.FEATCOMP
    weight = featcomp.COMPRESSIBILITY.WEIGHT
    defaults = read_defaults(cfg, feature_split)
    if not 0 <= weight < float("inf"):
        raise ValueError(
            f"MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT is {weight}: it must be positive, or 0 for no such "
            "loss"
        )
    try:
        train_bits = tuple(map(check_bits, featcomp.BAF.TRAIN_BITS))
    except ValueError as error:
        raise ValueError(f"MODEL.FEATCOMP.BAF.TRAIN_BITS: {error}") from error
    surrogate = featcomp.TRAIN_QUANTIZATION
    if train_bits and surrogate in ("none", "noise"):
        raise ValueError(
            f"MODEL.FEATCOMP.BAF.TRAIN_BITS has no effect with TRAIN_QUANTIZATION {surrogate!r}: set "
            "that to 'ste', or leave TRAIN_BITS out"
        )
    return {
        "quantizer": build_quantizer(
            featcomp.CODEC.QUANTIZER or defaults["quantizer"], defaults["value_range"], featcomp.CODEC
        ),
        "value_range": defaults["value_range"],
        "train_quantization": surrogate or defaults["train_quantization"],
        "train_bits": train_bits,
        "compressibility_units": featcomp.COMPRESSIBILITY.UNITS if weight else None,
    }


def _checked(key, value, allowed):
    if value not in allowed:
        raise ValueError(
            f"MODEL.FEATCOMP.{key} is {value!r}: choose one of {', '.join(map(repr, allowed))}"
        )
    return value


def _checked_range(value_range):
    low, high = value_range
    with np.errstate(over="ignore"):
        rounded = np.array(value_range, dtype=np.float64).astype(np.float16)
    if not low < high or not np.isfinite(rounded).all() or (rounded != np.array(value_range)).any():
        raise ValueError(
            f"quantizer range {tuple(value_range)} must be two float16 values, the first smaller"
        )
    return float(low), float(high)


def _unzip(pairs):
    """Iterable of pairs -> two lists."""
    first, second = [], []
    for one, other in pairs:
        first.append(one)
        second.append(other)
    return first, second


def as_array(symbols, bits):
    """Symbols, Tensor or ndarray -> ndarray, uint8 if n <= 8, else uint16."""
    if isinstance(symbols, torch.Tensor):
        symbols = symbols.cpu().numpy()
    return symbols.astype(np.uint8 if bits <= 8 else np.uint16, copy=False)
