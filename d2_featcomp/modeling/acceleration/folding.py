"""Conv-BN folding: batch norms multiplied into the convolutions before them; convolutions by oneDNN."""

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

__all__ = ["OneDnnConv2d", "fold_norms", "use_one_dnn"]


class OneDnnConv2d(Conv2d):
    """A convolution by oneDNN on CPUs, whatever the number of threads: with one thread PyTorch itself
    chooses a slower way. In evaluation mode, without a norm."""

    def forward(self, x):
        if x.device.type != "cpu":
            return super().forward(x)
        geometry = self.padding, self.stride, self.dilation, self.groups
        y = torch.mkldnn_convolution(x, self.weight, self.bias, *geometry)
        return y if self.activation is None else self.activation(y)


def use_one_dnn(module):
    """Lets the convolutions of a module be computed by oneDNN; their norms are folded before.

    Args:
        module (nn.Module): a copy that is for inference alone; changed in place.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for conv in module.modules():
        if type(conv) is Conv2d and conv.norm is None and conv.padding_mode == "zeros":
            conv.__class__ = OneDnnConv2d


def fold_norms(module, keep=()):
    """Multiplies batch norms, by their running statistics, into the convolutions before them.

    Args:
        module (nn.Module): in evaluation mode; changed in place. Convolutions are Detectron2's, with
            their norm in an attribute. Those that compute in a way of their own, whose weight is
            computed from others, or whose norm takes the statistics of its input stay as they are. A
            class whose forward only prepares its input says so by `norm_can_be_folded = True`.
        keep (sequence[nn.Module]): convolutions that are left as they are.

    Returns:
        int: how many were folded.
    """
    folded = 0
    for conv in module.modules():
        if not isinstance(conv, Conv2d) or any(conv is one for one in keep):
            continue
        norm = conv.norm
        if not isinstance(norm, (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)):
            continue
        usual = type(conv).forward is Conv2d.forward or getattr(conv, "norm_can_be_folded", False)
        if not usual or "weight" not in conv._parameters:
            continue
        if norm.running_var is None or norm.weight is None:
            continue
        # In double precision, so that one rounding is all that is added.
        variance = norm.running_var.double() + norm.eps
        scale = norm.weight.double() * variance.rsqrt()
        bias = 0 if conv.bias is None else conv.bias.double()
        shift = norm.bias.double() + (bias - norm.running_mean.double()) * scale
        weight = conv.weight.double() * scale[:, None, None, None]
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
        conv.norm = None
        folded += 1
    return folded
