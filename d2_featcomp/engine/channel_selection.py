"""Selects the channels that BaF codes, on images of the training set."""

import torch
from tqdm import tqdm

from ..data.mappers import build_test_mapper
from ..data.requirements import load_records, sample_records
from ..modeling import InsideLayer
from ..ops import ChannelCorrelation, rank_channels

__all__ = ["layer_inputs", "select_channels", "training_images"]


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
    for x in layer_inputs(cfg, network, images, "selecting channels"):
        correlation.update(point.layer(x), x)
        count += 1
    return (*rank_channels(correlation.coefficients()), count)


@torch.no_grad()
def training_images(cfg, network, images, task):
    """Yields (1, 3, h, w), as the backbone takes them, of randomly chosen training images.

    Args:
        cfg (CfgNode): `DATASETS.TRAIN` gives the images, `SEED` which of them, `INPUT.MIN_SIZE_TEST` and
            `MAX_SIZE_TEST` their size.
        network (nn.Module): in evaluation mode meanwhile.
        images (int): how many, at most.
        task (str): for the progress bar.
    """
    records = load_records(cfg.DATASETS.TRAIN, filter_empty=False)
    mapper = build_test_mapper(cfg)
    training = network.training
    network.eval()
    try:
        for record in tqdm(sample_records(records, images, cfg.SEED), desc=task, mininterval=1):
            yield network.normalized_images([mapper(record)]).tensor
    finally:
        network.train(training)


@torch.no_grad()
def layer_inputs(cfg, network, images, task):
    """Yields (1, Q, H, W), the input of the layer at the split point; see :func:`training_images`."""
    point = network.split_point
    for image in training_images(cfg, network, images, task):
        yield point.backbone.compute_input(point.layer.number, image)
