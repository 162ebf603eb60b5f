"""How much the channels at a split point matter to the task."""

import logging

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from ..data.mappers import build_train_mapper, train_dicts
from ..data.requirements import sample_records
from ..modeling.modes import evaluating
from ..modeling.split_backbone import open_call
from .lazy_config import lazy_train_mapper
from .resuming import same_generators_after

__all__ = ["compute_feature_gradients", "make_label_config", "measure_channel_weights"]


def make_label_config(cfg):
    """Makes the config by which images are read with the labels that the network's own losses need."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FEATCOMP.LOSS = "task"
    cfg.freeze()
    return cfg


def measure_channel_weights(cfg, network, images):
    """Measures how sensitive the network's own losses are to errors in each channel of the features at
    the split point, on training images as they are augmented.

    The mean of the squared gradient stands for the curvature of the loss: the diagonal of the empirical
    Fisher information. So an error that the sum of squares, weighted with it, calls larger is one that
    the task suffers more from.

    Args:
        cfg (CfgNode): of the training stage; `DATASETS.TRAIN` gives the images, `SEED` which of them.
        network (SplitNetwork): with trained weights, in training mode; not changed.
        images (int): how many to look at, at most.

    Returns:
        dict[str, Tensor]: name of the features -> (C,) float32, on the network's device; their mean over
        all channels of all levels is 1. The same in all processes.

    Raises:
        ValueError: see :func:`train_dicts`; or no loss depends on the features.
    """
    cfg = make_label_config(cfg)
    records, sums = sample_records(train_dicts(cfg), images, cfg.SEED), {}
    hidden = not comm.is_main_process()
    # EventStorage: to which networks write while they train.
    with same_generators_after(), _unchanged_statistics(network), EventStorage():
        seed_all_rng(max(cfg.SEED, 0))
        mapper = lazy_train_mapper(cfg) or build_train_mapper(cfg)
        for record in tqdm(records, desc="measuring importance", mininterval=1, disable=hidden):
            for name, gradient in compute_feature_gradients(network, [mapper(record)]).items():
                squares = gradient.double().square().mean(dim=(0, 2, 3))
                sums[name] = sums.get(name, 0.0) + squares
    mean = torch.cat(list(sums.values())).mean()
    if not mean > 0 or not mean.isfinite():
        raise ValueError(
            "the network's losses do not depend on the features at the split point, or are infinite: "
            "set MODEL.FEATCOMP.TRAIN.STEP2.IMPORTANCE_IMAGES to 0 and FIT_IMPORTANCE to False"
        )
    weights = {name: (total / mean).float() for name, total in sums.items()}
    shares = ", ".join(f"{name} {value.mean():.3g}" for name, value in weights.items())
    logging.getLogger("d2_featcomp").info(
        "Importance of channels, measured on %d images; mean of each level: %s", len(records), shares
    )
    return weights


def _unchanged_statistics(network):
    """Batch norms use the statistics that they have, and keep them."""
    return evaluating(module for module in network.modules() if isinstance(module, _BatchNorm))


def compute_feature_gradients(network, batched_inputs):
    """Computes how a network's own losses, by their weights, change with the features at the split
    point, if these are not coded.

    Args:
        network (SplitNetwork): in training mode; its parameters' gradients stay as they are.
        batched_inputs (list[dict]): as the network takes them in training.

    Returns:
        dict[str, Tensor]: name of the features -> gradient of the sum of the losses, (N, C, H, W).

    Raises:
        RuntimeError: the network is in evaluation mode. ValueError: see
            :meth:`SplitNetwork.compute_task_losses`.
    """
    if not network.training:
        raise RuntimeError("gradients need training mode: call model.train() first")
    with open_call(uncoded=True) as call:
        losses = network.compute_task_losses(batched_inputs)
    features = call.features
    gradients = torch.autograd.grad(sum(losses.values()), list(features.values()), allow_unused=True)
    return {
        name: torch.zeros_like(features[name]) if gradient is None else gradient
        for name, gradient in zip(features, gradients, strict=True)
    }
