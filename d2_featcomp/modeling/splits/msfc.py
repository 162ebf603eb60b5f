"""MSFC: multi-scale feature compression.

Zhang, Wang, Ma, Li and Fan, "MSFC: Deep Feature Compression in Multi-Task Network", ICME 2021.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images
    C: channels of every pyramid level; C': channels of the latent
    s_k: stride of level p_k; s: stride of the fused map (32, that of p5, in the paper)
"""

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .resampling import (
    DOWNSAMPLE_MODES,
    FUSE_MODES,
    UPSAMPLE_MODES,
    align_size,
    compute_level_size,
    space_to_depth,
)
from .ssfc import SSFC_ACTIVATIONS, SSFCDecoder, SSFCEncoder

__all__ = ["MSFC", "MSFF", "MSFR", "SqueezeExcitation", "SubpixelConv2d", "find_pyramid"]


class SqueezeExcitation(nn.Module):
    """Re-weights channels by what they hold on average (Hu et al., CVPR 2018).

    Args:
        channels (int): of the input.
        reduction (int): how many times narrower the hidden layer is.
    """

    def __init__(self, channels, reduction):
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction))
        self.excite = nn.Linear(max(1, channels // reduction), channels)

    def forward(self, x):
        """(N, C, H, W) float -> (N, C, H, W), each channel times a weight in (0, 1)."""
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * weight[:, :, None, None]


class MSFF(nn.Module):
    """Multi-scale feature fusion: the pyramid becomes one map of one level's size (sec. 3.1).

    Args:
        levels (int): number of pyramid levels fused.
        channels (int): C, of each of them and of the result.
        reduction (int): of the squeeze-and-excitation block.
        kernel_size (int): of the convolution, odd.
        downsample (str): how finer levels reach that size: see :func:`align_size`; or "space_to_depth",
            blocks of positions as channels, which leaves nothing out.
        level (int): index of the level whose size the result has; -1, the coarsest, is the paper's.
        scales (sequence[int]): for "space_to_depth", how many times finer each level is than that; 1 for
            coarser ones.

    Raises:
        ValueError: "space_to_depth" without a scale for each level.
    """

    def __init__(
        self,
        *,
        levels,
        channels,
        reduction=16,
        kernel_size=3,
        downsample="nearest",
        level=-1,
        scales=(),
    ):
        super().__init__()
        if downsample == "space_to_depth" and len(scales) != levels:
            raise ValueError(
                f"MSFF fuses {levels} levels by space_to_depth and has {len(scales)} scales: give each "
                "level one"
            )
        self.downsample = downsample
        self.level = level
        self.scales = list(scales) if downsample == "space_to_depth" else [1] * levels
        width = channels * sum(scale**2 for scale in self.scales)
        self.attention = SqueezeExcitation(width, reduction)
        self.fuse = Conv2d(width, channels, kernel_size, padding=kernel_size // 2)
        weight_init.c2_xavier_fill(self.fuse)

    def align(self, pyramid):
        """Brings all levels to one size: list of (N, C, h / s_k, w / s_k) -> one (N, levels * C,
        h / s, w / s), of more channels by "space_to_depth"."""
        size = pyramid[self.level].shape[-2:]
        blocks = [space_to_depth(x, size, scale) for x, scale in zip(pyramid, self.scales, strict=True)]
        return torch.cat([align_size(x, size, down=self.downsample) for x in blocks], dim=1)

    def forward(self, pyramid):
        """Fuses the levels of a pyramid.

        Args:
            pyramid (list[Tensor]): fine to coarse, each (N, C, h / s_k, w / s_k) float.

        Returns:
            Tensor: (N, C, h / s, w / s).
        """
        return self.fuse(self.attention(self.align(pyramid)))


class SubpixelConv2d(nn.Module):
    """A convolution that enlarges: each position gives a block of `scale` x `scale` values a channel
    (Shi et al., CVPR 2016). So neighbours in a block differ by the latent, not by position alone.

    Args:
        channels (int): of input and output.
        scale (int): how many times higher and wider the output is.
        norm (str): Detectron2 norm of the output; "" is none.
    """

    def __init__(self, channels, scale, norm=""):
        super().__init__()
        self.scale = scale
        self.conv = Conv2d(channels, channels * scale**2, 3, padding=1, bias=not norm)
        self.norm = get_norm(norm, channels)
        weight_init.c2_xavier_fill(self.conv)

    def forward(self, x):
        """(N, C, H, W) float -> (N, C, H * scale, W * scale)."""
        x = F.pixel_shuffle(self.conv(x), self.scale)
        return x if self.norm is None else self.norm(x)


class MSFR(nn.Module):
    """Multi-scale feature reconstruction: the pyramid again, from one map (sec. 3.3).

    "bottom_up" is eq. 2-6 as printed: the finest level is F' enlarged, and each coarser one is
    p'_k = Conv(SizeAlign(p'_{k-1}, p_k)) + SizeAlign(F', p_k). "top_down" runs the same recursion
    from the coarsest fused level to the finest. Levels above the fused ones are pooled (eq. 6) or,
    where the backbone computes them by convolution (RetinaNet's p6 and p7), continue the recursion.
    "subpixel" up-sampling lets the convolutions of "top_down" enlarge: p'_k = SubpixelConv(p'_{k+1}) +
    SizeAlign(F', p_k). With `lateral`, every level takes F' through a 1 x 1 convolution of its own, as
    the levels of a feature pyramid take their stages.

    Args:
        names (list[str]): all levels, fine to coarse.
        strides (list[int]): theirs.
        fused (int): how many of them, from the finest, were fused.
        channels (int): C.
        pool_top (bool): whether the levels above the fused ones are pooled.
        direction (str): "bottom_up" or "top_down".
        downsample (str): see :func:`align_size`.
        upsample (str): likewise, or "subpixel" (SizeAlign is "nearest" then).
        norm (str): a Detectron2 norm after each convolution; "" (the paper): none.
        lateral (bool): whether levels have 1 x 1 convolutions of F'; False is the paper's.
    """

    def __init__(
        self,
        *,
        names,
        strides,
        fused,
        channels,
        pool_top=True,
        direction="bottom_up",
        downsample="nearest",
        upsample="nearest",
        norm="",
        lateral=False,
    ):
        super().__init__()
        self.names, self.strides = list(names), list(strides)
        self.downsample = downsample
        self.upsample = "nearest" if upsample == "subpixel" else upsample
        below, top = list(range(fused)), list(range(fused, len(self.names)))
        order = below if direction == "bottom_up" else below[::-1]
        # Each pair is (level, the level it is rebuilt from); the first comes from F' alone.
        self.first = order[0]
        self.steps = list(zip(order[1:], order[:-1], strict=True))
        self.pooled = [(level, level - 1) for level in top if pool_top]
        if not pool_top:
            self.steps += [(level, level - 1) for level in top]
        for level, source in self.steps:
            scale = self.strides[source] // self.strides[level]
            if upsample == "subpixel" and scale > 1:
                conv = SubpixelConv2d(channels, scale, norm)
            else:
                conv = Conv2d(
                    channels, channels, 3, padding=1, bias=not norm, norm=get_norm(norm, channels)
                )
                weight_init.c2_xavier_fill(conv)
            self.add_module(self.names[level], conv)
        self.laterals = nn.ModuleDict()
        for level in (self.first, *(level for level, _ in self.steps)) if lateral else ():
            self.laterals[self.names[level]] = Conv2d(channels, channels, 1)
            weight_init.c2_xavier_fill(self.laterals[self.names[level]])

    def _align(self, x, image_size, level):
        """What F' adds to a level: (N, C, h / s, w / s) -> (N, C, h / s_k, w / s_k)."""
        size, name = compute_level_size(image_size, self.strides[level]), self.names[level]
        lateral = self.laterals[name] if name in self.laterals else nn.Identity()
        if size[0] > x.shape[-2]:  # the same, of fewer values
            return align_size(lateral(x), size, up=self.upsample)
        return lateral(align_size(x, size, down=self.downsample, up=self.upsample))

    def forward(self, fused, image_size):
        """Rebuilds the levels of a pyramid.

        Args:
            fused (Tensor): F', (N, C, h / s, w / s) float, s the stride of any level.
            image_size ((int, int)): h, w in pixels.

        Returns:
            dict[str, Tensor]: every level, (N, C, h / s_k, w / s_k), sizes rounded up.
        """
        rebuilt = {self.first: self._align(fused, image_size, self.first)}
        for level, source in self.steps:
            aligned = self._align(fused, image_size, level)
            rebuilt[level] = self._convolve(level, source, rebuilt, fused, aligned) + aligned
        for level, source in self.pooled:
            rebuilt[level] = F.max_pool2d(rebuilt[source], kernel_size=1, stride=2)
        # Under mixed precision up-sampling and convolutions differ in type; the heads want one.
        return {name: rebuilt[level].to(fused.dtype) for level, name in enumerate(self.names)}

    def find_image_size(self, pyramid):
        """Returns (int, int): height and width in pixels that give levels of these sizes."""
        name, stride = self.names[0], self.strides[0]
        return tuple(side * stride for side in pyramid[name].shape[-2:])

    def _convolve(self, level, source, rebuilt, fused, aligned):
        """Computes the convolution that rebuilds a level from another one: (N, C, h / s_k, w / s_k)."""
        conv, size = getattr(self, self.names[level]), aligned.shape[-2:]
        if isinstance(conv, SubpixelConv2d):
            return conv(rebuilt[source])[..., : size[0], : size[1]]
        return conv(align_size(rebuilt[source], size, down=self.downsample, up=self.upsample))


def _top_levels(backbone):
    """Counts the output levels that the backbone's top block adds; tells whether it pools them (p6 of
    FPN)."""
    top_block = getattr(backbone, "top_block", None)
    if top_block is None:
        return 0, True
    return top_block.num_levels, isinstance(top_block, LastLevelMaxPool)


def find_pyramid(backbone, split):
    """Reads what a split has to know of a feature pyramid.

    Args:
        backbone (Backbone): it gives the pyramid.
        split (str): name of the split, for the message.

    Returns:
        (list[str], list[int], int, int, bool): names and strides of all levels, fine to coarse; how many
        of them, from the finest, are not made of the others; C; whether these others are pooled.

    Raises:
        ValueError: there are not two or more levels of equal width.
    """
    shapes = sorted(backbone.output_shape().items(), key=lambda item: item[1].stride)
    names, strides = [name for name, _ in shapes], [shape.stride for _, shape in shapes]
    widths = {shape.channels for _, shape in shapes}
    top, pool_top = _top_levels(backbone)
    fused = len(names) - top
    if len(widths) != 1 or fused < 2:
        raise ValueError(
            f"MODEL.FEATCOMP.SPLIT {split} needs a feature pyramid: two or more levels of equal "
            f"width. This backbone gives { {n: (s.channels, s.stride) for n, s in shapes} }"
        )
    return names, strides, fused, widths.pop(), pool_top


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

    def reduced_shapes(self, image_size):
        return [(self.channels, *compute_level_size(image_size, self.stride))]


def _check_choice(key, value, choices):
    if value not in choices:
        raise ValueError(
            f"MODEL.FEATCOMP.{key} is {value!r}: choose one of {', '.join(map(repr, choices))}"
        )
