"""Quantizers: which range the symbols of a latent divide, and what of it a bitstream holds.

To add one, subclass :class:`Quantizer`, register it, and name it in `MODEL.FEATCOMP.CODEC.QUANTIZER`.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a latent y; n: bit depth
"""

import abc
import importlib

import numpy as np

from ..ops import arrays
from .images.base import CodecRegistry

__all__ = ["QUANTIZER_REGISTRY", "Quantizer", "build_quantizer"]

QUANTIZER_REGISTRY = CodecRegistry("QUANTIZER")
QUANTIZER_REGISTRY.__doc__ = """
Registry of quantizers, subclasses of :class:`Quantizer`, by their `name`.
"""


def _functions(y):
    """The module of functions on what `y` is: an array, of an edge without PyTorch, or a Tensor."""
    if isinstance(y, np.ndarray):
        return arrays
    return importlib.import_module("d2_featcomp.ops.quantization")


class Quantizer(abc.ABC):
    """Chooses the range that the symbols of a latent divide uniformly.

    A latent is a Tensor or, on an edge without PyTorch, an ndarray, and so are the results then.

    Class attributes:
        name (str): in the registry.
        value_range ((float, float) or None): where it is always the same, so that no stream holds it.
        omits_channels (bool): whether channels of one value are left out of what is coded; see
            :func:`write_constant_channels`.
    """

    name = ""
    value_range = None
    omits_channels = False

    @classmethod
    def from_config(cls, codec, value_range):
        """Builds the quantizer.

        Args:
            codec (CfgNode or None): MODEL.FEATCOMP.CODEC; None: the defaults of its keys.
            value_range ((float, float)): of the latents, as their split knows it.

        Raises:
            ValueError: a setting is out of range.
        """
        return cls()

    def count_ranges(self, channels):
        """Counts the ranges that a stream holds of a latent of so many channels."""
        return 1

    @abc.abstractmethod
    def find_range(self, y):
        """Finds the range of a latent, as it is sent.

        Args:
            y (Tensor): (C, H, W) float32.

        Returns:
            (Tensor, Tensor): low and high, (1 or C, 1, 1) float32 holding float16 values.

        Raises:
            ValueError: a NaN or infinity in `y`.
        """

    @abc.abstractmethod
    def find_batch_range(self, y):
        """Finds ranges in training, with gradients: a wider range makes larger errors.

        Args:
            y (Tensor): (N, C, H, W) float32.

        Returns:
            (Tensor, Tensor): low and high, each (N, 1 or C, 1, 1), not rounded.
        """

    def simplify(self, y, low, high):
        """Returns what is quantized in place of a latent, (C, H, W), whose range is low to high."""
        return y

    def quantize(self, y, bits):
        """Quantizes a latent.

        Args:
            y (Tensor): (C, H, W) float32.
            bits (int): n, 2..16.

        Returns:
            (Tensor, Tensor, Tensor): symbols, as :func:`quantize_uniform` gives them, low and high.
        """
        low, high = self.find_range(y)
        simple = self.simplify(y, low, high)
        return _functions(y).quantize_uniform(simple, bits, low, high), low, high


def build_quantizer(name, value_range=(-1.0, 1.0), codec=None):
    """Builds a registered quantizer.

    Args:
        name (str): e.g. "tensor".
        value_range ((float, float)): of "fixed".
        codec (CfgNode or None): MODEL.FEATCOMP.CODEC; None: the defaults of its keys.

    Raises:
        ValueError: unknown quantizer, or a setting out of range.
    """
    if name not in QUANTIZER_REGISTRY:
        known = ", ".join(sorted(quantizer for quantizer, _ in QUANTIZER_REGISTRY))
        raise ValueError(f"unknown quantizer {name!r}: choose one of {known} (CODEC.QUANTIZER)")
    return QUANTIZER_REGISTRY.get(name).from_config(codec, value_range)


@QUANTIZER_REGISTRY.register()
class FixedRange(Quantizer):
    """One range for all data.

    Args:
        value_range ((float, float)): low and high.
    """

    name = "fixed"

    def __init__(self, value_range=(-1.0, 1.0)):
        self.value_range = value_range

    @classmethod
    def from_config(cls, codec, value_range):
        """See :meth:`Quantizer.from_config`."""
        return cls(value_range)

    def count_ranges(self, channels):
        """See :meth:`Quantizer.count_ranges`."""
        return 0

    def find_range(self, y):
        """See :meth:`Quantizer.find_range`."""
        if isinstance(y, np.ndarray):
            return tuple(np.full((1, 1, 1), end, np.float32) for end in self.value_range)
        return tuple(y.new_full((1, 1, 1), end) for end in self.value_range)

    def find_batch_range(self, y):
        """See :meth:`Quantizer.find_batch_range`."""
        return tuple(y.new_full((len(y), 1, 1, 1), end) for end in self.value_range)


@QUANTIZER_REGISTRY.register()
class TensorRange(Quantizer):
    """Minimum and maximum of the tensor."""

    name = "tensor"
    _per_channel = False

    def find_range(self, y):
        """See :meth:`Quantizer.find_range`."""
        return _functions(y).minmax_range(y, self._per_channel)

    def find_batch_range(self, y):
        """See :meth:`Quantizer.find_batch_range`."""
        dims = (2, 3) if self._per_channel else (1, 2, 3)
        return y.amin(dim=dims, keepdim=True), y.amax(dim=dims, keepdim=True)

    def quantize(self, y, bits):
        """See :meth:`Quantizer.quantize`."""
        return _functions(y).quantize_minmax(y, bits, self._per_channel)


@QUANTIZER_REGISTRY.register()
class ChannelRange(TensorRange):
    """Minimum and maximum of each channel."""

    name = "channel"
    _per_channel = True

    def count_ranges(self, channels):
        """See :meth:`Quantizer.count_ranges`."""
        return channels


@QUANTIZER_REGISTRY.register()
class DeviationRange(Quantizer):
    """Mean and standard deviation of the tensor in place of its minimum and maximum (as later versions
    of FCTM, arXiv 2512.09235): values beyond mean +- k standard deviations are clipped to there.

    A stream holds two float16, as of "tensor": the ends mean - k * std and mean + k * std, so that a
    decoder needs no k; mean and k * std are half their sum and half their difference.

    Args:
        deviations (float): k, positive.
    """

    name = "deviation"

    def __init__(self, deviations=4.0):
        if not 0 < deviations < float("inf"):
            raise ValueError(f"MODEL.FEATCOMP.CODEC.DEVIATIONS is {deviations}: it must be positive")
        self.deviations = deviations

    @classmethod
    def from_config(cls, codec, value_range):
        """See :meth:`Quantizer.from_config`."""
        return cls() if codec is None else cls(codec.DEVIATIONS)

    def find_range(self, y):
        """See :meth:`Quantizer.find_range`."""
        return _functions(y).deviation_range(y, self.deviations)

    def find_batch_range(self, y):
        """See :meth:`Quantizer.find_batch_range`."""
        mean = y.mean(dim=(1, 2, 3), keepdim=True)
        # The gradient of a root is infinite at 0, where all values are equal.
        variance = y.var(dim=(1, 2, 3), keepdim=True, unbiased=False).clamp(min=1e-12)
        return mean - self.deviations * variance.sqrt(), mean + self.deviations * variance.sqrt()


@QUANTIZER_REGISTRY.register()
class NarrowChannels(TensorRange):
    """As "tensor", without channels of a narrow range (as later versions of FCTM, arXiv 2512.11134): of
    a channel whose range is below a share of the tensor's, only the middle of its range is sent, as one
    symbol, and the decoder fills the channel with it. All channels of one symbol are sent like that.

    Args:
        narrow (float): that share, 0..1; 0 leaves all channels as they are.
    """

    name = "narrow"
    omits_channels = True

    def __init__(self, narrow=0.05):
        if not 0 <= narrow <= 1:
            raise ValueError(f"MODEL.FEATCOMP.CODEC.NARROW is {narrow}: it must lie between 0 and 1")
        self.narrow = narrow

    @classmethod
    def from_config(cls, codec, value_range):
        """See :meth:`Quantizer.from_config`."""
        return cls() if codec is None else cls(codec.NARROW)

    def simplify(self, y, low, high):
        """See :meth:`Quantizer.simplify`: narrow channels become constant."""
        narrow, middle = _functions(y).find_narrow_channels(y, self.narrow)
        if isinstance(y, np.ndarray):
            return np.where(narrow, middle, y)
        return middle.where(narrow, y)

    def quantize(self, y, bits):
        """See :meth:`Quantizer.quantize`."""
        return Quantizer.quantize(self, y, bits)
