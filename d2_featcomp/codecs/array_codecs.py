"""Codecs of an edge without PyTorch: latents as NumPy arrays -> coded tensors, the same bytes.

Shape shorthand in this module:
    C, H, W: channels, height and width of a latent; n: bit depth
"""

from functools import partial

import numpy as np

from ..ops import FLOAT_BITS, arrays
from .entropy import HasRate
from .symbol_coding import code_floats, code_symbols, prepend_rate, scale_range

__all__ = ["ArrayCodec", "VariableRateArrayCodec"]


class ArrayCodec:
    """Quantizes latents uniformly and codes the symbols: what :meth:`QuantizedFeatureCodec.compress`
    does, for arrays in place of tensors.

    Args:
        name (str): of the codec.
        bits (int): n, or 32 for float32 latents.
        quantizer (Quantizer): of the symbols; at 32 bits it is not used.
        encode (callable): of (C, H, W) symbols, ndarray, and the index of their latent; returns bytes.

    Attributes:
        name, bits, quantizer: as given.
        rate, target_bytes: see :class:`FeatureCodec`.
    """

    rate = None
    target_bytes = None

    def __init__(self, *, name, bits, quantizer, encode):
        self.name, self.bits = name, bits
        self.quantizer, self._encode = quantizer, encode

    def compress(self, ys):
        """Quantizes and codes the latents of one image.

        Args:
            ys (list[ndarray]): each (C, H, W) float32.

        Returns:
            list[CodedTensor]: one for each.

        Raises:
            ValueError: the latents hold a NaN or an infinity.
        """
        if self.bits == FLOAT_BITS:
            return [code_floats(y) for y in ys]
        return [self._compress_latent(y, index) for index, y in enumerate(ys)]

    def _compress_latent(self, y, index):
        symbols, *ranges = self.quantizer.quantize(y, self.bits)
        encode = partial(self._encode, index=index)
        return code_symbols(symbols, ranges, self.bits, self.quantizer, encode)

    def find_symbols(self, y, index, like):
        """Quantizes a latent in the range of another one, so that their symbols can be compared.

        Args:
            y, like (ndarray): (C, H, W) float32.
            index (int): of the latent.

        Returns:
            ndarray: (C, H, W), uint8 if n <= 8, else uint16; n is not 32.

        Raises:
            ValueError: a NaN or infinity in either.
        """
        return self._quantize(y, index, self.quantizer.find_range(like))

    def _quantize(self, y, index, sent):
        """Symbols of (C, H, W) where the range that is sent is `sent`, low and high."""
        return arrays.quantize_uniform(self.quantizer.simplify(y, *sent), self.bits, *sent)


class VariableRateArrayCodec(HasRate, ArrayCodec):
    """As :class:`VariableRateFeatureCodec`, for arrays.

    Args:
        models (sequence[IntegerModel]): for several rates, one for each latent.
        step_sizes (sequence[ndarray]): of each latent, see
            :meth:`VariableRateFeatureCodec.integer_step_sizes`.
        rate (float): 0..1, at which images are coded; attribute `rate` changes it.
        target_bytes (float or None): see :class:`FeatureCodec`.
        settings: name, bits and quantizer of :class:`ArrayCodec`.

    Raises:
        ValueError: the rate is out of range.
    """

    def __init__(self, *, models, step_sizes, rate=1.0, target_bytes=None, **settings):
        super().__init__(encode=self._encode_at_rate, **settings)
        self._models, self._step_sizes = models, step_sizes
        self.rate, self.target_bytes = rate, target_bytes

    def _compress_latent(self, y, index):
        sent = self.quantizer.find_range(y)
        symbols = self._quantize(y, index, sent)
        encode = partial(self._encode, index=index)
        return prepend_rate(code_symbols(symbols, sent, self.bits, self.quantizer, encode), self._code)

    def _quantize(self, y, index, sent):
        low, high = scale_range(*sent, self._step_sizes[index], self._code, self.bits)
        symbols = arrays.quantize_uniform(y, self.bits, low, high)
        return np.where(low == high, symbols.dtype.type(2 ** (self.bits - 1)), symbols)

    def _encode_at_rate(self, symbols, index):
        return self._models[index].at_rate(self._code).encode(symbols)
