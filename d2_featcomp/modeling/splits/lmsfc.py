"""L-MSFC: learnable multi-scale feature compression, fusion and encoding interleaved.

Kim et al., "End-to-End Learnable Multi-Scale Feature Compression for VCM", IEEE TCSVT 2024
(arXiv 2306.16670). Its entropy model is the codec's: `CODEC.NAME learned` with a hyper-latent.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images; C: channels of every pyramid
    level; C': channels of the latent; s_k: stride of level p_k; s: stride of the latent
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d
from torch import nn

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit
from .pyramid import find_pyramid
from .resampling import align_size, compute_level_size
from .residual_blocks import AttentionBlock, ResidualBlock, ResidualDownsample, ResidualUpsample

__all__ = ["LMSFC", "FusionEncoder", "PyramidDecoder"]


class FusionEncoder(nn.Module):
    """Encodes the finest level, fuses what comes out with the next one, and so on to the coarsest. Each
    step halves the size until the latent's stride is reached.

    Args:
        names (list[str]), strides (list[int]): of the levels, fine to coarse.
        in_channels (int): C.
        channels (int): C'.
        stride (int): s.
    """

    def __init__(self, *, names, strides, in_channels, channels, stride):
        super().__init__()
        self.names = list(names)
        reached, last = strides[0], len(names) - 1
        for level, name in enumerate(self.names):
            inputs = in_channels + (channels if level else 0)
            step = 2 if reached < stride else 1
            reached *= step
            if level == last:
                down = Conv2d(inputs, channels, 3, stride=step, padding=1)
                block = nn.Sequential(down, AttentionBlock(channels))
            else:
                attention = [AttentionBlock(channels)] if level == 1 else []
                block = nn.Sequential(
                    ResidualDownsample(inputs, channels, step),
                    *attention,
                    ResidualBlock(channels, channels),
                )
            self.add_module(name, block)

    def forward(self, features):
        """
        Args:
            features (dict[str, Tensor]): each level (N, C, h / s_k, w / s_k) float.

        Returns:
            Tensor: y, (N, C', h / s, w / s), sizes rounded up.
        """
        y = None
        for name in self.names:
            level = features[name]
            if y is not None:
                level = torch.cat([y, align_size(level, y.shape[-2:])], dim=1)
            y = getattr(self, name)(level)
        return y


class PyramidDecoder(nn.Module):
    """Decodes each level from the latent by its own blocks, then mixes each level with the finer one.

    Args:
        names (list[str]), strides (list[int]): of the levels, fine to coarse.
        channels (int): C'.
        out_channels (int): C.
        stride (int): s.
    """

    def __init__(self, *, names, strides, channels, out_channels, stride):
        super().__init__()
        self.names, self.strides = list(names), list(strides)
        self.attention = AttentionBlock(channels)
        for name, level_stride in zip(names, strides, strict=True):
            self.add_module(name, _make_level_decoder(channels, out_channels, stride, level_stride))
        for name, finer, coarser in zip(names[1:], strides, strides[1:], strict=False):
            self.add_module(f"{name}_mix", _LevelMixing(out_channels, coarser // finer))

    def forward(self, y_hat, image_size):
        """
        Args:
            y_hat (Tensor): (N, C', h / s, w / s) float.
            image_size ((int, int)): h, w in pixels.

        Returns:
            dict[str, Tensor]: each level (N, C, h / s_k, w / s_k), sizes rounded up.
        """
        y_hat, levels, finer = self.attention(y_hat), {}, None
        for name, stride in zip(self.names, self.strides, strict=True):
            height, width = compute_level_size(image_size, stride)
            level = getattr(self, name)(y_hat)[..., :height, :width]
            if finer is not None:
                level = getattr(self, f"{name}_mix")(finer, level)
            levels[name] = finer = level
        return levels


def _make_level_decoder(channels, out_channels, stride, level_stride):
    """Blocks from stride s to s_k: each doubling after a residual block, attention after the second."""
    doublings = round(math.log2(stride / level_stride))
    if doublings <= 0:
        halvings = [ResidualDownsample(channels, channels) for _ in range(-doublings)]
        return nn.Sequential(*halvings, ResidualBlock(channels, out_channels))
    blocks = []
    for index in range(doublings):
        last = index == doublings - 1
        blocks.append(ResidualBlock(channels, channels))
        blocks.append(ResidualUpsample(channels, out_channels if last else channels))
        if index == 1 and not last:
            blocks.append(AttentionBlock(channels))
    return nn.Sequential(*blocks)


class _LevelMixing(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.shrink = Conv2d(channels, channels, 5, stride=stride, padding=2)
        self.mix = Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, finer, level):
        """Adds to a level, (N, C, H, W), what the finer one tells of it."""
        shrunk = F.leaky_relu(self.shrink(finer))
        return F.leaky_relu(self.mix(torch.cat([shrunk, level], dim=1))) + level


@FEATURE_SPLIT_REGISTRY.register()
class LMSFC(FeatureSplit):
    """L-MSFC around any Detectron2 pyramid whose top level, if it has one, is pooled.

    Latents are rounded to integers: with `CODEC.BITS 8` the quantizer's step size is 1. The published
    training is `LOSS: distill` with a rate weight.

    Args:
        encoder (FusionEncoder), decoder (PyramidDecoder): the two parts.
        pooled (list[str]): names of the levels above those that are coded, fine to coarse.
        stride (int): s.
        channels (int): C'.
    """

    codec_defaults = {"quantizer": "fixed", "value_range": (-128.0, 127.0), "train_quantization": "ste"}

    @configurable
    def __init__(self, *, encoder, decoder, pooled, stride, channels):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.pooled = tuple(pooled)
        self.stride = stride
        self.channels = channels

    @classmethod
    def from_config(cls, cfg, backbone):
        settings = cfg.MODEL.FEATCOMP.LMSFC
        names, strides, fused, width, pool_top = find_pyramid(backbone, cls.__name__)
        if not pool_top:
            raise ValueError(
                "MODEL.FEATCOMP.SPLIT LMSFC restores levels above the coded ones by pooling; this "
                f"backbone computes {', '.join(names[fused:])} by convolution"
            )
        strides_there = [strides[0] * 2**power for power in range(1, fused + 1)]
        if settings.STRIDE not in strides_there:
            raise ValueError(
                f"MODEL.FEATCOMP.LMSFC.STRIDE is {settings.STRIDE}: choose one of "
                f"{', '.join(map(str, strides_there))}"
            )
        if settings.CHANNELS < 1:
            raise ValueError(
                f"MODEL.FEATCOMP.LMSFC.CHANNELS is {settings.CHANNELS}: it must be at least 1"
            )
        coded = {"names": names[:fused], "strides": strides[:fused], "stride": settings.STRIDE}
        return {
            "encoder": FusionEncoder(in_channels=width, channels=settings.CHANNELS, **coded),
            "decoder": PyramidDecoder(channels=settings.CHANNELS, out_channels=width, **coded),
            "pooled": names[fused:],
            "stride": settings.STRIDE,
            "channels": settings.CHANNELS,
        }

    def reduce(self, features):
        return [self.encoder(features)]

    def restore(self, y_hats, image_size, step_sizes=None):
        levels = self.decoder(y_hats[0], image_size)
        top = levels[self.decoder.names[-1]]
        for name in self.pooled:
            levels[name] = top = F.max_pool2d(top, kernel_size=1, stride=2)
        return levels

    def reduced_shapes(self, image_size):
        return [(self.channels, *compute_level_size(image_size, self.stride))]

    def distillation_loss(self, restored, features):
        """Computes the mean of the levels' mean squared errors, all of equal weight: a scalar Tensor. No
        gradient flows into `features`."""
        errors = [
            F.mse_loss(restored[name].float(), level.detach().float())
            for name, level in features.items()
        ]
        return torch.stack(errors).mean()
