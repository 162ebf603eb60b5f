"""The contract of a feature codec, and its registry.

To add a codec, subclass :class:`FeatureCodec`, register it, and name it in `MODEL.FEATCOMP.CODEC.NAME`.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a latent y
"""

import abc

from torch import nn

from .images import IMAGE_CODEC_REGISTRY
from .images.base import CodecRegistry
from .rate_control import require_no_target

__all__ = ["FEATURE_CODEC_REGISTRY", "FeatureCodec", "build_feature_codec"]


FEATURE_CODEC_REGISTRY = CodecRegistry("FEATURE_CODEC")
FEATURE_CODEC_REGISTRY.__doc__ = """
Registry of feature codecs, subclasses of :class:`FeatureCodec`, by their `name` (that of the class
unless it says otherwise).
`MODEL.FEATCOMP.CODEC.NAME` is one of them, or an image codec for :class:`QuantizedFeatureCodec`.
"""


class FeatureCodec(nn.Module, abc.ABC):
    """Codes the latents y of one image, with a quantization surrogate for training.

    It is a part of the network: its parameters are trained and saved with it. What decoding depends on
    must be parameters, buffers, or in :meth:`describe`; all of it goes into the fingerprint.

    A subclass implements :meth:`quantize`, :meth:`compress`, :meth:`decompress`, :meth:`step_sizes` and
    :meth:`from_config`.

    `FeatureCodec(image_codec=...)` gives a :class:`QuantizedFeatureCodec`, which bore this name once.

    Attributes:
        name (str): in the registry; by default the name of the class.
        bits (int): n of fixed-length symbols, 2..16; 32 for float32 latents.
        lossless (bool): whether the decoder gets the very symbols that were coded.
        quantizer (str): "none", or a name in `QUANTIZER_REGISTRY`, see :class:`QuantizedFeatureCodec`.
        estimated_bytes (Tensor or None): in training, the bytes of an image of the last batch, as a
            codec with a model of its rate estimates them; logged as "bytes_per_image".
        rate (float or None): 0 (fewest bytes) to 1, at which images are coded; may be changed between
            them. None: the codec has one rate.
        target_bytes (float or None): whole bytes of an image's bitstream that are aimed at, by the rate;
            None: images are coded at `rate`. See :meth:`SplitInference.encode`.
        typical_rates (tuple[float]): that a curve is drawn through; () where there is one rate.
    """

    name = ""
    bits = 8
    lossless = True
    quantizer = "none"
    estimated_bytes = None
    rate = None
    target_bytes = None
    typical_rates = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.name:
            cls.name = cls.__name__

    def __new__(cls, *args, **kwargs):
        if cls is FeatureCodec and "image_codec" in kwargs:
            from .quantized import QuantizedFeatureCodec

            cls = QuantizedFeatureCodec
        return super().__new__(cls)

    @classmethod
    def require_library(cls):
        """Raises ImportError, naming what to install, if the library behind the codec is missing."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, cfg, feature_split):
        """Builds the codec.

        Args:
            cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
            feature_split (FeatureSplit or its class): its `codec_defaults` fill what the config
                leaves open. A codec with parameters for each latent can make them of a FeatureSplit
                alone, by its `reduced_shapes`, and has a class attribute `has_weights = True`.

        Returns:
            FeatureCodec

        Raises:
            ValueError: a setting is out of range. ImportError: a library is not installed.
        """

    @abc.abstractmethod
    def quantize(self, ys):
        """Quantizes and restores latents.

        In training this is the quantization surrogate, differentiable; in evaluation y_hat is what
        decoding gives.

        Args:
            ys (list[Tensor]): each (N, C, H, W) float.

        Returns:
            (list[Tensor], list[Tensor], dict[str, Tensor]): y_hat, of the same shapes; the step sizes
            that were quantized with, each (N, 1, 1, 1) or (N, C, 1, 1) float32, without gradients; and,
            in training, the rate terms by name, scalars without weights.
        """

    def forward(self, ys):
        """:meth:`quantize` without the step sizes: list[Tensor] -> (list[Tensor], dict[str, Tensor])."""
        y_hats, _, rate_terms = self.quantize(ys)
        return y_hats, rate_terms

    @abc.abstractmethod
    def compress(self, ys):
        """Quantizes and codes the latents of one image.

        Args:
            ys (list[Tensor]): latents of one image, each (C, H, W) float, on any device.

        Returns:
            list[CodedTensor]: one for each.

        Raises:
            ValueError: the latents hold a NaN or an infinity.
        """

    @abc.abstractmethod
    def decompress(self, tensors, shapes, device="cpu"):
        """Inverse of :meth:`compress`.

        Args:
            tensors (list[CodedTensor]): of one image, from anywhere.
            shapes (list[(int, int, int)]): C, H, W that each must have.
            device (torch.device or str): where to put the result.

        Returns:
            list[Tensor]: y_hat, each (C, H, W) float32, finite.

        Raises:
            BitstreamError: anything is wrong with the tensors.
            ImportError: the codec's library is not installed here.
        """

    @abc.abstractmethod
    def step_sizes(self, tensors, shapes, device="cpu"):
        """Reads the step sizes of coded latents.

        Args and errors are those of :meth:`decompress`; payloads are not decoded.

        Returns:
            list[Tensor]: for each tensor the distance of neighbouring values of its quantizer, float32,
            (1, 1, 1) or (C, 1, 1); 0 for float32 latents.
        """

    def count_macs(self, shapes):
        """Counts the multiply-accumulates of the codec's own networks.

        Args:
            shapes (list[(int, int, int)]): C, H, W of the latents of one image.

        Returns:
            int: of coding them, and as many at most of decoding; 0 for codecs without networks.
        """
        return 0

    @property
    def has_weights(self):
        """bool: whether coding depends on parameters or buffers; a class attribute, True, of codecs that
        have none when they are built for the class of a split."""
        return bool(self.state_dict())

    def update(self):
        """Rebuilds what coding needs from the parameters, e.g. tables; to be called after training."""

    def describe(self):
        """Returns all that decoding depends on apart from parameters and buffers, a str of one line."""
        return f"{type(self).__name__} {self.name} bits={self.bits}"


def build_feature_codec(cfg, feature_split):
    """Builds the codec that `cfg.MODEL.FEATCOMP.CODEC` describes.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        feature_split (FeatureSplit or its class): gives what the config leaves open.

    Returns:
        FeatureCodec: of the registered class that CODEC.NAME names, or a
        :class:`QuantizedFeatureCodec` of the image codec of that name.

    Raises:
        ValueError, ImportError: see :meth:`FeatureCodec.from_config`.
    """
    from .quantized import QuantizedFeatureCodec

    name = cfg.MODEL.FEATCOMP.CODEC.NAME
    if name in FEATURE_CODEC_REGISTRY:
        kind = FEATURE_CODEC_REGISTRY.get(name)
    elif name in IMAGE_CODEC_REGISTRY:
        kind = QuantizedFeatureCodec
    else:
        images, others = (
            ", ".join(sorted(known for known, _ in registry)) or "none"
            for registry in (IMAGE_CODEC_REGISTRY, FEATURE_CODEC_REGISTRY)
        )
        raise ValueError(
            f"unknown codec {name!r} (MODEL.FEATCOMP.CODEC.NAME): choose an image codec ({images}) or a "
            f"registered feature codec ({others})"
        )
    codec = kind.from_config(cfg, feature_split)
    if codec.rate is None:
        require_no_target(cfg.MODEL.FEATCOMP.CODEC.TARGET_KB, name)
    return codec
