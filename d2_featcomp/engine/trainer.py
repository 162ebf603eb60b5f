"""Detectron2's trainer, for split networks."""

import logging
import weakref

import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from ..codecs.entropy import ContextModel
from ..codecs.entropy.integer_weights import count_inputs
from ..data.mappers import build_test_mapper, build_train_mapper, train_dicts
from ..evaluation import build_evaluator
from ..evaluation.tradeoff import format_results
from .checkpoint import CheckpointError, FeatCompCheckpointer
from .lazy_config import build_lazy_optimizer, lazy_train_mapper
from .loss_weights import build_loss_weight_hooks
from .mixed_precision import CPUMixedPrecisionTrainer
from .resuming import ResumableLoader, ResumableMapper, ResumptionHook, same_generators_after

__all__ = ["Trainer"]

_CODEC = ".feature_codec."  # in names of its parameters
_STEP_SIZES = ".step_models."  # which move latents, so slowly
# Of an entropy model without context: from so many inputs of a layer on the learning rate is lowered in
# proportion, for its wide layers would move too far, to activations that nothing passes any more.
_MANY_INPUTS = 60
_NAMES = {"initial_lr": "learning rate"}  # of settings of optimizers


class Trainer(DefaultTrainer):
    """A :class:`DefaultTrainer` that also trains on CPUs with several processes, checks checkpoints,
    measures rates, offers Adam, AdamW (`MODEL.FEATCOMP.TRAIN.OPTIMIZER`) and polynomial decay
    (`SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR`), and updates trained loss weights. A training that is
    resumed goes on with the data and the random numbers that it would have had; learning rate, weight
    decay and the like are those of its config.

    With `TEST.EVAL_PERIOD` below 0 it does not evaluate, not even at the end.
    """

    def __init__(self, cfg):
        TrainerBase.__init__(self)  # what follows replaces DefaultTrainer.__init__
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        loss_weight_hooks = build_loss_weight_hooks(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        ddp = {} if on_gpu else {"device_ids": None}  # DDP on CPUs takes no device ids
        # A split may make modules of the backbone useless, e.g. those of levels that it rebuilds.
        ddp["find_unused_parameters"] = cfg.MODEL.FEATCOMP.ENABLED
        model = create_ddp_model(model, broadcast_buffers=False, **ddp)
        mixed_precision = AMPTrainer if on_gpu else CPUMixedPrecisionTrainer
        trainer = mixed_precision if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FeatCompCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks([*loss_weight_hooks, *self.build_hooks()])

    def build_hooks(self):
        built = [hook for hook in super().build_hooks() if hook is not None]
        loader = self._trainer.data_loader
        if isinstance(loader, ResumableLoader):
            # Before checkpoints are written: that is the main process's hook alone.
            writers = (hooks.PeriodicCheckpointer, hooks.EvalHook)
            place = next(place for place, hook in enumerate(built) if isinstance(hook, writers))
            built.insert(place, ResumptionHook(loader, self.model, self.cfg.SOLVER.CHECKPOINT_PERIOD))
        if self.cfg.TEST.EVAL_PERIOD < 0:
            built = [hook for hook in built if not isinstance(hook, hooks.EvalHook)]
        return built

    def build_writers(self):
        self._writers = super().build_writers()
        return self._writers

    def close(self):
        """Closes the files that training writes its numbers to, whether it has begun or not."""
        for writer in getattr(self, "_writers", ()):
            writer.close()

    def load_state_dict(self, state_dict):
        """Restores what a checkpoint holds of a training.

        Args:
            state_dict (dict): of `state_dict()`; changed in place.

        Raises:
            CheckpointError: it is of another optimizer, or of another number of trained parameters.
        """
        state, groups = state_dict["_trainer"], self._trainer.optimizer.param_groups
        saved, rates = state["optimizer"]["param_groups"], [group["initial_lr"] for group in groups]
        _require_same_optimizer(saved, groups)
        changes = _take_settings(saved, groups)
        if isinstance(self._trainer, AMPTrainer):  # it may have begun without mixed precision
            state.setdefault("grad_scaler", self._trainer.grad_scaler.state_dict())
        super().load_state_dict(state_dict)
        if changes:
            self.scheduler.base_lrs = rates
            loaded = self._trainer.optimizer.param_groups  # others than before
            for group, rate in zip(loaded, self.scheduler.get_lr(), strict=True):
                group["lr"] = rate
            logging.getLogger("d2_featcomp").warning(
                "Settings of the optimizer changed since the checkpoint, and hold from here on: %s",
                ", ".join(changes),
            )

    @classmethod
    def build_optimizer(cls, cfg, model):
        optimizer = build_lazy_optimizer(cfg, model)
        if optimizer is not None:
            return optimizer
        kind = cfg.MODEL.FEATCOMP.TRAIN.OPTIMIZER
        trains_codec = any(_CODEC in name for name, _ in model.named_parameters())
        if kind == "SGD" and not trains_codec:
            return super().build_optimizer(cfg, model)
        kinds = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
        if kind not in kinds:
            raise ValueError(f"MODEL.FEATCOMP.TRAIN.OPTIMIZER is {kind!r}: choose SGD, Adam or AdamW")
        groups = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
            lr_factor_func=_codec_factor(cfg, model) if trains_codec else None,
        )
        # With GPU mixed precision the fused kernel would unscale gradients after they were clipped.
        own = {"fused": not (cfg.SOLVER.AMP.ENABLED and torch.device(cfg.MODEL.DEVICE).type == "cuda")}
        if kind == "SGD":
            own |= {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
        return maybe_add_gradient_clipping(cfg, kinds[kind])(
            groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, **own
        )

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupPolyLR":
            return super().build_lr_scheduler(cfg, optimizer)
        decay = PolynomialDecayParamScheduler(base_value=1.0, power=cfg.SOLVER.POLY_LR_POWER)
        warmed = WarmupParamScheduler(
            decay,
            cfg.SOLVER.WARMUP_FACTOR,
            min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
            cfg.SOLVER.WARMUP_METHOD,
        )
        return LRMultiplier(optimizer, multiplier=warmed, max_iter=cfg.SOLVER.MAX_ITER)

    @classmethod
    def build_train_loader(cls, cfg):
        mapper = ResumableMapper(lazy_train_mapper(cfg) or build_train_mapper(cfg))
        loader = build_detection_train_loader(cfg, mapper=mapper, dataset=train_dicts(cfg))
        return ResumableLoader(loader, mapper)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=build_test_mapper(cfg))

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """As in the base class, but all processes measure the same network, that which is saved: batch
        norm statistics are the main one's."""
        if comm.get_world_size() > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        logger = logging.getLogger("d2_featcomp")
        logger.info("Evaluating on %s", ", ".join(cfg.DATASETS.TEST))
        with same_generators_after():  # so that a training that goes on after it need not repeat it
            results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            of_each = {cfg.DATASETS.TEST[0]: results} if len(cfg.DATASETS.TEST) == 1 else results
            logger.info("\n\n%s\n", format_results(of_each))
        return results

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluator(cfg, dataset_name)


def _require_same_optimizer(saved, groups):
    """Raises CheckpointError for groups of parameters that are not those of one optimizer."""
    counts = [[len(group["params"]) for group in some] for some in (saved, groups)]
    before, now = saved[0].keys(), groups[0].keys()
    # Another release of PyTorch has more settings, or fewer; another optimizer has some of its own.
    if counts[0] != counts[1] or (before - now and now - before):
        raise CheckpointError(
            "the last checkpoint in OUTPUT_DIR is of a training by another optimizer, or of another "
            "network: go on with the settings that it had, or without --resume, which starts anew"
        )


def _take_settings(saved, groups):
    """Gives saved groups of parameters the settings of groups, but for the rate of the moment; returns
    list[str], what changed."""
    changes = {}
    for before, now in zip(saved, groups, strict=True):
        for key in now.keys() - {"params", "lr"}:
            if key in before and before[key] != now[key]:
                changes.setdefault(key, f"{_NAMES.get(key, key)} {now[key]} in place of {before[key]}")
            before[key] = now[key]
    return [changes[key] for key in sorted(changes)]


def _codec_factor(cfg, model):
    """Of a parameter's name: its learning rate over SOLVER.BASE_LR."""
    factor = cfg.MODEL.FEATCOMP.TRAIN.ENTROPY_LR / cfg.SOLVER.BASE_LR
    lowered = {}
    for prefix, part in model.named_modules():
        if isinstance(part, ContextModel) and not part.context:
            for name, weight in part.named_parameters(prefix):
                if name.endswith("_weight"):
                    lowered[name] = min(1.0, _MANY_INPUTS / count_inputs(weight))

    def find(name):
        if _CODEC not in f".{name}" or _STEP_SIZES in name:
            return 1.0
        return factor * lowered.get(name, 1.0)

    return find
