"""Any network of timm (PyTorch Image Models) that gives feature maps, as a backbone.

timm is imported when such a backbone is built.
"""

import math
from collections import OrderedDict

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import nn

from .staged import StagedBackbone, build_fpn, require_features

__all__ = ["TimmFeatures", "TimmStages"]

_COUNTS = ".num_batches_tracked"  # that no output depends on


class _TimmNetwork:
    """Knows the names that timm has for the weights of a backbone, and what sizes it takes.

    Attributes:
        _prefixes (dict[str, str]): first part of a weight's name in timm's features -> what is before it
            here.
        size_divisibility (int): images are padded to multiples of it; 0 does not pad.
    """

    size_divisibility = 0  # of Backbone a property; build_timm_backbone sets it

    def rename_timm_weights(self, weights):
        """Renames weights of the network as timm saves it.

        Args:
            weights (dict[str, Tensor]): e.g. "layer1.0.conv1.weight".

        Returns:
            dict[str, Tensor] or None: by the names of this module, without what features do not need;
            None where some weight of this module is not among them, so that they are of another network.
        """
        own = {name for name in self.state_dict() if not name.endswith(_COUNTS)}
        names = ((name, self._find_name(name, own)) for name in weights)
        renamed = {found: weights[name] for name, found in names if found}
        return renamed if own <= renamed.keys() else None

    @torch.no_grad()
    def rounds_down(self, channels):
        """bool: whether features of images of odd sides lack their last row and column."""
        strides = [shape.stride for shape in self.output_shape().values()]
        height, width = max(strides) + 1, 2 * max(strides) + 1
        training = self.training
        try:
            found = self.eval()(torch.zeros(1, channels, height, width))
        except Exception:  # of networks of one size; what they raise is anything
            return False
        finally:
            self.train(training)
        return any(
            y.shape[-2:] != (-(-height // stride), -(-width // stride))
            for y, stride in zip(found.values(), strides, strict=True)
        )

    def _find_name(self, name, own):
        # timm joins the names of a row and of its parts, and may put the whole network below one name.
        for known in (name, name.replace(".", "_", 1), f"body.{name}", f"model.{name}"):
            found = self._prefixes.get(known.partition(".")[0], "") + known
            if found in own:
                return found
        return ""


class TimmStages(_TimmNetwork, StagedBackbone):
    """A network of timm whose parts run one after the other, so that it has stages: "res2" ends at
    stride 4, "res3" at 8, and so on. What is before is the stem.

    Args:
        network (FeatureListNet): of timm; its parts become those of this module.
        shapes (list[ShapeSpec]): of its features.
        out_features (sequence[str]): stages whose outputs are returned.
    """

    def __init__(self, network, shapes, out_features):
        ends = dict(zip(network.return_layers, shapes, strict=True))
        rows, found, waiting = {"stem": OrderedDict()}, {}, OrderedDict()
        for part, module in network.items():
            waiting[part] = module
            if part in ends:
                name = "stem" if ends[part].stride < 4 else _name_feature(ends[part].stride)
                rows.setdefault(name, OrderedDict()).update(waiting)
                found[name] = ends[part]
                waiting = OrderedDict()
        stages = {
            name: (nn.Sequential(row), found[name]) for name, row in rows.items() if name != "stem"
        }
        super().__init__(nn.Sequential(rows["stem"]), stages, out_features)
        self._prefixes = {part: f"{name}." for name, row in rows.items() for part in row}

    @staticmethod
    def freeze_norms(module):
        from timm.layers import freeze_batch_norm_2d  # which knows timm's norms with activations

        return freeze_batch_norm_2d(module)


class TimmFeatures(_TimmNetwork, Backbone):
    """A network of timm whose features are taken from within, by hooks or the like, or are not
    (N, C, H, W). It cannot be split inside.

    Args:
        network (nn.Module): of `timm.create_model(..., features_only=True)`.
        shapes (list[ShapeSpec]): of its features; where two have the same stride, the later one counts.
        out_features (sequence[str]): "res2" (stride 4) and so on.
    """

    def __init__(self, network, shapes, out_features):
        super().__init__()
        self.network = network
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self._names = [_name_feature(shape.stride) for shape in shapes]
        named = dict(zip(self._names, shapes, strict=True))
        self._shapes = {name: shape for name, shape in named.items() if name in out_features}
        self._prefixes = dict.fromkeys(
            {name.partition(".")[0] for name in network.state_dict()}, "network."
        )

    def forward(self, x):
        """As :meth:`StagedBackbone.forward`."""
        found = dict(zip(self._names, self.network(x), strict=True))
        if self._channels_last:
            found = {name: y.permute(0, 3, 1, 2) for name, y in found.items()}
        return {name: found[name] for name in self._shapes}

    def output_shape(self):
        return dict(self._shapes)

    def freeze(self, freeze_at):
        """Refuses, but for 0: nothing tells where a stage ends."""
        if freeze_at > 0:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but this network of timm has no stages that "
                "run one after the other: set it to 0"
            )
        return self


def _name_feature(stride):
    return f"res{round(math.log2(stride))}"


def _create(cfg, channels):
    """Builds the network of a config by timm."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME build_timm_backbone and build_timm_fpn_backbone need timm: "
            "pip install 'd2_featcomp[timm]'"
        ) from error
    settings = cfg.MODEL.TIMM
    if not timm.is_model(settings.NAME):
        raise ValueError(
            f"MODEL.TIMM.NAME is {settings.NAME!r}, which timm {timm.__version__} does not know: "
            "timm.list_models() lists those that it does"
        )
    norms = {
        "": lambda module: module,
        "FrozenBN": timm.layers.freeze_batch_norm_2d,
        "SyncBN": timm.layers.convert_sync_batchnorm,
    }
    if settings.NORM not in norms:
        raise ValueError(
            f"MODEL.TIMM.NORM is {settings.NORM!r}: choose from FrozenBN, SyncBN and '' (its own)"
        )
    options = {**dict(settings.OPTIONS), "in_chans": channels, "features_only": True}
    try:
        network = timm.create_model(settings.NAME, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"timm cannot build features of MODEL.TIMM.NAME {settings.NAME!r} with MODEL.TIMM.OPTIONS "
            f"{settings.OPTIONS}: {error}"
        ) from error
    return norms[settings.NORM](network)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape):
    """Builds a network of timm, with random weights; MODEL.WEIGHTS may name a file that timm saved.

    Args:
        cfg (CfgNode): `MODEL.TIMM` and `MODEL.BACKBONE.FREEZE_AT` are used.
        input_shape (ShapeSpec): of the images.

    Returns:
        TimmStages or TimmFeatures

    Raises:
        ImportError: timm is not installed. ValueError: it has no such network or features.
    """
    backbone = _build(cfg, input_shape)
    if backbone.rounds_down(input_shape.channels):
        backbone.size_divisibility = max(shape.stride for shape in backbone.output_shape().values())
    return backbone


def _build(cfg, input_shape):
    """Builds a backbone, which pads nothing."""
    network = _create(cfg, input_shape.channels)
    info = network.feature_info
    sizes = zip(info.channels(), info.reduction(), strict=True)
    shapes = [ShapeSpec(channels=channels, stride=stride) for channels, stride in sizes]
    out_features = cfg.MODEL.TIMM.OUT_FEATURES
    available = dict.fromkeys(_name_feature(shape.stride) for shape in shapes if shape.stride >= 4)
    require_features(out_features, tuple(available), "MODEL.TIMM.OUT_FEATURES")
    # timm calls the parts of these one after the other.
    is_staged = type(network).__name__ == "FeatureListNet" and network.output_fmt == "NCHW"
    backbone = (TimmStages if is_staged else TimmFeatures)(network, shapes, out_features)
    return backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape):
    """Builds a network of timm below an FPN, which tells by itself how images are padded.

    Args, result and errors are those of :func:`build_timm_backbone`; `MODEL.FPN` is used, too.

    Returns:
        FPN
    """
    return build_fpn(cfg, _build(cfg, input_shape))
