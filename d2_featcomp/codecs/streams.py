"""Whole bitstreams: the latents of one image <-> FeatureBitstream."""

from .bitstream import FeatureBitstream, StreamDescription
from .symbols import SymbolDecoder

__all__ = ["compress_stream", "decompress_stream", "describe_stream", "read_step_sizes"]


def describe_stream(feature_codec, *, split, shapes, feature_elements):
    """Describes the bitstreams of a network.

    Args:
        feature_codec (FeatureCodec): that codes the latents.
        split (str): name of the feature split.
        shapes (list[(int, int, int)]): C, H, W of each latent.
        feature_elements (int): elements at the split point, before any reduction.

    Returns:
        StreamDescription
    """
    return StreamDescription(
        split=split,
        codec=feature_codec.name,
        lossless=feature_codec.lossless,
        bits=feature_codec.bits,
        quantizer=feature_codec.quantizer,
        shapes=tuple(shapes),
        feature_elements=feature_elements,
    )


def compress_stream(ys, feature_codec, *, split, fingerprint, sizes, feature_elements):
    """Codes the latents of one image to a whole bitstream of format 2.

    Args:
        ys (list[Tensor]): each (C, H, W) float, on any device.
        feature_codec (FeatureCodec): that codes them.
        split (str): name of the feature split.
        fingerprint (bytes): 4 bytes that tell the network.
        sizes (ImageSizes): of the image.
        feature_elements (int): elements at the split point, before any reduction.

    Returns:
        FeatureBitstream: with its description.

    Raises:
        ValueError: the latents hold a NaN or an infinity.
    """
    return FeatureBitstream(
        fingerprint=fingerprint,
        sizes=sizes,
        tensors=feature_codec.compress(ys),
        description=describe_stream(
            feature_codec,
            split=split,
            shapes=[y.shape for y in ys],
            feature_elements=feature_elements,
        ),
    )


def decompress_stream(stream, feature_codec=None, device="cpu"):
    """Decodes the latents of a bitstream.

    One of format 1 is decoded by the settings that it declares itself, one of format 2 by
    `feature_codec`.

    Args:
        stream (FeatureBitstream): with its description.
        feature_codec (FeatureCodec or None): of the network that wrote it; not used for format 1.
        device (torch.device or str): where to put the result.

    Returns:
        list[Tensor]: y_hat, each (C, H, W) float32.

    Raises:
        BitstreamError, ImportError: as :meth:`FeatureCodec.decompress`.
        ValueError: a stream of format 2 without description or codec.
    """
    codec = _choose_codec(stream, feature_codec)
    return codec.decompress(stream.tensors, stream.require_description().shapes, device)


def read_step_sizes(stream, feature_codec=None, device="cpu"):
    """Reads the step sizes of a bitstream. Args and errors are those of :func:`decompress_stream`.

    Returns:
        list[Tensor]: as :meth:`FeatureCodec.step_sizes`.
    """
    codec = _choose_codec(stream, feature_codec)
    return codec.step_sizes(stream.tensors, stream.require_description().shapes, device)


def _choose_codec(stream, feature_codec):
    if stream.version == 1:
        return SymbolDecoder.from_description(stream.require_description())
    if feature_codec is None:
        raise ValueError(
            "a feature bitstream of format 2 is decoded by the codec of its network: give it"
        )
    return feature_codec
