"""EfficientNet-lite written once more, from its description: random weights under the published names,
and a function of them."""

import numpy as np
import torch
import torch.nn.functional as F

# Blocks, kernel size, stride, expansion and channels of each row; of the published files.
LITE0 = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
LITE2 = (
    *((1, 3, 1, 1, 16), (3, 3, 2, 6, 24), (3, 5, 2, 6, 48), (4, 3, 2, 6, 88)),
    *((4, 5, 1, 6, 120), (5, 5, 2, 6, 208), (1, 3, 1, 6, 352)),
)
ENDS = {"res2": 1, "res3": 2, "res4": 4, "res5": 6}  # rows that end a stage


def list_blocks(rows):
    """Yields kernel size, stride, expansion, input and output channels, and whether a row ends."""
    channels = 32
    for count, kernel_size, stride, expansion, out_channels in rows:
        for number in range(count):
            first_stride = stride if number == 0 else 1
            yield kernel_size, first_stride, expansion, channels, out_channels, number == count - 1
            channels = out_channels


def make_weights(rows, seed=0):
    """dict[str, Tensor]: as the published files are laid out. The same on every processor, which
    PyTorch's own random numbers are not."""
    generator, weights = np.random.default_rng(seed), {}

    def normal(*shape):
        return torch.from_numpy(generator.standard_normal(shape)).float()

    def uniform(*shape):
        return torch.from_numpy(generator.random(shape)).float()

    def conv(name, norm, shape):
        scale = (shape[1] * shape[2] * shape[3]) ** -0.5
        weights[f"{name}.weight"] = normal(*shape) * scale * 1.5
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 1), ("running_mean", -0.3, 0.3)):
            weights[f"{norm}.{part}"] = low + (high - low) * uniform(shape[0])
        # Small ones, where it shows what is added to them.
        weights[f"{norm}.running_var"] = 0.002 + uniform(shape[0])
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", (32, 3, 3, 3))
    for number, (kernel, _, expansion, inside, outside, _) in enumerate(list_blocks(rows)):
        block, wide = f"_blocks.{number}.", inside * expansion
        if expansion != 1:
            conv(f"{block}_expand_conv", f"{block}_bn0", (wide, inside, 1, 1))
        conv(f"{block}_depthwise_conv", f"{block}_bn1", (wide, 1, kernel, kernel))
        conv(f"{block}_project_conv", f"{block}_bn2", (outside, wide, 1, 1))
    conv("_conv_head", "_bn1", (1280, rows[-1][-1], 1, 1))
    weights["_fc.weight"] = normal(1000, 1280) * 0.05
    weights["_fc.bias"] = normal(1000)
    return weights


def run(weights, rows, x):
    """dict[str, Tensor]: "res2" to "res5" and "linear" of images (N, 3, H, W)."""

    def conv(name, norm, x, stride=1, groups=1):
        weight = weights[f"{name}.weight"]
        kernel = weight.shape[-1]
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        top, left = pads[0] // 2, pads[1] // 2
        x = F.pad(x, (left, pads[1] - left, top, pads[0] - top))
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        parts = (weights[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    found, row = {}, 0
    x = conv("_conv_stem", "_bn0", x, stride=2).clamp(0, 6)
    for number, (_, stride, expansion, inside, outside, ends) in enumerate(list_blocks(rows)):
        block, y = f"_blocks.{number}.", x
        if expansion != 1:
            y = conv(f"{block}_expand_conv", f"{block}_bn0", y).clamp(0, 6)
        y = conv(f"{block}_depthwise_conv", f"{block}_bn1", y, stride, inside * expansion).clamp(0, 6)
        y = conv(f"{block}_project_conv", f"{block}_bn2", y)
        x = x + y if stride == 1 and inside == outside else y
        found |= {name: x for name, end in ENDS.items() if ends and end == row}
        row += ends
    pooled = conv("_conv_head", "_bn1", x).clamp(0, 6).mean(dim=(2, 3))
    return {**found, "linear": pooled @ weights["_fc.weight"].T + weights["_fc.bias"]}
