"""Symbols: how they lie in an image, and coded symbols -> latents.

Shape shorthand in this module:
    C, H, W: channels, height and width of a latent; n: bit depth
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..ops import (
    FLOAT_BITS,
    dequantize_by_table,
    dequantize_uniform,
    tile_grid,
    untile_channels,
)
from .constant_channels import CONSTANT_CHANNELS, read_constant_channels
from .images import BitstreamError, find_image_codec
from .images.raw import read_fixed_length
from .quantizers import Quantizer, build_quantizer

__all__ = ["SymbolDecoder", "dequantize", "step_size", "symbols_from_image"]


@dataclass(frozen=True)
class SymbolDecoder:
    """The decoder of a :class:`QuantizedFeatureCodec`.

    Attributes:
        name (str): of the codec.
        bits (int): n, or 32.
        quantizer (Quantizer): that the symbols are of; at 32 bits it is not used.
        decode_symbols (callable): of a payload, a shape (C, H, W) and the index of the tensor; returns
            as many symbols, an integer Tensor, or raises BitstreamError.
    """

    name: str
    bits: int
    quantizer: Quantizer
    decode_symbols: Callable

    @classmethod
    def from_description(cls, description):
        """Builds the decoder of a stream of format 1 from its description.

        Raises:
            BitstreamError: the codec is not known here, or does not carry that bit depth.
        """
        try:
            image_codec = find_image_codec(description.codec)
        except ValueError as error:
            raise BitstreamError(f"cannot decode this feature bitstream: {error}") from error
        if description.bits not in image_codec.bit_depths:
            raise BitstreamError(f"codec {description.codec!r} carries no {description.bits} bits")
        return cls(
            name=description.codec,
            bits=description.bits,
            # Format 1 holds the fixed range, too.
            quantizer=build_quantizer("channel" if description.quantizer == "channel" else "tensor"),
            decode_symbols=symbols_from_image(image_codec, description.bits, description.lossless),
        )

    def decompress(self, tensors, shapes, device="cpu"):
        """See :meth:`FeatureCodec.decompress`."""
        return [
            self._decode(index, tensor, shape, *ends, device)
            for index, (tensor, shape, ends) in enumerate(self._checked(tensors, shapes))
        ]

    def step_sizes(self, tensors, shapes, device="cpu"):
        """See :meth:`FeatureCodec.step_sizes`."""
        return [step_size(self.bits, *ends).to(device) for _, _, ends in self._checked(tensors, shapes)]

    def _checked(self, tensors, shapes):
        """list[(CodedTensor, shape, (low, high))]; the latter (1 or C, 1, 1) float32 on the CPU."""
        if len(tensors) != len(shapes):
            raise BitstreamError(
                f"feature bitstream holds {len(tensors)} tensors; {len(shapes)} are expected"
            )
        omits_channels = self.quantizer.omits_channels and self.bits != FLOAT_BITS
        names = [CONSTANT_CHANNELS, "y"] if omits_channels else ["y"]
        for tensor in tensors:
            if list(tensor.strings) != names or (tensor.fixed_length and self.bits == FLOAT_BITS):
                raise BitstreamError(
                    f"feature bitstream holds strings {[*tensor.strings]} that codec "
                    f"{self.name!r} at {self.bits} bits does not write"
                )
        return [
            (tensor, shape, self._ends(index, tensor, shape))
            for index, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True))
        ]

    def _ends(self, index, tensor, shape):
        expected = 0 if self.bits == FLOAT_BITS else self.quantizer.count_ranges(shape[0])
        found = 0 if tensor.ranges is None else len(tensor.ranges)
        if found != expected:
            raise BitstreamError(
                f"feature bitstream holds {found} quantizer ranges of a tensor of shape {tuple(shape)}; "
                f"{expected} are expected"
            )
        ranges = tensor.ranges
        if ranges is None:
            ranges = [self.quantizer.value_range or (0.0, 0.0)]
        return torch.from_numpy(np.array(ranges, np.float32))[..., None, None].unbind(1)

    def _decode(self, index, tensor, shape, low, high, device):
        if self.bits == FLOAT_BITS:
            return _decode_floats(tensor.payload, shape).to(device)
        symbols = self._read_symbols(index, tensor, shape)
        return dequantize(symbols.reshape(shape).to(device), self.bits, low, high)

    def _read_symbols(self, index, tensor, shape):
        if CONSTANT_CHANNELS not in tensor.strings:
            return self._read_payload(index, tensor, shape)
        coded, constants = read_constant_channels(tensor.strings[CONSTANT_CHANNELS], shape[0], self.bits)
        coded, constants = torch.from_numpy(coded), _to_torch(constants)
        symbols = constants.new_empty(shape)
        symbols[~coded] = constants[:, None, None]
        if coded.any():
            remaining = (int(coded.sum()), *shape[1:])
            symbols[coded] = self._read_payload(index, tensor, remaining).reshape(remaining)
        elif tensor.strings["y"] or tensor.fixed_length:
            raise BitstreamError("feature bitstream holds symbols of channels that are all constant")
        return symbols

    def _read_payload(self, index, tensor, shape):
        payload = tensor.strings["y"]
        if tensor.fixed_length:
            count = shape[0] * shape[1] * shape[2]
            return _to_torch(read_fixed_length(payload, count, self.bits))
        return self.decode_symbols(payload, shape, index)


def symbols_from_image(image_codec, bits, lossless):
    """Makes the `decode_symbols` of an image codec.

    Args:
        image_codec (type): subclass of ImageCodec.
        bits (int): n, or 32.
        lossless (bool): whether it ran losslessly.
    """

    def decode(payload, shape, index):
        layout = image_codec.layout
        image = image_codec.decode(
            payload, shape=_image_shape(layout, shape), bits=bits, lossless=lossless
        )
        return _from_image(_to_torch(image), layout, shape[0])

    return decode


def step_size(bits, low, high):
    """Distance of neighbouring values of the quantizer: float32, of the shape of `low`; 0 at 32 bits."""
    if bits == FLOAT_BITS:
        return torch.zeros_like(low)
    # By a tensor: in place of dividing by a number, GPUs multiply by its rounded reciprocal.
    return (high - low) / torch.full_like(low, 2**bits - 1)


def dequantize(symbols, bits, low, high):
    """(C, H, W) symbols -> float32 on their device, the same bits on every device."""
    if symbols.device.type == "cpu":
        return dequantize_uniform(symbols, bits, low, high)
    return dequantize_by_table(symbols, bits, low, high)


def _image_shape(layout, shape):
    """Of the image in which a tensor of `shape` (C, H, W) is coded."""
    channels, height, width = shape
    if layout == "colour":
        return height, width, channels
    if layout == "rows":
        return channels, height * width
    rows, columns = tile_grid(channels)
    return rows * height, columns * width


def _from_image(symbols, layout, channels):
    if layout == "colour":
        return symbols.permute(2, 0, 1)
    return untile_channels(symbols, channels) if layout == "tiles" else symbols


def _to_torch(symbols):
    if symbols.dtype != np.uint8:
        symbols = symbols.astype(np.int32)
    elif not symbols.flags.writeable:
        symbols = symbols.copy()
    return torch.from_numpy(np.ascontiguousarray(symbols))


def _decode_floats(payload, shape):
    elements = shape[0] * shape[1] * shape[2]
    if len(payload) != 4 * elements:
        raise BitstreamError(
            f"{elements} float32 features take {4 * elements} bytes, not {len(payload)}"
        )
    floats = np.frombuffer(payload, dtype="<f4").astype(np.float32)
    if not np.isfinite(floats).all():
        raise BitstreamError("feature bitstream holds NaN or infinite values")
    return torch.from_numpy(floats).reshape(shape)
