"""The last training stage: the entropy model of a trained network is fitted to its symbols."""

import logging
import math
import os
import time

import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from tqdm import tqdm

from ..codecs.entropy import ContextModel
from ..codecs.entropy.frequencies import SOFTMAX_BITS
from ..codecs.entropy.integer_weights import count_inputs
from ..codecs.images.raw import count_fixed_length_bytes
from ..data.mappers import build_test_mapper
from ..data.requirements import load_records
from .checkpoint import FeatCompCheckpointer, save_weights, write_checkpoint
from .muon import Muon
from .weight_files import read_weight_file

__all__ = ["fit_entropy_model"]

# A share of the images is not fitted to, but measured.
_HELD_OUT = 10
_LOG_PERIOD = 50  # iterations
_MANY_INPUTS = 500  # of a convolution, from which on Adam's learning rate is lowered in proportion
# Learning rates over `BASE_LR`: Muon's, and Adam's of biases, which have to go far, logits farthest.
_MUON_FACTOR = 3.0
_BIAS_FACTOR = 4.0
_LOGIT_FACTOR = 16.0
# All of a model without context: its layers are wide, and larger steps drive their activations to the
# ends, where nothing of the hyper-latent passes any more.
_HYPER_ALONE_FACTOR = 0.1
# Larger maps are fitted by pieces of this side, in positions.
_PIECE = 64
_SAVE_PERIOD = 120  # seconds at most between states from which it can go on


def fit_entropy_model(cfg, output, weights, resume=False):
    """Fits the codec of a network to the symbols that the network sends; all else stays as it is.

    The images are `TRAIN.STEP4.IMAGES` of DATASETS.TRAIN, chosen at random, as in evaluation: at test
    size, not augmented. Their symbols are computed once. One tenth of them is held out; the bytes that
    these take are logged.

    Args:
        cfg (CfgNode): of a network whose codec has weights.
        output (str): folder; gets `model_final.pth`, and `fit.pth` from which `resume` goes on.
        weights (str): of the network; the codec's may be missing in it.
        resume (bool): go on at the iteration where an earlier call stopped.

    Returns:
        dict: {"entropy": {"kB/image": of held-out images, payload alone; at the largest rate where the
        codec has several}} on the main process.

    Raises:
        FileNotFoundError, CheckpointError: the weights cannot be read, or lack more than the codec's.
        FloatingPointError: it diverged. OSError: the disk is full.
    """
    found = {}
    if comm.is_main_process():
        os.makedirs(output, exist_ok=True)
        found = _fit(cfg, output, weights, resume)
    comm.synchronize()
    return found


def _fit(cfg, output, weights, resume):
    logger, settings = logging.getLogger("d2_featcomp"), cfg.MODEL.FEATCOMP.TRAIN.STEP4
    final, state = os.path.join(output, "model_final.pth"), os.path.join(output, "fit.pth")
    if resume and os.path.exists(final) and not os.path.exists(state):
        logger.info("Stage 4 is complete")
        return {}
    model = build_model(cfg)
    checkpointer = FeatCompCheckpointer(model)
    checkpointer.load(weights)
    checkpointer.require_complete(weights or "(none)", codec=False)
    kept = _collect(model.eval(), cfg, settings.IMAGES)
    held_out = kept[::_HELD_OUT] if len(kept) >= _HELD_OUT else kept
    fitted = [maps for index, maps in enumerate(kept) if index % _HELD_OUT] or kept
    codec = model.feature_codec
    fitting = _Fitting(codec, fitted, settings, cfg.SEED)
    if resume and os.path.exists(state):
        found = read_weight_file(state)
        if "optimizers" in found:
            fitting.load(found)
            logger.info("Stage 4 goes on at iteration %d", fitting.iteration)
        else:
            logger.warning("%s is of an earlier version: stage 4 begins anew", state)
    codec.train()
    began = saved = time.monotonic()
    with tqdm(
        total=fitting.iterations, initial=fitting.iteration, desc="entropy model", mininterval=1
    ) as progress:
        while fitting.iteration < fitting.iterations:
            bits = fitting.step()
            progress.update()
            progress.set_postfix_str(f"{bits / 8:.0f} bytes/image", refresh=False)
            if fitting.iteration % _LOG_PERIOD == 0:
                logger.info(
                    "Stage 4: iteration %d of %d, about %.0f bytes an image",
                    fitting.iteration,
                    fitting.iterations,
                    bits / 8,
                )
            due = time.monotonic() - saved > _SAVE_PERIOD
            if due or fitting.iteration % cfg.SOLVER.CHECKPOINT_PERIOD == 0:
                write_checkpoint(fitting.state(), state)
                saved = time.monotonic()
    codec.eval()
    payloads = [_mean_payload(codec, held_out, rate) for rate in codec.fitting_rates]
    elements = sum(maps.numel() for image in held_out for maps in image) // len(held_out)
    logger.info(
        "The entropy model needs %s bytes an image%s, fixed-length symbols %d (%d images that it was "
        "not fitted to; fitted in %.0f s)",
        ", ".join(f"{payload:.0f}" for payload in payloads),
        "" if len(payloads) == 1 else " at rates " + ", ".join(map(str, codec.fitting_rates)),
        count_fixed_length_bytes(elements, codec.bits),
        len(held_out),
        time.monotonic() - began,
    )
    save_weights(model.state_dict(), final)
    if os.path.exists(state):
        os.remove(state)
    return {"entropy": {"kB/image": payloads[-1] / 1000}}


@torch.no_grad()
def _collect(model, cfg, count):
    """list of images, each a list of (C, H, W) Tensors on the CPU: what the codec is fitted to."""
    records = load_records(cfg.DATASETS.TRAIN, filter_empty=False)
    order = torch.randperm(len(records), generator=_generator(cfg.SEED))[:count].tolist()
    mapper, codec = build_test_mapper(cfg), model.feature_codec
    model.accelerate()
    kept = []
    for index in tqdm(order, desc="symbols of images", mininterval=1):
        (features,) = model.edge_features([mapper(records[index])])
        kept.append([codec.keep_for_fitting(y).cpu() for y in features.tensors])
    return kept


def _mean_payload(codec, images, rate):
    """Bytes of an image."""
    total = 0
    for maps in images:
        for index, kept in enumerate(maps):
            symbols = codec.find_symbols_at(kept, index, rate)
            total += len(codec.encode_symbols(symbols, index, rate))
    return total / len(images)


def _generator(seed):
    return torch.Generator().manual_seed(max(seed, 0))


def _group_weights(models):
    """The weights of entropy models as Muon and Adam take them: two lists of dicts, with "params" and
    "factor", the learning rate over `BASE_LR`."""
    hidden, others = [], []
    for whole in models:
        of_all = 1.0 if whole.context else _HYPER_ALONE_FACTOR
        for model in whole.modules():
            matrices = dict(model.hidden_matrices()) if isinstance(model, ContextModel) else {}
            for weight, shape in matrices.items():
                hidden.append({"params": [weight], "factor": _MUON_FACTOR * of_all, "matrix": shape})
            for name, weight in model.named_parameters(recurse=False):
                if weight in matrices:
                    continue
                if name == "head_bias" and model.bits <= SOFTMAX_BITS:
                    factor = _LOGIT_FACTOR
                elif name.endswith("bias"):
                    factor = _BIAS_FACTOR
                else:
                    # What sums many inputs moves too far otherwise.
                    factor = min(1.0, _MANY_INPUTS / count_inputs(weight))
                others.append({"params": [weight], "factor": factor * of_all})
    return hidden, others


class _Fitting:
    """Muon for the hidden layers, Adam for all else, with learning rates that fall as a cosine.

    Args:
        codec (LearnedFeatureCodec): changed in place.
        images (list[list[Tensor]]): what the codec keeps of each.
        settings (CfgNode): `TRAIN.STEP4`.
        seed (int): of the order of the images.
    """

    def __init__(self, codec, images, settings, seed):
        self.codec, self.images, self.settings = codec, images, settings
        self.iteration, self.iterations = 0, settings.MAX_ITER
        hidden, others = _group_weights(codec.context_models)
        self.optimizers = [Muon(hidden, settings.BASE_LR), torch.optim.Adam(others, settings.BASE_LR)]
        self.generator = _generator(seed)

    def step(self):
        """One iteration; returns the bits of an image."""
        warm = min(1.0, (self.iteration + 1) / max(1, self.settings.WARMUP_ITERS))
        cosine = 0.5 * (1 + math.cos(math.pi * self.iteration / self.iterations))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.settings.BASE_LR * warm * cosine * group["factor"]
        chosen = torch.randint(
            len(self.images), (self.settings.IMS_PER_BATCH,), generator=self.generator
        ).tolist()
        device = next(self.codec.parameters()).device
        rates = None
        if self.codec.rate is not None:
            rates = torch.rand(len(chosen), generator=self.generator)
        bits, loss = 0.0, 0.0
        for index, model in enumerate(self.codec.context_models):
            maps = [self.images[image][index] for image in chosen]
            if rates is not None:
                pairs = zip(maps, rates.tolist(), strict=True)
                maps = [self.codec.find_symbols_at(kept, index, rate) for kept, rate in pairs]
            maps, mask, share = self._batch(maps)
            found = model(maps.to(device), mask.to(device), None if rates is None else rates.to(device))
            loss = loss + found / (mask.sum() * maps.shape[1])
            bits += float(found.detach()) / share / len(chosen)
        if not math.isfinite(bits):
            raise FloatingPointError("stage 4 diverged: lower MODEL.FEATCOMP.TRAIN.STEP4.BASE_LR")
        self.codec.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.iteration += 1
        return bits

    def _batch(self, maps):
        """Maps of any sizes -> ((N, C, H, W), (N, 1, H, W) bool, share of all positions)."""
        pieces, share = [], 0.0
        for symbols in maps:
            cuts = [self._cut(size) for size in symbols.shape[1:]]
            pieces.append(symbols[:, cuts[0], cuts[1]])
            share += pieces[-1].numel() / symbols.numel() / len(maps)
        height, width = (max(piece.shape[side] for piece in pieces) for side in (1, 2))
        batch = torch.zeros(len(pieces), len(pieces[0]), height, width)
        mask = torch.zeros(len(pieces), 1, height, width, dtype=torch.bool)
        for index, piece in enumerate(pieces):
            batch[index, :, : piece.shape[1], : piece.shape[2]] = piece
            mask[index, :, : piece.shape[1], : piece.shape[2]] = True
        return batch, mask, share

    def _cut(self, size):
        start = int(torch.randint(max(1, size - _PIECE + 1), (), generator=self.generator))
        return slice(start, start + _PIECE)

    def state(self):
        """dict: from which :meth:`load` goes on."""
        return {
            "codec": self.codec.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "iteration": self.iteration,
            "generator": self.generator.get_state(),
        }

    def load(self, state):
        self.codec.load_state_dict(state["codec"])
        for optimizer, found in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(found)
        self.iteration = state["iteration"]
        self.generator.set_state(state["generator"])
