"""Any Detectron2 network, split into an edge and a cloud sub-model."""

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..codecs import FeatureBitstream
from ..codecs.structures import OWN_LIMITS
from .acceleration import Acceleration, OnnxAcceleration, require_inference
from .checkpoint_names import make_saved_name, rename_on_load, rename_on_save, rename_reported
from .fingerprint import WatchedWeights, hash_weights
from .processor import require_bfloat16
from .split_backbone import SplitBackbone, find_size_divisibility
from .split_inference import SplitInference
from .split_point import AfterBackbone
from .split_settings import check_split_config, read_split_settings, require_backbone
from .split_training import SplitTraining
from .splits import find_stored_name
from .sub_models import drop_other_weights, find_sub_model_weights

__all__ = ["SplitNetwork", "split_network"]

LOSSES = ("task", "distill", "both")
_PIXELS = ("pixel_mean", "pixel_std")


@META_ARCH_REGISTRY.register()
class SplitNetwork(SplitInference, SplitTraining, nn.Module):
    """A Detectron2 meta-architecture with a split point in its backbone.

    The meta-architecture runs unchanged; its attribute `backbone` is replaced by a
    :class:`SplitBackbone`. It must call `self.backbone(images)` once in its `forward`, and hold the
    buffers `pixel_mean` and `pixel_std`, as Detectron2's own do. Attributes that this class does not
    have are the network's.

    Checkpoints are those of the network before it was split, plus keys `feature_split.*` and, for codecs
    with parameters, `feature_codec.*`.

    Built from a config with `MODEL.FEATCOMP.ENABLED` False, it is the network `TASK_NETWORK` itself.

    Attributes:
        channel_weights (dict[str, Tensor] or None): of the loss "distill", see
            :func:`compute_distillation_loss`; not stored in checkpoints.

    Args:
        network (nn.Module): a meta-architecture with an attribute `backbone`.
        feature_split (FeatureSplit): built for its features at the split point.
        feature_codec (FeatureCodec): codes the latent.
        split_point (SplitPoint or None): None is after the backbone.
        split_name (str): name of the split in the registry; "" is that of its class.
        loss (str): what training minimizes: "task" (the network's own losses), "distill" (the distance
            of the restored from the original features) or "both".
        loss_weights (dict[str, float]): name of a loss of the network -> its weight; 1 if not named.
        freeze_task_network (bool): train only split and codec; batch norm statistics stay too.
        rate_weights (dict[str, float]): name of a rate term of the codec -> its weight among the losses.
            A network with a method `weight_losses` balances "compressibility" itself.
        preprocessing (str): describes what happens to an image before the network, for the fingerprint.
        accelerate_training (bool): compute in training only what its loss depends on: the same sums.

    Raises:
        ValueError: no backbone, or one that is split already; an unknown loss, or a rate term of
        features that training leaves unchanged.
    """

    def __new__(cls, cfg=None, **settings):
        if cfg is not None and not cfg.MODEL.FEATCOMP.ENABLED:
            check_split_config(cfg)
            return META_ARCH_REGISTRY.get(cfg.MODEL.FEATCOMP.TASK_NETWORK)(cfg)
        return super().__new__(cls)

    def __init__(self, cfg=None, **settings):
        super().__init__()
        if cfg is not None:
            settings = {**read_split_settings(cfg), **settings}
        self._assemble(**settings)
        if cfg is not None:
            self.to(cfg.MODEL.DEVICE)

    def _assemble(
        self,
        *,
        network,
        feature_split,
        feature_codec,
        split_point=None,
        split_name="",
        loss="task",
        loss_weights=None,
        freeze_task_network=False,
        rate_weights=None,
        preprocessing="",
        accelerate_training=True,
    ):
        require_backbone(network)
        split_point = split_point or AfterBackbone(network.backbone)
        if loss not in LOSSES:
            raise ValueError(f"unknown training loss {loss!r}: choose one of {', '.join(LOSSES)}")
        self.rate_weights = dict(rate_weights or {})
        if self.rate_weights and not split_point.trains_head:
            raise ValueError(
                f"MODEL.FEATCOMP.SPLIT {split_name or type(feature_split).__name__} codes what training "
                f"does not change: set the weights of {', '.join(self.rate_weights)} to 0 "
                "(MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT, MODEL.FEATCOMP.TRAIN.RATE_WEIGHT)"
            )
        network.backbone = SplitBackbone(
            backbone=network.backbone,
            split_point=split_point,
            feature_split=feature_split,
            feature_codec=feature_codec,
        )
        self.network = network
        self.split_name = split_name or type(feature_split).__name__
        own = network.describe_preprocessing() if hasattr(network, "describe_preprocessing") else ""
        self._preprocessing = f"{preprocessing} {find_size_divisibility(network)} {own}".rstrip()
        self._loss = loss
        self._loss_weights = dict(loss_weights or {})
        self._frozen = freeze_task_network
        self._accelerates_training = accelerate_training and loss == "task"
        self.channel_weights = None
        self._given_fingerprints = None
        self._sub_model = None  # both
        self._forget_weights()
        self._acceleration = None
        self.register_state_dict_post_hook(rename_on_save)
        self.register_load_state_dict_pre_hook(rename_on_load)
        self.register_load_state_dict_post_hook(rename_reported)
        if freeze_task_network:
            for module in self._task_modules():
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = self.__dict__.get("_modules", {}).get("network")
            if network is None or name.startswith("_"):
                raise
            return getattr(network, name)

    @property
    def feature_split(self):
        return self.network.backbone.feature_split

    @property
    def feature_codec(self):
        return self.network.backbone.feature_codec

    @property
    def split_point(self):
        return self.network.backbone.split_point

    @property
    def stored_split_name(self):
        """str: name of the split in bitstreams, fingerprints and exported files."""
        return find_stored_name(self.split_name)

    @property
    def device(self):
        return self.network.pixel_mean.device

    @property
    def sends_image(self):
        """bool: whether the image itself is coded and the cloud runs the whole network."""
        return self.split_point.name == "image"

    def _task_modules(self):
        """Yields all modules but those of split and codec."""
        own = {*self.feature_split.modules(), *self.feature_codec.modules()}
        yield from (module for module in self.network.modules() if module not in own)

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self._acceleration = None
        elif self._sub_model is None:  # so that no change of weights or modules is missed
            self._forget_weights()
            if self._acceleration is not None:
                self._acceleration.look_again()
        if mode and self._frozen:
            for module in self._task_modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _forget_weights(self):
        """Gives up what is known of weights: it is found again when it is asked for."""
        self._fingerprints = {}
        self._weight_names = None
        self._watched = None  # weights of the edge
        self._pixels = WatchedWeights(self.network, _PIXELS)

    def forward(self, batched_inputs):
        """As the network's own `forward`.

        In training: its losses, with the features reduced and restored. Otherwise every image is coded
        to bytes and its outputs are computed from those bytes alone.

        Args:
            batched_inputs (list[dict]): as the network takes them.

        Returns:
            dict[str, Tensor] of losses in training, else as :meth:`cloud_inference`.
        """
        if self.training:
            return self._training_losses(batched_inputs)
        coded = [stream.to_bytes() for stream in self.edge_inference(batched_inputs)]
        return self.cloud_inference([FeatureBitstream.from_bytes(data, OWN_LIMITS) for data in coded])

    def accelerate(self, inference="fused"):
        """Makes both sub-models faster by other ways to compute the same.

        The parameters stay as they are, with their names, beside a converted copy for each sub-model:
        checkpoints are loaded and saved as before. After weights have changed the copies are made anew
        (after one through `.data`, or of modules, once `eval()` is called); :meth:`train` undoes it.

        Args:
            inference (str): as `MODEL.FEATCOMP.INFERENCE`: "plain", "fused", "compiled", "bfloat16",
                or the path of an edge.onnx of this network.

        Raises:
            RuntimeError: the network is in training mode. ValueError: an unknown way, "bfloat16" on a
                processor that cannot compute in it, or a file of another network.
        """
        if self.training:
            raise RuntimeError("acceleration needs evaluation mode: call model.eval() first")
        require_inference(inference)
        if inference.endswith(".onnx"):
            self._acceleration = OnnxAcceleration(inference, self.fingerprint())
            return
        if inference == "bfloat16" and self._sub_model != "cloud":
            require_bfloat16(self.device)
        self._acceleration = None if inference == "plain" else Acceleration(inference)

    def fuse_for_inference(self, edge_dtype=torch.float32, compile_edge=False):
        """Earlier name of :meth:`accelerate`.

        Args:
            edge_dtype (torch.dtype): torch.float32 ("fused") or torch.bfloat16 ("bfloat16").
            compile_edge (bool): "compiled".
        """
        if edge_dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"edge_dtype is {edge_dtype}: give torch.float32 or torch.bfloat16")
        low = edge_dtype == torch.bfloat16
        self.accelerate("bfloat16" if low else "compiled" if compile_edge else "fused")

    def accelerated(self, sub_model):
        """Returns what computes a sub-model: of "edge" a :class:`SplitBackbone` (or its replacement),
        of "cloud" a meta-architecture; this network's own in "plain"."""
        if self._acceleration is None:
            return self.network.backbone if sub_model == "edge" else self.network
        return self._acceleration.find(self.network, sub_model)

    def fingerprint(self, feature_codec=None):
        """Identifies what bitstreams of this network depend on: the weights of the edge sub-model,
        split point, preprocessing, and the codec with its weights. After weights were changed through
        `.data`, as by some moving averages, or modules were replaced, call `eval()` before.

        Args:
            feature_codec (FeatureCodec or None): in place of the network's own.

        Returns:
            bytes: 4; equal for equal weights and settings, on any device.
        """
        codec = feature_codec or self.feature_codec
        if self._given_fingerprints is not None and codec is self.feature_codec:
            return self._given_fingerprints[0]
        text = "\n".join(
            [codec.describe(), self.stored_split_name, self.split_point.name, self._preprocessing]
        )
        return self._hash(text, [self._edge_weights(), WatchedWeights(codec), self._pixels])

    def fingerprint_v1(self):
        """Returns bytes: 4, the fingerprint in bitstreams of format 1: of the edge sub-model's weights
        alone."""
        if self._given_fingerprints is not None:
            return self._given_fingerprints[1]
        return self._hash("", [self._edge_weights()])

    def _hash(self, text, weights):
        key = [watched.key() for watched in weights]
        known = self._fingerprints.get(text)
        if known is None or known[0] != key:
            found = {name: tensor for watched in weights for name, tensor in watched.items()}
            # In the order of checkpoints; what they do not hold comes last.
            names = [name for name in self.state_dict() if name in found]
            names += [name for name in found if name not in names]
            known = key, hash_weights([(name, found[name]) for name in names], text)
            self._fingerprints[text] = known
        return known[1]

    def _edge_weights(self):
        if self._watched is None:
            names = {
                name
                for name in self.sub_model_names("edge")
                if not name.startswith("feature_codec.")
                and not name.endswith("num_batches_tracked")
                and name not in _PIXELS
            }
            self._watched = WatchedWeights(self, names, make_saved_name)
        return self._watched

    def sub_model_names(self, sub_model):
        """Lists the weights of a sub-model, by their names in the state dict.

        Args:
            sub_model (str): "edge" or "cloud".

        Returns:
            set[str]

        Raises:
            ValueError: another name.
        """
        if sub_model not in ("edge", "cloud"):
            raise ValueError(f"unknown sub-model {sub_model!r}: choose edge or cloud")
        if self._weight_names is None:
            self._weight_names = find_sub_model_weights(self)
        return self._weight_names[sub_model]

    half_state = sub_model_names  # earlier name

    def keep_sub_model(self, sub_model, fingerprint=None, fingerprint_v1=None):
        """Gives up the weights that one sub-model does not need, and with them the other sub-model.

        Args:
            sub_model (str): "edge" or "cloud": which one to keep.
            fingerprint, fingerprint_v1 (bytes or None): of the whole network, where its weights were not
                all loaded; None computes them.

        Returns:
            set[str]: names of the weights that are kept, of the network's state dict.
        """
        kept = self.sub_model_names(sub_model)
        self._given_fingerprints = (
            fingerprint or self.fingerprint(),
            fingerprint_v1 or self.fingerprint_v1(),
        )
        drop_other_weights(self, kept)
        self._sub_model = sub_model
        self._acceleration = None
        return kept

    keep_half = keep_sub_model  # earlier name

    def _require_ready(self, sub_model):
        if self.training:
            raise RuntimeError(f"{sub_model}_inference needs evaluation mode: call model.eval() first")
        if self._sub_model not in (None, sub_model):
            raise RuntimeError(
                f"this network holds the weights of its {self._sub_model} sub-model only: it cannot run "
                f"{sub_model}_inference"
            )


def split_network(network, *, feature_split, feature_codec, **settings):
    """Splits a network that was already built.

    Args:
        network (nn.Module): a Detectron2 meta-architecture with an attribute `backbone`; it becomes part
            of the result, and its backbone is replaced.
        feature_split, feature_codec, settings: as for :class:`SplitNetwork`.

    Returns:
        SplitNetwork

    Raises:
        ValueError: see :class:`SplitNetwork`.
    """
    return SplitNetwork(
        network=network, feature_split=feature_split, feature_codec=feature_codec, **settings
    )
