"""SSFC: the single-stream feature codec of MSFC (sec. 3.2), a convolution on either side.

Shape shorthand in this module:
    N: images of a batch; H, W: height and width of the fused map
    C: channels of every pyramid level; C': channels of the latent
"""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, get_norm
from torch import nn

__all__ = ["SSFC_ACTIVATIONS", "SSFCDecoder", "SSFCEncoder"]

# Activation of the encoder -> what makes it, from C'.
SSFC_ACTIVATIONS = {"tanh": lambda channels: nn.Tanh(), "prelu": nn.PReLU}


class SSFCEncoder(nn.Module):
    """Single-stream feature codec, edge side: convolution, batch norm, activation (sec. 3.2).

    Args:
        in_channels (int): C.
        out_channels (int): C'.
        kernel_size (int): odd.
        norm (str): a Detectron2 norm, e.g. "BN", "SyncBN".
        activation (str): "tanh" (the paper) or "prelu", with a trained slope for each channel.
    """

    def __init__(self, *, in_channels, out_channels, kernel_size=3, norm="BN", activation="tanh"):
        super().__init__()
        self.activation = SSFC_ACTIVATIONS[activation](out_channels)
        self.conv = _make_conv(in_channels, out_channels, kernel_size, norm)

    def forward(self, x):
        """(N, C, H, W) float -> (N, C', H, W): by tanh in [-1, 1], by PReLU unbounded."""
        return self.activation(self.conv(x))


class SSFCDecoder(nn.Module):
    """Single-stream feature codec, cloud side: one convolution and PReLU (sec. 3.2).

    Args:
        in_channels (int): C'.
        out_channels (int): C.
        kernel_size (int): odd.
        norm (str): a Detectron2 norm between the two; "" (the paper): none.
    """

    def __init__(self, *, in_channels, out_channels, kernel_size=3, norm=""):
        super().__init__()
        self.conv = _make_conv(in_channels, out_channels, kernel_size, norm)
        self.activation = nn.PReLU(out_channels)

    def forward(self, x):
        """(N, C', H, W) float -> (N, C, H, W), the paper's F'."""
        return self.activation(self.conv(x))


def _make_conv(in_channels, out_channels, kernel_size, norm):
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv
