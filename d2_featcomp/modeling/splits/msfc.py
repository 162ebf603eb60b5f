"""MSFC: multi-scale feature compression.

Zhang, Wang, Ma, Li and Fan, "MSFC: Deep Feature Compression in Multi-Task Network", ICME 2021.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images
    C: channels of every pyramid level; C': channels of the latent
    s_k: stride of level p_k; s: stride of the fused map (32, that of p5, in the paper)
"""

from detectron2.config import configurable

from ..norms import require_norm
from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .msff import MSFF
from .msfr import MSFR
from .pyramid import find_pyramid
from .resampling import DOWNSAMPLE_MODES, FUSE_MODES, UPSAMPLE_MODES, compute_level_size
from .ssfc import SSFC_ACTIVATIONS, SSFCDecoder, SSFCEncoder

__all__ = ["MSFC"]


@FEATURE_SPLIT_REGISTRY.register()
class MSFC(FeatureSplit):
    """The whole of MSFC around any Detectron2 pyramid: MSFF and SSFC encoder on the edge, SSFC decoder
    and MSFR in the cloud.

    Args:
        msff (MSFF), encoder (SSFCEncoder), decoder (SSFCDecoder), msfr (MSFR): the four parts.
        fused (list[str]): names of the levels that are fused, fine to coarse.
        stride (int): s.
        channels (int): C'.
    """

    codec_defaults = {"quantizer": "fixed", "value_range": (-1.0, 1.0)}

    @configurable
    def __init__(
        self,
        *,
        msff,
        encoder,
        decoder,
        msfr,
        fused,
        stride,
        channels,
    ):
        super().__init__()
        self.msff = msff
        self.encoder = encoder
        self.decoder = decoder
        self.msfr = msfr
        self.fused = tuple(fused)
        self.stride = stride
        self.channels = channels

    @classmethod
    def from_config(cls, cfg, backbone):
        featcomp = cfg.MODEL.FEATCOMP
        _check_choice("MSFF.DOWNSAMPLE", featcomp.MSFF.DOWNSAMPLE, FUSE_MODES)
        _check_choice("SSFC.ACTIVATION", featcomp.SSFC.ACTIVATION, SSFC_ACTIVATIONS)
        if featcomp.SSFC.ACTIVATION != "tanh" and featcomp.CODEC.QUANTIZER == "fixed":
            raise ValueError(
                f"MODEL.FEATCOMP.SSFC.ACTIVATION {featcomp.SSFC.ACTIVATION} gives latents without "
                'bounds, and MODEL.FEATCOMP.CODEC.QUANTIZER is fixed: leave it "", or choose one that '
                "measures ranges, e.g. tensor"
            )
        _check_choice("MSFR.DOWNSAMPLE", featcomp.MSFR.DOWNSAMPLE, DOWNSAMPLE_MODES)
        _check_choice("MSFR.DIRECTION", featcomp.MSFR.DIRECTION, ("bottom_up", "top_down"))
        # Only the way down the pyramid has convolutions that could enlarge.
        subpixel = ("subpixel",) if featcomp.MSFR.DIRECTION == "top_down" else ()
        _check_choice("MSFR.UPSAMPLE", featcomp.MSFR.UPSAMPLE, UPSAMPLE_MODES + subpixel)
        for key, value in (
            ("SSFC.CHANNELS", featcomp.SSFC.CHANNELS),
            ("MSFF.SE_REDUCTION", featcomp.MSFF.SE_REDUCTION),
        ):
            if value < 1:
                raise ValueError(f"MODEL.FEATCOMP.{key} is {value}: it must be at least 1")
        for key, value in (
            ("SSFC.KERNEL_SIZE", featcomp.SSFC.KERNEL_SIZE),
            ("MSFF.KERNEL_SIZE", featcomp.MSFF.KERNEL_SIZE),
        ):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"MODEL.FEATCOMP.{key} is {value}: it must be odd")
        names, strides, fused, width, pool_top = find_pyramid(backbone, cls.__name__)
        channels = featcomp.SSFC.CHANNELS
        _check_choice("MSFF.LEVEL", featcomp.MSFF.LEVEL, ("", *names[:fused]))
        level = names.index(featcomp.MSFF.LEVEL or names[fused - 1])
        kernel_size = featcomp.SSFC.KERNEL_SIZE
        require_norm("FEATCOMP.SSFC.NORM", featcomp.SSFC.NORM, channels)
        require_norm("FEATCOMP.SSFC.DECODER_NORM", featcomp.SSFC.DECODER_NORM, width)
        require_norm("FEATCOMP.MSFR.NORM", featcomp.MSFR.NORM, width)
        return {
            "msff": MSFF(
                levels=fused,
                channels=width,
                reduction=featcomp.MSFF.SE_REDUCTION,
                kernel_size=featcomp.MSFF.KERNEL_SIZE,
                downsample=featcomp.MSFF.DOWNSAMPLE,
                level=level,
                scales=[max(1, strides[level] // stride) for stride in strides[:fused]],
            ),
            "encoder": SSFCEncoder(
                in_channels=width,
                out_channels=channels,
                kernel_size=kernel_size,
                norm=featcomp.SSFC.NORM,
                activation=featcomp.SSFC.ACTIVATION,
            ),
            "decoder": SSFCDecoder(
                in_channels=channels,
                out_channels=width,
                kernel_size=kernel_size,
                norm=featcomp.SSFC.DECODER_NORM,
            ),
            "msfr": MSFR(
                names=names,
                strides=strides,
                fused=fused,
                channels=width,
                pool_top=pool_top,
                direction=featcomp.MSFR.DIRECTION,
                downsample=featcomp.MSFR.DOWNSAMPLE,
                upsample=featcomp.MSFR.UPSAMPLE,
                norm=featcomp.MSFR.NORM,
                lateral=featcomp.MSFR.LATERAL,
            ),
            "fused": names[:fused],
            "stride": strides[level],
            "channels": channels,
        }

    @classmethod
    def read_codec_defaults(cls, cfg):
        """See :meth:`FeatureSplit.read_codec_defaults`: without tanh, ranges are measured."""
        if cfg.MODEL.FEATCOMP.SSFC.ACTIVATION == "tanh":
            return cls.codec_defaults
        return {**cls.codec_defaults, "quantizer": "tensor"}

    def reduce(self, features):
        return [self.encoder(self.msff([features[name] for name in self.fused]))]

    def restore(self, y_hats, image_size, step_sizes=None):
        return self.msfr(self.decoder(y_hats[0]), image_size)

    def find_image_size(self, pyramid):
        """See :meth:`MSFR.find_image_size`."""
        return self.msfr.find_image_size(pyramid)

    def reduced_shapes(self, image_size):
        return [(self.channels, *compute_level_size(image_size, self.stride))]


def _check_choice(key, value, choices):
    if value not in choices:
        raise ValueError(
            f"MODEL.FEATCOMP.{key} is {value!r}: choose one of {', '.join(map(repr, choices))}"
        )
