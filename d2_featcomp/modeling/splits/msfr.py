"""MSFR: multi-scale feature reconstruction, the last part of MSFC.

Shape shorthand in this module:
    N: images of a batch; h, w: height and width of the padded images
    C: channels of every pyramid level
    s_k: stride of level p_k; s: stride of the fused map (32, that of p5, in the paper)
"""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from .resampling import align_size, compute_level_size

__all__ = ["MSFR", "SubpixelConv2d"]


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
