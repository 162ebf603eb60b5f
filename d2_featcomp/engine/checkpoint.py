"""Checkpoints: atomic writes, and errors where they do not fit a network."""

import contextlib
import os
import pickle
from urllib.error import URLError
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..files import write_text
from ..modeling import TimmFeatures, TimmStages
from .torchvision_names import is_torchvision_resnet, rename_as_detectron2
from .weight_files import read_weight_file

__all__ = [
    "CheckpointError",
    "FeatCompCheckpointer",
    "load_weights",
    "read_state_dict",
    "save_backbone_weights",
    "save_weights",
]

_DAMAGED = (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError, AttributeError)
_SPLIT_PREFIX = "feature_split."
_CODEC_PREFIX = "feature_codec."
_LOSS_WEIGHTS_PREFIX = "loss_weights."  # that no output depends on


class CheckpointError(ValueError):
    """The file is no checkpoint, or one of another model."""


class FeatCompCheckpointer(DetectionCheckpointer):
    """A :class:`DetectionCheckpointer` that reports what the last checkpoint did not hold.

    Attributes:
        missing (list[str]): keys of the model that were absent, or had another shape, in the
            checkpoint loaded last; all keys before the first.
    """

    def __init__(self, model, save_dir="", **checkpointables):
        super().__init__(model, save_dir, **checkpointables)
        self.missing = list(self.model.state_dict())
        self._query = ""  # of the path that is being loaded

    def save(self, name, **kwargs):
        """As in the base class, but a file of that name is always a complete checkpoint, from which a
        training can go on.

        Raises:
            FloatingPointError: a weight is infinite or NaN; the last checkpoint stays.
            OSError: the file could not be written, e.g. because the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        require_finite_weights(self.model)
        partial = f"{name}.partial"
        path = os.path.join(self.save_dir, f"{partial}.pth")
        try:
            super().save(partial, **kwargs)
            os.replace(path, os.path.join(self.save_dir, f"{name}.pth"))
            self.tag_last_checkpoint(f"{name}.pth")
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if os.path.exists(path):
                os.remove(path)
            raise OSError(
                f"cannot write checkpoint {name}.pth to {self.save_dir!r} ({error}): free disk space "
                "or set OUTPUT_DIR to another disk, then go on with --resume"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename):
        """As in the base class, in one step, and never for a file that is not complete."""
        if last_filename_basename.endswith(".partial.pth"):
            return
        write_text(last_filename_basename, os.path.join(self.save_dir, "last_checkpoint"))

    def load(self, path, *args, **kwargs):
        """As in the base class, without running code that is in the file.

        Raises:
            FileNotFoundError: no such file. CheckpointError: it is no checkpoint. OSError: it cannot be
            downloaded.
        """
        local = urlparse(path or "")
        self._query = local.query
        if path and not local.scheme and not os.path.isfile(local.path):
            raise FileNotFoundError(f"no checkpoint {path!r}: set MODEL.WEIGHTS to an existing file")
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            raise OSError(
                f"cannot download {path!r} ({error.reason}): download it where there is a network, and "
                "set MODEL.WEIGHTS to the file, or to '' to start from random weights"
            ) from error
        except _DAMAGED as error:
            self._parsed_url_during_load = None
            raise CheckpointError(f"{path!r} is no checkpoint that can be read: {error}") from error

    def _load_file(self, filename):
        """As in the base class, of the same formats, without running code that is in the file."""
        loaded = read_weight_file(filename)
        if not isinstance(loaded, dict):
            raise TypeError(f"it holds no dictionary but a {type(loaded).__name__}")
        if filename.endswith(".pkl") and not {"model", "__author__"} <= loaded.keys():
            # Caffe2's and Detectron1's model zoos.
            weights = loaded.get("blobs", loaded)
            weights = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
            return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        if filename.endswith(".pyth"):  # pycls
            weights = loaded["model_state"]
            weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        if "model" not in loaded:
            loaded = {"model": loaded}
        if is_torchvision_resnet(loaded["model"]):
            weights = rename_as_detectron2(loaded["model"])
            return {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
        if parse_qs(self._query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint):
        for module in self.model.modules():
            if isinstance(module, (TimmStages, TimmFeatures)):
                renamed = module.rename_timm_weights(checkpoint["model"])
                if renamed is not None:
                    checkpoint |= {"model": renamed, "matching_heuristics": True}
        incompatible = super()._load_model(checkpoint)
        wrong_shape = [key for key, _, _ in incompatible.incorrect_shapes]
        absent = {*incompatible.missing_keys, *wrong_shape}
        self.missing = sorted(key for key in absent if not key.startswith(_LOSS_WEIGHTS_PREFIX))
        return incompatible

    @property
    def missing_task_network(self):
        """list[str]: those of `missing` that belong to the task network, not to split or codec."""
        return [key for key in self.missing if not key.startswith((_SPLIT_PREFIX, _CODEC_PREFIX))]

    def require_backbone(self, path):
        """Raises CheckpointError unless the checkpoint loaded last held the whole backbone; "" is none.

        Args:
            path (str): of the checkpoint.
        """
        absent = [key for key in self.missing if key.startswith("backbone.")]
        if path and absent:
            raise CheckpointError(
                f"checkpoint {path!r} does not fit this model, {len(absent)} parameters of its backbone "
                f"are absent or have another shape ({absent[0]}, ...): start from one with the same "
                'backbone, or from random weights with MODEL.WEIGHTS ""'
            )

    def require_complete(self, path, *, split=True, codec=True):
        """Raises CheckpointError unless the checkpoint loaded last held the whole model.

        Args:
            path (str): of the checkpoint, for the message.
            split (bool): whether the feature split must have been in it too.
            codec (bool): whether the codec must have been in it too; never without `split`.
        """
        absent = self.missing if split else self.missing_task_network
        if not codec:
            absent = [key for key in absent if not key.startswith(_CODEC_PREFIX)]
        if not absent:
            return
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        if all(key.startswith(_CODEC_PREFIX) for key in absent):
            advice = (
                "its codec was not trained, or with other settings (CODEC.BITS, CODEC.LEARNED): train "
                'it with MODEL.FEATCOMP.TRAIN.STEPS "(4,)", which takes minutes, or choose another '
                "MODEL.FEATCOMP.CODEC.NAME"
            )
        elif all(key.startswith(_SPLIT_PREFIX) for key in absent):
            advice = (
                "it holds the task network alone, or a split with other settings; train the split, "
                "use the settings it was trained with, or set MODEL.FEATCOMP.ENABLED False to run "
                "the task network alone"
            )
        else:
            advice = "it belongs to another model; use the config that it was trained with"
        raise CheckpointError(
            f"checkpoint {path!r} does not fit this model, {len(absent)} of its parameters are absent "
            f"or have another shape ({some}): {advice}"
        )


def require_finite_weights(model):
    """Raises FloatingPointError if a weight or buffer of a model is infinite or NaN."""
    values = model.state_dict().values()
    if not all(torch.isfinite(value).all() for value in values if value.is_floating_point()):
        raise FloatingPointError("its weights became infinite or NaN")


def load_weights(model, path):
    """Loads a complete set of weights for evaluation or deployment.

    Args:
        model (nn.Module): changed in place.
        path (str): checkpoint; "" keeps the random initialization.

    Raises:
        FileNotFoundError: no such file. CheckpointError: it does not hold the whole model.
    """
    checkpointer = _CompleteCheckpointer(model)
    checkpointer.load(path)
    if path:
        checkpointer.require_complete(path)


class _CompleteCheckpointer(FeatCompCheckpointer):
    """Leaves what is absent to the error of :meth:`require_complete`, without warnings before it."""

    def _log_incompatible_keys(self, incompatible):
        super()._log_incompatible_keys(incompatible._replace(missing_keys=[], incorrect_shapes=[]))


def read_state_dict(path):
    """Reads the weights in a file of torch.save, without running code that is in it.

    Args:
        path (str): a dictionary of tensors, or one that holds it as "model".

    Returns:
        dict[str, Tensor]

    Raises:
        FileNotFoundError: no such file. CheckpointError: it holds no weights.
    """
    try:
        loaded = read_weight_file(path)
    except _DAMAGED as error:
        raise CheckpointError(f"{path!r} is no file of weights that can be read: {error}") from error
    loaded = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path!r} holds no dictionary of weights")
    return loaded


def save_backbone_weights(weights, path):
    """As :func:`save_weights`, of a backbone alone: the file fits networks that have it anywhere, e.g.
    below an FPN, because Detectron2 compares the ends of names.

    Args:
        weights (dict[str, Tensor]): of the backbone, e.g. "stem.conv1.weight".
        path (str): as for :func:`save_weights`.
    """
    write_checkpoint({"model": weights, "matching_heuristics": True}, path)


def save_weights(weights, path):
    """Writes a checkpoint of weights alone, in one piece.

    Args:
        weights (dict[str, Tensor]): a state dict.
        path (str): of the .pth file, replaced if it exists.

    Raises:
        OSError: it cannot be written, e.g. for want of disk space; an older file is left as it was.
    """
    write_checkpoint({"model": weights}, path)


def write_checkpoint(data, path):
    """As :func:`save_weights`, of a dictionary of tensors, text and the like."""
    partial = f"{path}.partial"
    try:
        torch.save(data, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise OSError(f"cannot write {path!r} ({error}): free disk space, then run it again") from error
