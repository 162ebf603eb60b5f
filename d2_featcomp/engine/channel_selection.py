"""Selects the channels that BaF codes, on images of the training set."""

import logging
import os

import torch
from detectron2.utils import comm
from tqdm import tqdm

from ..data.mappers import build_test_mapper
from ..data.requirements import load_records, sample_records
from ..files import write_text
from ..modeling import BaF, InsideLayer, format_channel_order, read_channel_order
from ..ops import ChannelCorrelation, ConvolutionFit, rank_channels
from .checkpoint import CheckpointError

__all__ = ["prepare_split", "select_channels"]


def select_channels(cfg, network, images=1000):
    """Orders the channels of the layer at the split point by what they tell of its input (BaF eq. 2 and
    3).

    Args:
        cfg (CfgNode): `DATASETS.TRAIN` gives the images, `SEED` which of them, `INPUT.MIN_SIZE_TEST` and
            `MAX_SIZE_TEST` their size.
        network (nn.Module): a network that is split inside its backbone, with trained weights.
        images (int): how many to look at, at most; chosen at random.

    Returns:
        (Tensor, Tensor, int): order, (P,) int64, best first; scores, (P,) float64, of channel 0, 1, ...;
        and the number of images.

    Raises:
        ValueError: the network is not split inside its backbone, or `images` is below 1.
    """
    point = getattr(network, "split_point", None)
    if not isinstance(point, InsideLayer):
        raise ValueError(
            "channels can be selected where MODEL.FEATCOMP.SPLIT is BaF or IntermediateLayerSplit"
        )
    if images < 1:
        raise ValueError(f"{images} images: at least one is needed to select channels")
    correlation, count = ChannelCorrelation(point.layer.stride), 0
    for x in _layer_inputs(cfg, network, images, "selecting channels"):
        correlation.update(point.layer(x), x)
        count += 1
    return (*rank_channels(correlation.coefficients()), count)


def prepare_split(cfg, network, missing):
    """Makes a split whose weights were not loaded ready to be trained; only BaF needs it.

    Selects the channels to code, unless a file gave them, writes `channel_order.json` to OUTPUT_DIR, and
    gives the predictor its first weights, by least squares. The main process does so for all.

    Args:
        cfg (CfgNode): of the training.
        network (nn.Module): a split network with the task network's weights; changed in place.
        missing (sequence[str]): keys of `network` that its checkpoint did not hold.

    Raises:
        CheckpointError: the checkpoint holds a split with other settings.
        ValueError: too few hidden channels.
    """
    split = network.feature_split
    if not isinstance(split, BaF):
        return
    keys = {f"feature_split.{name}" for name in split.state_dict()}
    absent = keys & set(missing)
    if not absent:
        _require_same_order(cfg, split)
        return
    if absent != keys:
        raise CheckpointError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds a BaF predictor with other settings "
            f"({', '.join(sorted(absent)[:2])}, ... have another shape): use those it was trained with, "
            "or start from the detector alone"
        )
    if comm.is_main_process():
        _prepare(cfg, network)
    comm.synchronize()
    if comm.get_world_size() > 1:
        for tensor in split.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


def _prepare(cfg, network):
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
    for x in _layer_inputs(cfg, network, settings.FIT_IMAGES, "fitting the predictor"):
        latent = split.reduce({"z": split.layer(x)})
        (y_hat,), _, _ = network.feature_codec.train().quantize(latent)  # at the bit depths of training
        fit.update(split.predictor_input(y_hat), x)
    split.predictor.start_linear(*fit.solve())


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


@torch.no_grad()
def _layer_inputs(cfg, network, images, task):
    """Yields (1, Q, H, W), the input of the layer at the split point, of randomly chosen training
    images."""
    records = load_records(cfg.DATASETS.TRAIN, filter_empty=False)
    mapper = build_test_mapper(cfg)
    point, training = network.split_point, network.training
    network.eval()
    try:
        for record in tqdm(sample_records(records, images, cfg.SEED), desc=task, mininterval=1):
            image = network.normalized_images([mapper(record)]).tensor
            yield point.backbone.compute_input(point.layer.number, image)
    finally:
        network.train(training)
