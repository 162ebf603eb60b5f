"""Networks rewritten for inference: fewer passes over memory, the same function."""

import copy
import logging
import time

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

__all__ = ["CompiledEdge", "OneDnnConv2d", "fold_norms", "fused_copies", "with_modules"]


def with_modules(module, **others):
    """A view of a module, sharing everything with it, some of its children replaced; safe beside other
    threads."""
    view = copy.copy(module)
    view._modules = {**module._modules, **others}
    return view


class OneDnnConv2d(Conv2d):
    """A convolution by oneDNN on CPUs, whatever the number of threads: with one thread PyTorch itself
    chooses a slower way. In evaluation mode, without a norm."""

    def forward(self, x):
        if x.device.type != "cpu":
            return super().forward(x)
        geometry = self.padding, self.stride, self.dilation, self.groups
        y = torch.mkldnn_convolution(x, self.weight, self.bias, *geometry)
        return y if self.activation is None else self.activation(y)


def fused_copies(network, edge_dtype, compiled=False):
    """Networks for inference alone, beside the one that is trained and saved.

    Args:
        network (SplitInference): in evaluation mode.
        edge_dtype (torch.dtype): of the edge half.
        compiled (bool): whether torch.compile will choose how the edge half is computed.

    Returns:
        dict[str, SplitInference]: "edge" and "cloud", the network that computes that half. Batch norms
        are folded; weights have their channels last in memory where that is faster.
    """
    copies = {}
    for half in ("edge", "cloud"):
        copies[half] = copy.deepcopy(network).requires_grad_(False)
        fold_norms(copies[half], keep=copies[half].feature_split.unfolded())
    edge, cloud = copies.values()
    edge.to(memory_format=torch.channels_last)
    if torch.backends.mkldnn.is_available() and not compiled:
        for module in edge.modules():
            if type(module) is Conv2d and module.norm is None and module.padding_mode == "zeros":
                module.__class__ = OneDnnConv2d
    edge.backbone.to(edge_dtype)
    edge.feature_split.to(edge_dtype)
    edge._edge_layout = {"dtype": edge_dtype, "memory_format": torch.channels_last}
    # Pooling of regions reads one channel after the other; that costs more than convolutions gain.
    if network.feature_split.sends_image or not hasattr(network, "roi_heads"):
        cloud.to(memory_format=torch.channels_last)
    return copies


MOST_SIZES = 8  # torch.compile's own limit


class CompiledEdge:
    """The edge half of a fused network, through torch.compile: each image size, and number of images at
    once, is compiled when it first comes, which takes half a minute; after eight of them, others run
    uncompiled.

    Args:
        split (FeatureSplit), backbone (Backbone): of the network.
    """

    def __init__(self, split, backbone):
        self._compiled = torch.compile(split.edge, dynamic=False, options={"freezing": True})
        self._plain = split.edge
        self._backbone = backbone
        self._seen = set()

    def __call__(self, images):
        """As :meth:`FeatureSplit.edge`, of images alone; call it without gradients."""
        if images.shape in self._seen:
            return self._compiled(self._backbone, images)
        if len(self._seen) >= MOST_SIZES:
            return self._plain(self._backbone, images)
        start = time.perf_counter()
        outputs = self._compiled(self._backbone, images)
        self._seen.add(images.shape)
        logging.getLogger("d2_featcomp").info(
            "compiled the edge half for %d image(s) of %d x %d in %.1f s",
            len(images),
            *images.shape[-2:],
            time.perf_counter() - start,
        )
        return outputs


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
