"""Edge and cloud sub-models as files: each holds all that its own programs need, and no more."""

import os
import zipfile

import torch
from detectron2.modeling import build_model

from ..codecs.bitstream import FINGERPRINT_BYTES
from ..engine.checkpoint import CheckpointError, load_weights, write_checkpoint
from ..engine.command_line import require_weights, setup_config
from ..engine.inference import prepare_for_inference, require_split
from ..modeling import find_split_name
from .classes import choose_categories, count_classes
from .configuration import describe_network, read_dumped_config, require_same_config

__all__ = [
    "SUB_MODELS",
    "export_sub_models",
    "find_categories",
    "load_sub_model",
    "read_config",
    "read_description",
]

SUB_MODELS = ("edge", "cloud")
_LOSS_WEIGHTS = "loss_weights."  # that no output depends on
_MISSING_CONFIG = (
    "{!r} holds no configuration that can be read: give --config-file, or export it again with "
    "featcomp export"
)


def export_sub_models(cfg, folder, class_names=None):
    """Splits a checkpoint, MODEL.WEIGHTS, into `edge.pth` and `cloud.pth`.

    Beside its weights each file holds what :func:`describe_network` tells: configuration, names of the
    classes, input size and format, codec, fingerprint.

    Args:
        cfg (CfgNode): of a network that is split.
        folder (str): made if it does not exist.
        class_names (sequence[str] or None): of the classes; None takes those of the data sets in `cfg`.

    Returns:
        dict: "edge" and "cloud" -> path of the file.

    Raises:
        ValueError: the network is not split, there are no weights, or another number of names than of
        classes. FileNotFoundError, CheckpointError: see :func:`load_weights`. OSError: the disk is full.
    """
    require_weights(cfg)
    model = build_model(cfg).eval()
    require_split(model, True)
    categories = choose_categories(cfg, count_classes(model), class_names)
    load_weights(model, cfg.MODEL.WEIGHTS)
    os.makedirs(folder, exist_ok=True)
    weights = model.state_dict()
    about = describe_network(cfg, model, categories)
    paths = {}
    for sub_model in SUB_MODELS:
        names = model.sub_model_names(sub_model)
        paths[sub_model] = os.path.join(folder, f"{sub_model}.pth")
        own = {name: weights[name].cpu().clone() for name in weights if _belongs(name, names)}
        write_checkpoint({"model": own, "half": sub_model, **about}, paths[sub_model])
    return paths


def _belongs(name, names):
    return name in names and not name.startswith(_LOSS_WEIGHTS)


def read_config(path="", config_file="", overrides=()):
    """Finds the configuration of an exported file, or of a checkpoint.

    Args:
        path (str): from :func:`export_sub_models`, or a whole checkpoint; "" is MODEL.WEIGHTS.
        config_file (str): in place of the configuration in the file; "" takes that one.
        overrides (sequence[str]): KEY VALUE pairs.

    Returns:
        CfgNode: frozen; MODEL.WEIGHTS is the file's path.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`load_sub_model`. ValueError: see
        :func:`setup_config`; or there are no weights, or no configuration.
    """
    overrides = list(overrides)
    if config_file:
        cfg = setup_config(config_file, overrides)
        path = path or cfg.MODEL.WEIGHTS
    else:
        given = dict(zip(overrides[::2], overrides[1::2], strict=False))
        path = path or given.get("MODEL.WEIGHTS", "")
    if not path:
        raise ValueError("no weights: add --weights and a file of featcomp export")
    if path.endswith(".onnx"):
        raise ValueError(f"{path!r} is for featcomp edge alone: give what featcomp export wrote as .pth")
    if not config_file:
        cfg = _own_config(_read(path), path, overrides)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = path
    cfg.freeze()
    return cfg


def _own_config(data, path, overrides=()):
    if data is None or "config" not in data:
        raise ValueError(_MISSING_CONFIG.format(path))
    return read_dumped_config(data["config"], overrides, path)


def read_description(path):
    """Reads what a file tells beside its weights.

    Args:
        path (str): from :func:`export_sub_models`, or a whole checkpoint.

    Returns:
        dict: as :func:`describe_network`; {} of a file without it.

    Raises:
        FileNotFoundError, CheckpointError: see :func:`load_sub_model`.
    """
    data = _read(path) or {}
    return {key: value for key, value in data.items() if key != "model"} if "config" in data else {}


def find_categories(cfg, path, network, class_names=None):
    """Names the classes of a network from :func:`load_sub_model`.

    Args:
        cfg, path: as :func:`load_sub_model` takes them.
        network (nn.Module): that it returned.
        class_names (sequence[str] or None): that a user gave; preferred to those in the file, and these
            to those of the data sets in `cfg`.

    Returns:
        list[dict]: "id" and "name" of each class, the data set's where it is known.

    Raises:
        ValueError: another number of names than of classes.
    """
    known = read_description(path).get("categories", ())
    return choose_categories(cfg, count_classes(network), class_names, known)


def load_sub_model(cfg, path, sub_model):
    """Builds a network of which one sub-model works.

    Args:
        cfg (CfgNode or None): of the network that is split; MODEL.WEIGHTS is not read. None is the
            configuration in the file.
        path (str): from :func:`export_sub_models`, or a whole checkpoint, as MODEL.WEIGHTS names it.
        sub_model (str): "edge" (then `edge_inference` works) or "cloud" (`cloud_inference`).

    Returns:
        nn.Module: in evaluation mode, on MODEL.DEVICE, without the weights of the other sub-model.

    Raises:
        FileNotFoundError: no such file. CheckpointError: it is no checkpoint of this network's
        sub-model, or `cfg` asks for something else than what was exported. ValueError: no configuration.
    """
    data = _read(path)
    cfg = _own_config(data, path) if cfg is None else cfg
    model = build_model(cfg).eval()
    require_split(model, True)
    if data is None:
        load_weights(model, path)
        fingerprints = model.fingerprint(), model.fingerprint_v1()
    else:
        _require_intact(path)
        _require_sub_model(data, sub_model, model, path)
        if "config" in data:
            require_same_config(cfg, data, path)
        fingerprints = _load_exported(model, data, sub_model, path)
    model.keep_sub_model(sub_model, *fingerprints)
    prepare_for_inference(model, cfg)
    return model


def _require_intact(path):
    """Compares the file with its own checksums, as PyTorch does not; the fingerprint knows nothing of
    the weights behind the split."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        damaged = error
    if damaged:
        raise CheckpointError(f"{path!r} is damaged ({damaged}): copy it again, or export it again")


def _require_sub_model(data, sub_model, model, path):
    if data["half"] != sub_model:
        raise CheckpointError(
            f"{path!r} holds the {data['half']} sub-model of a network, not the {sub_model} sub-model"
        )
    if data.get("split") != model.stored_split_name:
        split = find_split_name(str(data.get("split")))
        raise CheckpointError(
            f"{path!r} is of feature split {split!r}, but the configuration asks for "
            f"{model.split_name!r} (MODEL.FEATCOMP.SPLIT)"
        )


def _load_exported(model, data, sub_model, path):
    """Loads the weights of a sub-model; returns its fingerprints, see
    :meth:`SplitNetwork.keep_sub_model`."""
    # Files without a configuration are of releases whose fingerprint was that of the weights alone, in
    # bitstreams of format 1; their edge and cloud sub-models keep understanding each other by it.
    earlier = "config" not in data
    fingerprint = _fingerprint_in(data, path)
    fingerprint_v1 = fingerprint if earlier else _fingerprint_in(data, path, "fingerprint_v1")
    weights, own = data["model"], model.state_dict()
    fit = {name for name in weights.keys() & own.keys() if weights[name].shape == own[name].shape}
    # Before the names are asked for: which weights are read may depend on their values.
    model.load_state_dict({name: weights[name] for name in fit}, strict=False)
    names = {name for name in model.sub_model_names(sub_model) if not name.startswith(_LOSS_WEIGHTS)}
    unfit = sorted(names - fit)
    unfit += sorted(weights.keys() - names)
    if unfit:
        raise CheckpointError(
            f"{path!r} is the {sub_model} sub-model of another network: {len(unfit)} weights do not "
            f"fit, {', '.join(unfit[:3])} among them; use the configuration that it was exported with"
        )
    found = model.fingerprint_v1() if earlier else model.fingerprint()
    if sub_model == "edge" and found != fingerprint:
        raise CheckpointError(f"{path!r} is damaged: its weights do not have its fingerprint")
    return fingerprint, fingerprint_v1


def _read(path):
    """Reads a file of :func:`export_sub_models`; None if it is something else, perhaps a whole
    checkpoint."""
    if "://" in path or path.endswith((".pkl", ".pyth")):  # as in Detectron2's model zoo
        return None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint {path!r}")
    try:
        # Mapped: whoever reads only what comes with the weights does not wait for these.
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # the unpickler of damaged files raises anything
        return None
    if not isinstance(data, dict) or "half" not in data:
        return None
    if not isinstance(data.get("model"), dict) or not isinstance(data.get("config", ""), str):
        raise CheckpointError(f"{path!r} is no checkpoint of a network")
    return data


def _fingerprint_in(data, path, key="fingerprint"):
    try:
        fingerprint = bytes.fromhex(data.get(key, ""))
    except (TypeError, ValueError):
        fingerprint = b""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise CheckpointError(f"{path!r} has no fingerprint: export it again with featcomp export")
    return fingerprint
