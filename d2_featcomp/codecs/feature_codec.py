"""Features <-> bitstream: quantize, tile, code; and back."""

import numpy as np
import torch

from ..ops import (
    FLOAT_BITS,
    dequantize_uniform,
    quantize_minmax,
    quantize_uniform,
    tile_channels,
    tile_grid,
    untile_channels,
)
from .bitstream import CodedTensor, FeatureBitstream
from .image_codec import BitstreamError, find_image_codec
from .raw import pack_symbols, packed_size, unpack_symbols

__all__ = ["FeatureCodec"]


class FeatureCodec:
    """Turns the features of one image into a :class:`FeatureBitstream` and back.

    A payload is never larger than plain packing of the symbols: where the image codec would need
    more, the packed symbols are sent in its place.

    Args:
        image_codec (ImageCodec): also fixes the bit depth.
        quantizer (str): "fixed" (one range for all data), "tensor" or "channel" (their own minimum
            and maximum, sent as float16).
        value_range ((float, float)): the range of "fixed"; must be float16 values.

    Raises:
        ValueError: unknown quantizer, or an empty or unrepresentable range.
    """

    def __init__(self, *, image_codec, quantizer="fixed", value_range=(-1.0, 1.0)):
        if quantizer not in ("fixed", "tensor", "channel"):
            raise ValueError(
                f"unknown quantizer {quantizer!r}: choose fixed, tensor or channel (CODEC.QUANTIZER)"
            )
        low, high = value_range
        with np.errstate(over="ignore"):
            rounded = np.array(value_range, dtype=np.float64).astype(np.float16)
        if not low < high or not np.isfinite(rounded).all() or (rounded != np.array(value_range)).any():
            raise ValueError(
                f"quantizer range {tuple(value_range)} must be two float16 values, the first smaller"
            )
        self.image_codec = image_codec
        self.quantizer = quantizer
        self.value_range = (float(low), float(high))

    @property
    def bits(self):
        """int: n, the bit depth of a symbol."""
        return self.image_codec.bits

    def compress(self, features, *, split, fingerprint, sizes, feature_elements):
        """
        Args:
            features (list[Tensor]): each (C, H, W), float, on any device.
            split (str): name of the feature split.
            fingerprint (bytes): 4 bytes that tell the edge half's weights.
            sizes (ImageSizes): of the image.
            feature_elements (int): elements at the cut, before any reduction.

        Returns:
            FeatureBitstream

        Raises:
            ValueError: the features hold a NaN or an infinity and are to be quantized.
        """
        as_floats = self.bits == FLOAT_BITS
        return FeatureBitstream(
            split=split,
            codec=self.image_codec.name,
            lossless=self.image_codec.lossless,
            bits=self.bits,
            quantizer="none" if as_floats else self.quantizer,
            fingerprint=fingerprint,
            sizes=sizes,
            feature_elements=feature_elements,
            tensors=[self._code_floats(x) if as_floats else self._code(x) for x in features],
        )

    @staticmethod
    def _code_floats(x):
        payload = x.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()
        return CodedTensor(tuple(x.shape), np.empty((0, 2), np.float16), payload, packed=False)

    def _code(self, x):
        x = x.detach()
        if self.quantizer == "fixed":
            low, high = self.value_range
            ranges = np.array([[low, high]], dtype=np.float16)
            symbols = quantize_uniform(x, self.bits, low, high)
        else:
            symbols, low, high = quantize_minmax(x, self.bits, self.quantizer == "channel")
            ranges = torch.cat([low, high], dim=1).reshape(-1, 2).cpu().numpy().astype(np.float16)
        arrange = _ARRANGE[self.image_codec.layout]
        payload = self.image_codec.encode(_to_numpy(arrange(symbols), self.bits))
        packed = len(payload) > packed_size(symbols.numel(), self.bits)
        if packed:
            payload = pack_symbols(_to_numpy(symbols, self.bits), self.bits)
        return CodedTensor(tuple(x.shape), ranges, payload, packed)

    @staticmethod
    def decompress(bitstream, device="cpu"):
        """Inverse of :meth:`compress`, for the settings that the bitstream itself declares.

        Args:
            bitstream (FeatureBitstream): any that this release can decode.
            device (torch.device or str): where to put the result.

        Returns:
            list[Tensor]: float32, each (C, H, W).

        Raises:
            BitstreamError: a payload is damaged, or its codec is not known here.
            ImportError: the codec's library is not installed here.
        """
        try:
            image_codec = find_image_codec(bitstream.codec)
        except ValueError as error:
            raise BitstreamError(f"cannot decode this feature bitstream: {error}") from error
        if bitstream.bits not in image_codec.bit_depths:
            raise BitstreamError(f"codec {bitstream.codec!r} carries no {bitstream.bits} bits")
        decode = _decode_floats if bitstream.bits == FLOAT_BITS else _decode
        return [decode(tensor, bitstream, image_codec, device) for tensor in bitstream.tensors]

    @staticmethod
    def quantizer_steps(bitstream, device="cpu"):
        """
        Args:
            bitstream (FeatureBitstream): any.
            device (torch.device or str): where to put the result.

        Returns:
            list[Tensor]: for each tensor the distance of neighbouring values of its quantizer, float32,
            (1, 1, 1) or (C, 1, 1); 0 where float32 was sent.
        """
        if bitstream.bits == FLOAT_BITS:
            return [torch.zeros(1, 1, 1, device=device) for _ in bitstream.tensors]
        ranges = [_range_of(tensor, device) for tensor in bitstream.tensors]
        return [(high - low) / (2**bitstream.bits - 1) for low, high in ranges]


def _rows(symbols):
    return symbols.reshape(symbols.shape[0], -1)


def _colour(symbols):
    if len(symbols) != 3:
        raise ValueError(
            f"a colour codec takes 3 channels, not {len(symbols)}: it is for MODEL.FEATCOMP.SPLIT Image"
        )
    return symbols.permute(1, 2, 0)


_ARRANGE = {"tiles": tile_channels, "rows": _rows, "colour": _colour}


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


def _to_numpy(symbols, bits):
    return symbols.cpu().numpy().astype(np.uint8 if bits <= 8 else np.uint16, copy=False)


def _decode_floats(tensor, bitstream, image_codec, device):
    if len(tensor.payload) != 4 * tensor.elements:
        raise BitstreamError(
            f"{tensor.elements} float32 features take {4 * tensor.elements} bytes, "
            f"not {len(tensor.payload)}"
        )
    floats = np.frombuffer(tensor.payload, dtype="<f4").astype(np.float32)
    return torch.from_numpy(floats).reshape(tensor.shape).to(device)


def _decode(tensor, bitstream, image_codec, device):
    bits, layout = bitstream.bits, image_codec.layout
    if tensor.packed:
        symbols = _to_torch(unpack_symbols(tensor.payload, tensor.elements, bits), device)
    else:
        image = image_codec.decode(
            tensor.payload,
            shape=_image_shape(layout, tensor.shape),
            bits=bits,
            lossless=bitstream.lossless,
        )
        symbols = _from_image(_to_torch(image, device), layout, tensor.shape[0])
    return dequantize_uniform(symbols.reshape(tensor.shape), bits, *_range_of(tensor, device))


def _range_of(tensor, device):
    """(low, high), each (1, 1, 1) or (C, 1, 1) float32."""
    return torch.from_numpy(tensor.ranges.astype(np.float32)).to(device)[..., None, None].unbind(1)


def _to_torch(symbols, device):
    if symbols.dtype != np.uint8:
        symbols = symbols.astype(np.int32)
    elif not symbols.flags.writeable:
        symbols = symbols.copy()
    return torch.from_numpy(np.ascontiguousarray(symbols)).to(device)
