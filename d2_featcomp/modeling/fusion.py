"""Networks rewritten for inference: fewer passes over memory, the same function."""

import copy

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

__all__ = ["fold_norms", "fused_copy"]


def fused_copy(network):
    """A network for inference alone, beside the one that is trained and saved.

    Args:
        network (SplitInference): in evaluation mode.

    Returns:
        SplitInference: batch norms folded, weights with their channels last in memory.
    """
    fused = copy.deepcopy(network).requires_grad_(False)
    fold_norms(fused, keep=fused.feature_split.unfolded())
    return fused.to(memory_format=torch.channels_last)


def fold_norms(module, keep=()):
    """Multiplies batch norms, by their running statistics, into the convolutions before them.

    Args:
        module (nn.Module): in evaluation mode; changed in place. Convolutions are Detectron2's, with
            their norm in an attribute.
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
