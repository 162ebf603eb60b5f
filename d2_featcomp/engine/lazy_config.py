"""LazyConfig files of Detectron2, as the configs that everything here takes.

Of a file `NAME.py` are used: `model`; of `dataloader` the names of the data sets, the batch size, the
training mapper and the test size; `optimizer`, with each training stage's own rate; of `train` the
weights to start from, device, seed, folder, mixed precision, and when to save and to evaluate. Two
dictionaries may be beside them: `featcomp`, the keys of MODEL.FEATCOMP, and `settings`, any others.
Not used are `train.max_iter` and `lr_multiplier`: each training stage has its own length and decay
(MODEL.FEATCOMP.TRAIN), by SOLVER's scheduler.
"""

import itertools

from detectron2.config import CfgNode, instantiate
from omegaconf import OmegaConf

from ..modeling.lazy import allow_lazy_config, read_lazy_config

__all__ = ["build_lazy_optimizer", "lazy_train_mapper", "merge_lazy_config", "separate_overrides"]

# Where a value is found -> the key that it sets.
_KEYS = {
    "dataloader.train.dataset.names": "DATASETS.TRAIN",
    "dataloader.test.dataset.names": "DATASETS.TEST",
    "dataloader.train.total_batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.train.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.train.mapper.image_format": "INPUT.FORMAT",
    "model.input_format": "INPUT.FORMAT",
    "dataloader.train.mapper.instance_mask_format": "INPUT.MASK_FORMAT",
    "train.init_checkpoint": "MODEL.WEIGHTS",
    "train.device": "MODEL.DEVICE",
    "train.seed": "SEED",
    "train.output_dir": "OUTPUT_DIR",
    "train.amp.enabled": "SOLVER.AMP.ENABLED",
    "train.checkpointer.period": "SOLVER.CHECKPOINT_PERIOD",
    "train.eval_period": "TEST.EVAL_PERIOD",
}
_GROUPS = ("DATASETS.TRAIN", "DATASETS.TEST")


def separate_overrides(overrides):
    """Separates (KEY VALUE pairs, those of a LazyConfig: "model.backbone.depth=34")."""
    pairs, lazy = [], []
    rest = iter(overrides)
    for word in rest:
        if "=" in word:
            lazy.append(word)
        else:
            pairs += [word, *itertools.islice(rest, 1)]  # a value may be None
    return pairs, lazy


def merge_lazy_config(cfg, path, overrides=()):
    """Merges a LazyConfig file into a config.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`; changed in place.
        path (str): of the LazyConfig file, which is run.
        overrides (sequence[str]): e.g. "model.backbone.depth=34".

    Raises:
        ValueError: the file cannot be run, has no `model`, or holds a key or value that does not fit.
    """
    allow_lazy_config(path)
    cfg.MODEL.LAZY.CONFIG_FILE, cfg.MODEL.LAZY.OVERRIDES = path, tuple(overrides)
    lazy = read_lazy_config(cfg)
    if "model" not in lazy:
        raise ValueError(f"{path}: it has no `model`")
    cfg.MODEL.META_ARCHITECTURE = "SplitNetwork"
    cfg.MODEL.FEATCOMP.TASK_NETWORK = "LazyNetwork"
    pairs = []
    for place, key in _KEYS.items():
        value = OmegaConf.select(lazy, place)
        if value is None:
            continue
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
        if key in _GROUPS and not isinstance(value, (list, tuple)):
            value = [value]
        pairs += [key, value]
    cfg.merge_from_list(pairs)
    _merge_test_size(cfg, lazy)
    for name, wrap in (("settings", dict), ("featcomp", lambda keys: {"MODEL": {"FEATCOMP": keys}})):
        if name in lazy:
            cfg.merge_from_other_cfg(CfgNode(wrap(OmegaConf.to_container(lazy[name]))))


def _merge_test_size(cfg, lazy):
    """Sets INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, of the augmentation that resizes test images."""
    for augmentation in OmegaConf.select(lazy, "dataloader.test.mapper.augmentations") or ():
        short, longest = augmentation.get("short_edge_length"), augmentation.get("max_size")
        if short is not None:
            cfg.INPUT.MIN_SIZE_TEST = int(short if isinstance(short, int) else short[0])
            if longest is not None:
                cfg.INPUT.MAX_SIZE_TEST = int(longest)


def lazy_train_mapper(cfg):
    """Builds the training mapper of a LazyConfig; None where there is none, or TRAIN.MAPPER names
    another."""
    lazy = read_lazy_config(cfg)
    if lazy is None or cfg.MODEL.FEATCOMP.TRAIN.MAPPER:
        return None
    mapper = OmegaConf.select(lazy, "dataloader.train.mapper")
    return None if mapper is None else instantiate(mapper)


def build_lazy_optimizer(cfg, model):
    """Builds the optimizer of a LazyConfig, at SOLVER.BASE_LR; None where there is none.

    Args:
        cfg (CfgNode): of one training stage.
        model (nn.Module): that it updates.
    """
    lazy = read_lazy_config(cfg)
    if lazy is None or "optimizer" not in lazy:
        return None
    lazy.optimizer.params.model = model
    lazy.optimizer.lr = cfg.SOLVER.BASE_LR
    return instantiate(lazy.optimizer)
