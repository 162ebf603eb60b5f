"""Backbones that compute one stage after the other, so that they can be split between two of them.

To add a kind, write a subclass of :class:`Trunk` and put it into `TRUNKS`.
"""

import abc
import copy

from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, MViT, ResNet, SimpleFeaturePyramid, SwinTransformer, ViT
from detectron2.modeling.backbone.regnet import AnyNet
from detectron2.modeling.backbone.utils import get_abs_pos
from torch import nn

from .backbones import StagedBackbone

__all__ = ["Trunk", "find_trunk"]


class Trunk(abc.ABC):
    """The stages of a backbone.

    Args:
        module (Backbone): that holds the stages.
    """

    kind = None  # class of backbones

    def __init__(self, module):
        self.module = module

    @abc.abstractmethod
    def stage_shapes(self):
        """Returns dict[str, ShapeSpec]: name of each stage, in order -> channels and stride."""

    @abc.abstractmethod
    def outputs(self):
        """Returns list[str]: stages whose outputs the backbone returns."""

    @abc.abstractmethod
    def run(self, x, after, names):
        """Runs consecutive stages.

        Args:
            x (Tensor): (N, C, H, W), the output of stage `after`, or the images.
            after (str or None): None for the images.
            names (list[str]): stages to run.

        Returns:
            dict[str, Tensor]: the output of each, (N, C, H, W).
        """

    def finish(self, features):
        """Returns what the backbone returns, given the outputs of its stages."""
        return features


class ResNetTrunk(Trunk):
    """ "res2" to "res5" of a ResNet."""

    kind = ResNet

    def _stages(self):
        return dict(zip(self.module.stage_names, self.module.stages, strict=True))

    def stage_shapes(self):
        channels, strides = self.module._out_feature_channels, self.module._out_feature_strides
        return {n: ShapeSpec(channels=channels[n], stride=strides[n]) for n in self._stages()}

    def outputs(self):
        return [name for name in self._stages() if name in self.module._out_features]

    def run(self, x, after, names):
        stages, found = self._stages(), {}
        x = self.module.stem(x) if after is None else x
        for name in names:
            x = found[name] = stages[name](x)
        return found


class StagedTrunk(ResNetTrunk):
    """ "res2" to "res5" of a backbone that is laid out as a ResNet: EfficientNet-lite, most of timm."""

    kind = StagedBackbone


class RegNetTrunk(ResNetTrunk):
    """ "s1" to "s4" of a RegNet."""

    kind = AnyNet

    def _stages(self):
        # By name, not from the list that AnyNet keeps: a copy of the module has modules of its own.
        return {name: getattr(self.module, name) for _, name in self.module.stages_and_names}


class ViTTrunk(Trunk):
    """ "block0" and so on of a plain vision transformer; the last is its output."""

    kind = ViT

    def stage_shapes(self):
        shape = self.module.output_shape()[self.module._out_features[0]]
        return {f"block{index}": shape for index in range(len(self.module.blocks))}

    def outputs(self):
        return [f"block{len(self.module.blocks) - 1}"]

    def run(self, x, after, names):
        vit, found = self.module, {}
        x = _embed_patches(vit, x) if after is None else x.permute(0, 2, 3, 1)
        for name in names:
            x = vit.blocks[int(name.removeprefix("block"))](x)
            found[name] = x.permute(0, 3, 1, 2)
        return found

    def finish(self, features):
        (last,) = features.values()
        return {self.module._out_features[0]: last}


class SwinTrunk(Trunk):
    """ "p0" to "p3" of a Swin transformer, each before the norm of its output and before its patches are
    merged: both belong to what comes after."""

    kind = SwinTransformer

    def stage_shapes(self):
        stride = self.module.patch_embed.patch_size[0]
        return {
            f"p{index}": ShapeSpec(channels=channels, stride=stride * 2**index)
            for index, channels in enumerate(self.module.num_features)
        }

    def outputs(self):
        return [f"p{index}" for index in sorted(self.module.out_indices)]

    def run(self, x, after, names):
        swin, found = self.module, {}
        if after is None:
            x = swin.patch_embed(x)
            if swin.ape:
                position = nn.functional.interpolate(
                    swin.absolute_pos_embed, size=x.shape[-2:], mode="bicubic"
                )
                x = x + position
            height, width = x.shape[-2:]
            x = swin.pos_drop(x.flatten(2).transpose(1, 2))
        elif names:
            height, width = x.shape[-2:]
            merge = swin.layers[int(after.removeprefix("p"))].downsample
            x = merge(x.flatten(2).transpose(1, 2), height, width)
            height, width = (height + 1) // 2, (width + 1) // 2
        for name in names:
            layer = swin.layers[int(name.removeprefix("p"))]
            y, rows, columns, x, height, width = layer(x, height, width)
            found[name] = y.transpose(1, 2).unflatten(2, (rows, columns))
        return found

    def finish(self, features):
        norms = {name: getattr(self.module, f"norm{name.removeprefix('p')}") for name in features}
        return {name: _normalize(norms[name], x).contiguous() for name, x in features.items()}


class MViTTrunk(Trunk):
    """ "scale2" to "scale5" of a multiscale vision transformer, each before the norm of its output."""

    kind = MViT

    def _stages(self):
        """dict: name -> indexes of its blocks."""
        ends = [index + 1 for index in self.module._last_block_indexes]
        starts = [0, *ends[:-1]]
        return {
            f"scale{number}": range(start, end)
            for number, (start, end) in enumerate(zip(starts, ends, strict=True), 2)
        }

    def stage_shapes(self):
        stride = self.module.patch_embed.proj.stride[0]
        return {
            name: ShapeSpec(
                channels=self.module.blocks[blocks[-1]].mlp.fc2.out_features, stride=stride * 2**index
            )
            for index, (name, blocks) in enumerate(self._stages().items())
        }

    def outputs(self):
        return [name for name in self._stages() if name in self.module._out_features]

    def run(self, x, after, names):
        vit, stages, found = self.module, self._stages(), {}
        x = _embed_patches(vit, x) if after is None else x.permute(0, 2, 3, 1)
        for name in names:
            for index in stages[name]:
                x = vit.blocks[index](x)
            found[name] = x.permute(0, 3, 1, 2)
        return found

    def finish(self, features):
        return {n: _normalize(getattr(self.module, f"{n}_norm"), x) for n, x in features.items()}


def _embed_patches(vit, images):
    """Returns the patches of a ViT or MViT, (N, rows, columns, C), at their positions."""
    x = vit.patch_embed(images)
    if vit.pos_embed is not None:
        x = x + get_abs_pos(vit.pos_embed, vit.pretrain_use_cls_token, x.shape[1:3])
    return x


def _normalize(norm, x):
    """Applies a norm of the last dimension to the channels of (N, C, H, W)."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Given(nn.Module):
    """Returns features that were computed elsewhere, whatever it is called with."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x):
        return self.features


class _BelowPyramid(Trunk):
    """The trunk below a pyramid; the pyramid itself belongs to the tail.

    Args:
        pyramid (FPN or SimpleFeaturePyramid): whose child `child` holds the stages.
        child (str): "bottom_up" or "net".
        trunk (Trunk): of that child.
    """

    def __init__(self, pyramid, child, trunk):
        super().__init__(pyramid)
        self._child, self._trunk = child, trunk

    def stage_shapes(self):
        return self._trunk.stage_shapes()

    def outputs(self):
        return self._trunk.outputs()

    def run(self, x, after, names):
        return self._trunk.run(x, after, names)

    def finish(self, features):
        # The pyramid as it is, but for what lies below it: a view that shares its weights.
        view = copy.copy(self.module)
        given = _Given(self._trunk.finish(features))
        view._modules = {**self.module._modules, self._child: given}
        return view(None)


TRUNKS = [ResNetTrunk, StagedTrunk, RegNetTrunk, ViTTrunk, SwinTrunk, MViTTrunk]
PYRAMIDS = {FPN: "bottom_up", SimpleFeaturePyramid: "net"}


def find_trunk(backbone):
    """Finds the stages of a backbone.

    Args:
        backbone (Backbone): any.

    Returns:
        Trunk or None: None for kinds that are not known here.
    """
    for pyramid, child in PYRAMIDS.items():
        if isinstance(backbone, pyramid):
            trunk = find_trunk(getattr(backbone, child))
            return None if trunk is None else _BelowPyramid(backbone, child, trunk)
    for trunk in TRUNKS:
        if isinstance(backbone, trunk.kind):
            return trunk(backbone)
    return None
