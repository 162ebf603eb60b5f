"""The two halves of a network as files: each holds only what its own programs need."""

import os

import torch
from detectron2.modeling import build_model

from ..codecs.bitstream import FINGERPRINT_BYTES
from ..engine.checkpoint import CheckpointError, load_weights, write_checkpoint
from ..engine.command_line import require_weights
from ..engine.inference import prepare_for_inference, require_split

__all__ = ["HALVES", "export_halves", "load_half"]

HALVES = ("edge", "cloud")
_LOSS_WEIGHTS = "loss_weights."  # that no output depends on


def export_halves(cfg, folder):
    """Splits a checkpoint, MODEL.WEIGHTS, into `edge.pth` and `cloud.pth`.

    Args:
        cfg (CfgNode): of a network that is cut.
        folder (str): made if it does not exist.

    Returns:
        dict: "edge" and "cloud" -> path of the file.

    Raises:
        ValueError: the network is not cut, or there are no weights. FileNotFoundError, CheckpointError:
        see :func:`load_weights`. OSError: the disk is full.
    """
    require_weights(cfg)
    model = build_model(cfg).eval()
    require_split(model, True)
    load_weights(model, cfg.MODEL.WEIGHTS)
    os.makedirs(folder, exist_ok=True)
    weights = model.state_dict()
    paths = {}
    for half in HALVES:
        names = model.half_state(half)
        paths[half] = os.path.join(folder, f"{half}.pth")
        write_checkpoint(
            {
                "model": {
                    name: weights[name].cpu().clone() for name in weights if _belongs(name, names)
                },
                "half": half,
                "split": model.split_name,
                "fingerprint": model.fingerprint().hex(),
            },
            paths[half],
        )
    return paths


def _belongs(name, names):
    return name in names and not name.startswith(_LOSS_WEIGHTS)


def load_half(cfg, path, half):
    """Builds a network of which one half works.

    Args:
        cfg (CfgNode): of the network that is cut; MODEL.WEIGHTS is not read.
        path (str): from :func:`export_halves`, or a whole checkpoint.
        half (str): "edge" (then `edge_inference` works) or "cloud" (`cloud_inference`).

    Returns:
        nn.Module: in evaluation mode, on MODEL.DEVICE, without the weights of the other half.

    Raises:
        FileNotFoundError: no such file. CheckpointError: it is no checkpoint of this network's half.
    """
    model = build_model(cfg).eval()
    require_split(model, True)
    data = _read(path)
    if "half" not in data:
        load_weights(model, path)
        fingerprint = model.fingerprint()
        model.keep_half(half, fingerprint)
        prepare_for_inference(model, cfg)
        return model
    if data["half"] != half:
        raise CheckpointError(
            f"{path!r} holds the {data['half']} half of a network, not the {half} half"
        )
    if data.get("split") != model.split_name:
        raise CheckpointError(
            f"{path!r} is of feature split {data.get('split')!r}, but the configuration asks for "
            f"{model.split_name!r} (MODEL.FEATCOMP.SPLIT)"
        )
    fingerprint = _fingerprint_in(data, path)
    names = {name for name in model.half_state(half) if not name.startswith(_LOSS_WEIGHTS)}
    weights, own = data["model"], model.state_dict()
    unfit = sorted(
        name for name in names if name not in weights or weights[name].shape != own[name].shape
    )
    unfit += sorted(weights.keys() - names)
    if unfit:
        raise CheckpointError(
            f"{path!r} is the {half} half of another network: {len(unfit)} weights do not fit, "
            f"{', '.join(unfit[:3])} among them; use the configuration that it was exported with"
        )
    model.load_state_dict(weights, strict=False)
    if half == "edge" and model.fingerprint() != fingerprint:
        raise CheckpointError(f"{path!r} is damaged: its weights do not have its fingerprint")
    model.keep_half(half, fingerprint)
    prepare_for_inference(model, cfg)
    return model


def _read(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint {path!r}")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of damaged files raises anything
        raise CheckpointError(f"{path!r} is no checkpoint that can be read: {error}") from error
    if not isinstance(data, dict) or ("half" in data and not isinstance(data.get("model"), dict)):
        raise CheckpointError(f"{path!r} is no checkpoint of a network")
    return data


def _fingerprint_in(data, path):
    try:
        fingerprint = bytes.fromhex(data.get("fingerprint", ""))
    except (TypeError, ValueError):
        fingerprint = b""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise CheckpointError(f"{path!r} has no fingerprint: export it again with tools/export.py")
    return fingerprint
