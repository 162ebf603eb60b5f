"""Training in stages, those of MSFC sec. 4: the task network, the split, both."""

import contextlib
import difflib
import logging
import os
from collections import OrderedDict

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..codecs import FEATURE_CODEC_REGISTRY, LearnedFeatureCodec
from ..files import write_text
from ..modeling import FEATURE_SPLIT_REGISTRY
from ..modeling.split_network import LOSSES
from .checkpoint import (
    CheckpointError,
    FeatCompCheckpointer,
    require_finite_weights,
    save_weights,
)
from .data_checks import check_data
from .entropy_stage import fit_entropy_model
from .importance import measure_channel_weights
from .inference import require_split
from .loss_weights import reset_loss_weights
from .split_start import check_start, prepare_split
from .stage_numbers import require_stage_numbers
from .trainer import Trainer

__all__ = ["choose_stages", "make_stage_config", "require_stage_settings", "train_stages"]

TASK_NETWORK, SPLIT, END_TO_END, ENTROPY = 1, 2, 3, 4
# Of SOLVER: what each stage has its own value of, and that value's name in STEPk.
OF_EACH_STAGE = {"MAX_ITER": "MAX_ITER", "BASE_LR": "BASE_LR", "STEPS": "LR_STEPS"}


def make_stage_config(cfg, stage, weights):
    """Makes the config under which one stage runs as a Detectron2 training of its own.

    Args:
        cfg (CfgNode): of the whole training; not changed.
        stage (int): 1 trains the task network, 2 the split, 3 both; 4 fits the entropy model.
        weights (str): what the stage starts from.

    Returns:
        CfgNode: frozen; its OUTPUT_DIR is `<OUTPUT_DIR>/step<stage>`.
    """
    settings = cfg.MODEL.FEATCOMP.TRAIN[f"STEP{stage}"]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, f"step{stage}")
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.FEATCOMP.ENABLED = stage != TASK_NETWORK
    cfg.MODEL.FEATCOMP.FREEZE_TASK_NETWORK = stage == SPLIT
    # The entropy model needs no labels.
    cfg.MODEL.FEATCOMP.LOSS = "distill" if stage == ENTROPY else settings.get("LOSS", "task")
    if stage != ENTROPY:
        for key, own in OF_EACH_STAGE.items():
            cfg.SOLVER[key] = settings[own]
    cfg.freeze()
    return cfg


def require_stage_settings(cfg, overrides=()):
    """Refuses settings that training would not heed: MAX_ITER, BASE_LR and STEPS of SOLVER, in whose
    place each training stage has its own; and unknown losses of stages.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        overrides (sequence[str]): KEY VALUE pairs of a command line, which count even where they repeat
            Detectron2's default.

    Raises:
        ValueError: one of them is among `overrides`, or is not Detectron2's default; or there is no such
            loss.
    """
    for override in cfg.MODEL.LAZY.OVERRIDES:
        if override.startswith(("train.max_iter", "lr_multiplier", "optimizer.lr")):
            raise ValueError(
                f"{override!r} is not used by training in stages: set "
                "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER, BASE_LR and LR_STEPS, and those of STEP2 and STEP3"
            )
    defaults, named = get_cfg().SOLVER, set(overrides[::2])
    for key, own in OF_EACH_STAGE.items():
        default = defaults[key]
        if f"SOLVER.{key}" not in named and cfg.SOLVER[key] == default:
            continue
        raise ValueError(
            f"training in stages does not use SOLVER.{key}: set MODEL.FEATCOMP.TRAIN.STEP1.{own}, "
            f"STEP2.{own} and STEP3.{own}, each stage's own (MODEL.FEATCOMP.TRAIN.STEPS tells which "
            f"run), and leave SOLVER.{key} out; where a base file sets it, set it back to {default}"
        )
    for step in (SPLIT, END_TO_END):
        loss = cfg.MODEL.FEATCOMP.TRAIN[f"STEP{step}"].LOSS
        if loss not in LOSSES:
            raise ValueError(
                f"unknown training loss {loss!r} (MODEL.FEATCOMP.TRAIN.STEP{step}.LOSS): choose one of "
                f"{', '.join(LOSSES)}"
            )


def choose_stages(cfg):
    """Chooses the stages to run: those that `MODEL.FEATCOMP.TRAIN.STEPS` asks for, in order.

    Raises:
        ValueError: anything but distinct, rising numbers from 1 to 4.
        FileNotFoundError, CheckpointError: MODEL.WEIGHTS cannot be read.
    """
    steps = tuple(ENTROPY if step == "entropy" else step for step in cfg.MODEL.FEATCOMP.TRAIN.STEPS)
    if not steps:
        last = (ENTROPY,) if _is_learned(cfg) else ()
        if _trains_from_scratch(cfg):
            return (END_TO_END, *last)
        first = () if _holds_task_network(cfg) else (TASK_NETWORK,)
        return (*first, SPLIT, END_TO_END, *last)
    if list(steps) != sorted(set(steps)) or not set(steps) <= {TASK_NETWORK, SPLIT, END_TO_END, ENTROPY}:
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN.STEPS is {steps}: give rising stage numbers, e.g. (1, 2, 3) or (3,); "
            "4, or 'entropy', fits the entropy model of codec 'learned'"
        )
    return tuple(map(int, steps))


def _is_learned(cfg):
    name = cfg.MODEL.FEATCOMP.CODEC.NAME
    known = name in FEATURE_CODEC_REGISTRY
    return known and issubclass(FEATURE_CODEC_REGISTRY.get(name), LearnedFeatureCodec)


def _trains_from_scratch(cfg):
    split = cfg.MODEL.FEATCOMP.SPLIT
    known = split in FEATURE_SPLIT_REGISTRY
    return known and FEATURE_SPLIT_REGISTRY.get(split).defaults.get("from_scratch", False)


def _holds_task_network(cfg):
    """Whether MODEL.WEIGHTS is a finished task network, not an ImageNet backbone or nothing."""
    if not cfg.MODEL.WEIGHTS:
        return False

    def look():
        checkpointer = FeatCompCheckpointer(_build_on_cpu(make_stage_config(cfg, TASK_NETWORK, "")))
        checkpointer.load(cfg.MODEL.WEIGHTS)
        return not checkpointer.missing_task_network

    return _by_main_process(look)


def _build_on_cpu(cfg):
    """Builds the network of a config, to look at it."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def _by_main_process(look):
    """Calls a function in the main process; returns, or raises, in all processes what it did there."""
    found = error = None
    if comm.is_main_process():
        try:
            found = look()
        except Exception as caught:
            error = caught
    found, error = comm.all_gather((found, error))[0]
    if error is not None:
        raise error
    return found


def train_stages(cfg, resume=False):
    """Trains stage by stage; every stage starts from the one before it, the first from MODEL.WEIGHTS.

    Stage k writes to `<OUTPUT_DIR>/step<k>`, the weights of the last one go to
    `<OUTPUT_DIR>/model_final.pth` too, the configuration to `<OUTPUT_DIR>/config.yaml`.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.
        resume (bool): go on in the stage, and at the iteration, where an earlier call stopped, with the
            data and the random numbers that would have followed. On CPUs, with the same data set,
            SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS and number of processes and threads, the weights
            are then bit for bit those of a training that was not interrupted; on GPUs, whose sums may
            come in any order, with TEST.PRECISE_BN, and with MODEL.MULTI_TASK.LOSS_WEIGHTS.UPDATE
            "epoch" in several processes, they are not.

    Returns:
        dict: results of the last stage's evaluation; empty if `TEST.EVAL_PERIOD` is below 0.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: see :func:`choose_stages`; or the weights to
        start from lack the task network that stages 2 and 3 need. FloatingPointError: it diverged.
    """
    logger = logging.getLogger("d2_featcomp")
    require_stage_settings(cfg)
    require_data(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    steps, weights = choose_stages(cfg), cfg.MODEL.WEIGHTS
    _by_main_process(lambda: _check_steps(cfg, steps))  # before data sets are drawn
    check_data([make_stage_config(cfg, step, "") for step in steps])
    if not resume:  # after all checks: a mistake must not cost what was trained
        _forget(cfg, steps, "this one starts anew and writes over its checkpoints (--resume does not)")
    if comm.is_main_process():
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        write_text(cfg.dump(), os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
    comm.synchronize()
    results = OrderedDict()
    for step in steps:
        step_cfg = make_stage_config(cfg, step, weights)
        os.makedirs(step_cfg.OUTPUT_DIR, exist_ok=True)
        _seed(cfg)
        if step == ENTROPY:
            _require_weights(weights)
            results = fit_entropy_model(step_cfg, step_cfg.OUTPUT_DIR, weights, resume)
            weights = os.path.join(step_cfg.OUTPUT_DIR, "model_final.pth")
            continue
        if step == SPLIT and step_cfg.SOLVER.MAX_ITER == 0:
            weights = _start_split(step_cfg, weights)
            continue
        with contextlib.closing(Trainer(step_cfg)) as trainer:
            trainer.resume_or_load(resume=resume)
            if trainer.start_iter > 0:
                trainer.checkpointer.require_complete(trainer.checkpointer.get_checkpoint_file())
            elif step == END_TO_END and _trains_from_scratch(cfg):
                trainer.checkpointer.require_backbone(weights)
            elif step != TASK_NETWORK:
                _require_task_network(trainer.checkpointer, weights)
                prepare_split(step_cfg, trainer.checkpointer.model, trainer.checkpointer.missing)
                _seed(cfg)  # so that it does not matter what that had to do
            if step == SPLIT and step_cfg.MODEL.FEATCOMP.TRAIN.STEP2.IMPORTANCE_IMAGES:
                _weight_channels(step_cfg, trainer)
            if trainer.start_iter == 0:
                reset_loss_weights(trainer.checkpointer.model)
            if trainer.start_iter >= trainer.max_iter:
                logger.info("Stage %d is complete", step)
                weights = trainer.checkpointer.get_checkpoint_file()
                continue
            later = steps[steps.index(step) + 1 :]
            _forget(cfg, later, f"what follows stage {step}, which was not complete, starts anew")
            logger.info("Stage %d: iterations %d to %d", step, trainer.start_iter, trainer.max_iter)
            _train(trainer, step)
            results = getattr(trainer, "_last_eval_results", OrderedDict())
        weights = os.path.join(step_cfg.OUTPUT_DIR, "model_final.pth")
    if comm.is_main_process():
        # Without the optimizer's state.
        final = torch.load(weights, map_location="cpu", weights_only=True)["model"]
        path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
        save_weights(final, path)
        logger.info("%s: trained in stages %s", path, ", ".join(map(str, steps)))
    comm.synchronize()
    return results


def _start_split(cfg, weights):
    """Stage 2 without iterations: gives the split its first weights and saves all; returns the path."""
    network = build_model(cfg).train()
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(weights)
    _require_task_network(checkpointer, weights)
    prepare_split(cfg, network, checkpointer.missing)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    if comm.is_main_process():
        save_weights(network.state_dict(), path)
    comm.synchronize()
    return path


def _require_task_network(checkpointer, weights):
    _require_weights(weights)
    checkpointer.require_complete(weights, split=False)


def _require_weights(weights):
    if not weights:
        raise CheckpointError(
            "the task network's parameters are absent: training stages 2 to 4 without stage 1 need its "
            "weights: set MODEL.WEIGHTS, or begin MODEL.FEATCOMP.TRAIN.STEPS with 1"
        )


def _weight_channels(cfg, trainer):
    """Of a training that is resumed, too: the network whose losses are looked at is frozen."""
    if trainer.start_iter < trainer.max_iter:
        network = trainer.checkpointer.model.train()
        images = cfg.MODEL.FEATCOMP.TRAIN.STEP2.IMPORTANCE_IMAGES
        network.channel_weights = measure_channel_weights(cfg, network, images)


def _seed(cfg):
    if cfg.SEED >= 0:
        seed_all_rng(cfg.SEED + comm.get_rank())


def _train(trainer, step):
    """Trains; tells what to do where losses or weights become infinite, before these are handed on."""
    try:
        trainer.train()
        require_finite_weights(trainer.model)
    except FloatingPointError as error:
        raise FloatingPointError(
            f"stage {step} diverged: lower MODEL.FEATCOMP.TRAIN.STEP{step}.BASE_LR or set "
            f"SOLVER.CLIP_GRADIENTS.ENABLED True ({error})"
        ) from error


def _forget(cfg, steps, what_now):
    """Removes the marks by which --resume, now or later, would take an older run's stages for this
    one's; tells so, and `what_now`."""
    forgotten = False
    for step in steps if comm.is_main_process() else ():
        marks = ("model_final.pth", "fit.pth") if step == ENTROPY else ("last_checkpoint",)
        for name in marks:
            mark = os.path.join(make_stage_config(cfg, step, "").OUTPUT_DIR, name)
            if os.path.exists(mark):
                os.remove(mark)
                forgotten = True
    if forgotten:
        logging.getLogger("d2_featcomp").warning(
            "%s holds an earlier training, which is not gone on with: %s",
            cfg.OUTPUT_DIR,
            what_now,
        )
    comm.synchronize()


def _check_steps(cfg, steps):
    """Finds mistakes in the settings of any stage before the first, by the network of the last one,
    which has all parts of the others, built once."""
    require_stage_numbers(cfg, steps)
    second = cfg.MODEL.FEATCOMP.TRAIN.STEP2
    if SPLIT in steps and (
        second.IMPORTANCE_IMAGES < 0 or (second.IMPORTANCE_IMAGES and second.LOSS == "task")
    ):
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN.STEP2.IMPORTANCE_IMAGES is {second.IMPORTANCE_IMAGES} and STEP2.LOSS "
            f"{second.LOSS!r}: give 0, or a number of images with LOSS distill or both, whose errors it "
            "weights"
        )
    rate_weight = cfg.MODEL.FEATCOMP.TRAIN.RATE_WEIGHT
    if {SPLIT, END_TO_END} & set(steps) and rate_weight and not _is_learned(cfg):
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN.RATE_WEIGHT is {rate_weight}, but codec "
            f"{cfg.MODEL.FEATCOMP.CODEC.NAME!r} has no model of its rate: set CODEC.NAME to learned, or "
            "RATE_WEIGHT to 0"
        )
    model = _build_on_cpu(make_stage_config(cfg, steps[-1], ""))
    for step in steps:
        _require_trainable(model, step)
    if {SPLIT, END_TO_END} & set(steps):
        check_start(cfg, model.feature_split, steps)


def _require_trainable(model, step):
    require_split(model, step != TASK_NETWORK)
    if step == TASK_NETWORK:
        return
    if step == ENTROPY:
        if not isinstance(model.feature_codec, LearnedFeatureCodec):
            raise ValueError(
                "training stage 4 fits the entropy model of codec 'learned', but "
                f"MODEL.FEATCOMP.CODEC.NAME is {model.feature_codec.name!r}: set it to learned, or "
                "leave 4 out of MODEL.FEATCOMP.TRAIN.STEPS"
            )
        return
    if step == END_TO_END and model.feature_split.defaults.get("from_scratch", False):
        return
    if not any(True for _ in model.feature_split.parameters()):
        raise ValueError(
            f"MODEL.FEATCOMP.SPLIT {model.split_name} has nothing to train: run --eval-only, or "
            'set MODEL.FEATCOMP.TRAIN.STEPS "(1,)" to train the task network'
        )


def require_data(*names):
    """Raises ValueError for names of data sets that are not registered; takes groups of them."""
    unknown = sorted({name for group in names for name in group} - set(DatasetCatalog))
    if unknown:
        similar = difflib.get_close_matches(unknown[0], list(DatasetCatalog), n=2, cutoff=0.8)
        hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
        raise ValueError(
            f"unknown data sets {unknown} in DATASETS: {hint}Your own need --import and the file that "
            "registers them, or are named images:FOLDER or images:FOLDER:FILE.json"
        )
