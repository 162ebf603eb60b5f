"""Selects the channels that BaF sends, on images of the training set."""

import logging
import os
import random

import torch
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from tqdm import tqdm

from ..files import write_text
from ..modeling import BaF, Layer, format_channel_order
from ..ops import ChannelCorrelation, ConvolutionFit, rank_channels

__all__ = ["prepare_split", "select_channels"]


def select_channels(cfg, network, images=1000):
    """Orders the channels of the layer at the cut by what they tell of its input (BaF eq. 2 and 3).

    Args:
        cfg (CfgNode): `DATASETS.TRAIN` gives the images, `SEED` which of them, `INPUT.MIN_SIZE_TEST` and
            `MAX_SIZE_TEST` their size.
        network (nn.Module): a split network that is cut inside its backbone, with trained weights.
        images (int): how many to look at, at most; chosen at random.

    Returns:
        (Tensor, Tensor, int): order, (P,) int64, best first; scores, (P,) float64, of channel 0, 1, ...;
        and the number of images.

    Raises:
        ValueError: the network is not cut inside its backbone, or `images` is below 1.
    """
    split = getattr(network, "feature_split", None)
    if not isinstance(split, Layer):
        raise ValueError("channels can be selected where MODEL.FEATCOMP.SPLIT is BaF or Layer")
    if images < 1:
        raise ValueError(f"{images} images: at least one is needed to select channels")
    correlation, count = ChannelCorrelation(split.layer.stride), 0
    for x in _layer_inputs(cfg, network, images, "selecting channels"):
        correlation.update(split.layer(x), x)
        count += 1
    return (*rank_channels(correlation.coefficients()), count)


def prepare_split(cfg, network):
    """Makes a split that was just initialized ready to be trained; only BaF needs it.

    Selects the channels to send, unless a file gave them, writes `channel_order.json` to OUTPUT_DIR, and
    gives the predictor its first weights, by least squares.

    Args:
        cfg (CfgNode): of the training.
        network (nn.Module): a split network with the task network's weights; changed in place.
    """
    split, settings = network.feature_split, cfg.MODEL.FEATCOMP.BAF
    if not isinstance(split, BaF):
        return
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
        fit.update(split.predictor_input(x), x)
    split.predictor.start_linear(*fit.solve())


@torch.no_grad()
def _layer_inputs(cfg, network, images, task):
    """Yields (1, Q, H, W), the input of the layer at the cut, of randomly chosen training images."""
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    chosen = random.Random(max(cfg.SEED, 0)).sample(range(len(records)), min(images, len(records)))
    mapper = DatasetMapper(cfg, is_train=False)
    training = network.training
    network.eval()
    try:
        for index in tqdm(sorted(chosen), desc=task, mininterval=1):
            image = network.normalized_images([mapper(records[index])]).tensor
            yield network.backbone.input_of(network.feature_split.layer.number, image)
    finally:
        network.train(training)
