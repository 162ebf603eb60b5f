"""First weights of a split that has none yet, from features of the network that it is put into."""

import logging
import os

import torch
from detectron2.utils import comm

from ..files import write_text
from ..modeling import (
    MSFC,
    BaF,
    PyramidTransform,
    find_feature_split,
    format_channel_order,
    read_channel_order,
)
from ..modeling.splits.base import compute_distillation_loss
from ..modeling.splits.msfc_start import require_fit, start_from_components
from ..ops import ConvolutionFit
from .channel_selection import layer_inputs, select_channels, training_images
from .checkpoint import CheckpointError
from .importance import measure_channel_weights

__all__ = ["check_start", "prepare_split", "weights_components"]

# Splits that may start from images -> their settings, among them FIT_IMAGES, in MODEL.FEATCOMP.
_SETTINGS = {MSFC: "MSFC", PyramidTransform: "PYRAMID_TRANSFORM", BaF: "BAF"}


def weights_components(cfg):
    """Tells whether the split that `cfg` names starts from components that are chosen by labels."""
    kind = find_feature_split(cfg.MODEL.FEATCOMP.SPLIT)
    key = _find_key(kind) if isinstance(kind, type) else None
    return bool(key) and cfg.MODEL.FEATCOMP[key].get("FIT_IMPORTANCE", False)


def check_start(cfg, split, steps):
    """Checks the settings of :func:`prepare_split`, before anything is read.

    Args:
        cfg (CfgNode): of the training.
        split (FeatureSplit): built of it.
        steps (tuple[int]): the stages that run.

    Raises:
        ValueError: FIT_IMAGES is below 0, or parts of MSFC cannot be fitted; or a split that starts from
        random weights would keep them.
    """
    featcomp, key = cfg.MODEL.FEATCOMP, _find_key(type(split))
    images = featcomp[key].FIT_IMAGES if key else 0
    if images < 0:
        raise ValueError(
            f"MODEL.FEATCOMP.{key}.FIT_IMAGES is {images}: give a number of images, or 0 to start from "
            "random weights"
        )
    if isinstance(split, MSFC) and images:
        require_fit(split)
    elif key and not images and featcomp[key].get("FIT_IMPORTANCE", False):
        raise ValueError(
            f"MODEL.FEATCOMP.{key}.FIT_IMPORTANCE is True, and FIT_IMAGES 0, so that no components are "
            "chosen: set FIT_IMAGES to e.g. 100, or FIT_IMPORTANCE to False"
        )
    if 2 in steps and 3 not in steps and featcomp.TRAIN.STEP2.MAX_ITER == 0 and not images:
        wanted = f"MODEL.FEATCOMP.{key}.FIT_IMAGES, or " if key else ""
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN.STEP2.MAX_ITER is 0, and {featcomp.SPLIT} would keep random weights: "
            f"set {wanted}a number of iterations, or leave 2 out of MODEL.FEATCOMP.TRAIN.STEPS"
        )


def _find_key(kind):
    """Key of `_SETTINGS` for a class of splits, or None."""
    return next((key for known, key in _SETTINGS.items() if issubclass(kind, known)), None)


def prepare_split(cfg, network, missing):
    """Makes a split whose weights were not loaded ready to be trained: BaF, and MSFC and
    PyramidTransform with FIT_IMAGES; others start from random weights.

    For BaF it selects the channels to code, unless a file gave them, writes `channel_order.json` to
    OUTPUT_DIR, and gives the predictor its first weights, by least squares. For MSFC see
    :func:`start_from_components`, for PyramidTransform its method of that name. The main process does so
    for all.

    Args:
        cfg (CfgNode): of the training.
        network (nn.Module): a split network with the task network's weights; changed in place.
        missing (sequence[str]): keys of `network` that its checkpoint did not hold.

    Raises:
        CheckpointError: the checkpoint holds BaF with other settings.
        ValueError: too few hidden channels, or parts of MSFC that cannot be fitted: see
        :func:`check_start`.
    """
    split = network.feature_split
    # PyTorch itself fills in counters of batches that a file does not hold.
    stored = [name for name in split.state_dict() if not name.endswith("num_batches_tracked")]
    keys = {f"feature_split.{name}" for name in stored}
    absent = keys & set(missing)
    if isinstance(split, BaF):
        if not absent:
            _require_same_order(cfg, split)
            return
        if absent != keys:
            raise CheckpointError(
                f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds a BaF predictor with other settings "
                f"({', '.join(sorted(absent)[:2])}, ... have another shape): use those it was trained "
                "with, or start from the detector alone"
            )
        start = _start_baf
    elif (key := _find_key(type(split))) and cfg.MODEL.FEATCOMP[key].FIT_IMAGES and absent == keys:
        start = _start_from_components
    else:
        return
    if comm.is_main_process():
        start(cfg, network)
    comm.synchronize()
    if comm.get_world_size() > 1:  # the codec, too, may start from what was seen
        for part in (split, network.feature_codec):
            for tensor in part.state_dict().values() if isinstance(part, torch.nn.Module) else ():
                torch.distributed.broadcast(tensor, 0)


def _start_baf(cfg, network):
    split, settings = network.feature_split, cfg.MODEL.FEATCOMP.BAF
    if settings.FIT_IMAGES:
        split.predictor.require_linear_start()
    if not split.has_channel_order:
        order, scores, count = select_channels(cfg, network, settings.SELECTION_IMAGES)
        split.set_channel_order(order)
        path = os.path.join(cfg.OUTPUT_DIR, "channel_order.json")
        write_text(format_channel_order(split.layer.number, order, scores, count), path)
        logging.getLogger("d2_featcomp").info(
            "Channels selected on %d images: %s ... (%s)", count, order[:8].tolist(), path
        )
    if not settings.FIT_IMAGES:
        split.standardize()
        return
    fit = ConvolutionFit()
    for x in layer_inputs(cfg, network, settings.FIT_IMAGES, "fitting the predictor"):
        latent = split.reduce({"z": split.layer(x)})
        (y_hat,), _, _ = network.feature_codec.train().quantize(latent)  # at the bit depths of training
        fit.update(split.predictor_input(y_hat), x)
    split.predictor.start_linear(*fit.solve())


@torch.no_grad()
def _start_from_components(cfg, network):
    split, point = network.feature_split, network.split_point
    settings = cfg.MODEL.FEATCOMP[_find_key(type(split))]
    images = settings.FIT_IMAGES
    codec = network.feature_codec.train()  # at the bit depths of training
    weights = None
    if settings.FIT_IMPORTANCE:
        with torch.enable_grad():
            weights = measure_channel_weights(cfg, network.train(), images)
    read = training_images(cfg, network, images, "computing features")
    pyramids = _Pyramids((point.head(image) for image in read), network.device)
    if isinstance(split, MSFC):
        start_from_components(split, pyramids, lambda y: codec.quantize([y])[0][0], weights)
    else:
        moments = split.start_from_components(pyramids, weights)
        if hasattr(codec, "start_from_moments"):
            codec.start_from_moments(moments)
    errors = _measure_errors(network, pyramids)
    logging.getLogger("d2_featcomp").info(
        "%s starts from principal components of %d images: of the features' variance it restores %s",
        type(split).__name__,
        len(pyramids),
        ", ".join(f"{1 - error:.0%} ({name})" for name, error in errors.items()),
    )


def _shrink(x):
    return x.half() if x.abs().max() < torch.finfo(torch.half).max else x


def _measure_errors(network, pyramids):
    """Returns dict[str, float]: squared error of each level over its variance, mean of the images."""
    errors = {}
    for pyramid in pyramids:
        split = network.feature_split
        y_hats, _, _ = network.feature_codec.quantize(split.reduce(pyramid))
        restored = split.restore(y_hats, split.find_image_size(pyramid))
        for name, x in pyramid.items():
            error = compute_distillation_loss({name: restored[name]}, {name: x})
            errors[name] = errors.get(name, 0.0) + error.item() / len(pyramids)
    return errors


class _Pyramids:
    """Features of images, kept in memory, in half precision where their range allows it.

    Args:
        pyramids (iterable[dict[str, Tensor]]): of an image each, (1, C, H, W) float.
        device (torch.device): where they are wanted.
    """

    def __init__(self, pyramids, device):
        self._kept = [{name: _shrink(x).cpu() for name, x in pyramid.items()} for pyramid in pyramids]
        self._device = device

    def __len__(self):
        return len(self._kept)

    def __iter__(self):
        for pyramid in self._kept:
            yield {name: x.to(self._device).float() for name, x in pyramid.items()}


def _require_same_order(cfg, split):
    """Requires one order in the file that the config names and in the checkpoint that was loaded."""
    path = cfg.MODEL.FEATCOMP.BAF.CHANNEL_ORDER
    if not path:
        return
    named = read_channel_order(path, layer=split.layer.number, channels=split.layer.out_channels)
    if not torch.equal(named, split.order.cpu()):
        raise CheckpointError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds a predictor for another order of channels than "
            f"{path!r}: leave MODEL.FEATCOMP.BAF.CHANNEL_ORDER out, or start from the detector alone"
        )
