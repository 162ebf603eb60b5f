"""Configurations that travel with weights, and what may differ from them where these are used."""

import fnmatch
import os
import tempfile

from ..engine import CheckpointError, setup_config
from ..engine.command_line import make_plain_config
from ..engine.inference import describe_input
from ..modeling.lazy import digest_lazy_config

__all__ = ["describe_network", "dump_config", "read_dumped_config", "require_same_config"]

# Settings of training, of the machine and of what is shown, and the rate, which each bitstream tells.
# None changes what a bitstream means, or what the cloud's weights stand for.
FREE = (
    *("CUDNN_BENCHMARK", "DATALOADER.*", "DATASETS.*", "FLOAT32_PRECISION", "GLOBAL.*", "OUTPUT_DIR"),
    *("SEED", "SOLVER.*", "TEST.*", "VERSION", "VIS_PERIOD", "MODEL.DEVICE", "MODEL.WEIGHTS"),
    *("INPUT.*_TRAIN", "INPUT.*_TRAIN_SAMPLING", "INPUT.CROP.*", "INPUT.MASK_FORMAT"),
    *("INPUT.RANDOM_FLIP", "MODEL.*THRESH_TEST", "MODEL.*TOPK_TEST", "MODEL.*TOPK_CANDIDATES_TEST"),
    *("MODEL.*TOPK_TRAIN", "MODEL.*.BATCH_SIZE_PER_IMAGE", "MODEL.*.POSITIVE_FRACTION"),
    *("MODEL.BACKBONE.FREEZE_AT", "MODEL.PANOPTIC_FPN.COMBINE.*", "MODEL.MULTI_TASK.LOSS_WEIGHTS.*"),
    *("MODEL.FEATCOMP.INFERENCE", "MODEL.FEATCOMP.SERVER.*", "MODEL.FEATCOMP.TRAIN.*"),
    *("MODEL.FEATCOMP.TRAIN_QUANTIZATION", "MODEL.FEATCOMP.COMPRESSIBILITY.*", "MODEL.FEATCOMP.LOSS"),
    *("MODEL.FEATCOMP.LOSS_WEIGHTS", "MODEL.FEATCOMP.FREEZE_TASK_NETWORK"),
    *("MODEL.FEATCOMP.BAF.CHANNEL_ORDER", "MODEL.FEATCOMP.*.FIT_*"),
    "MODEL.FEATCOMP.ANSWERS.*",
    *("MODEL.FEATCOMP.BAF.TRAIN_BITS", "MODEL.FEATCOMP.CODEC.RATE", "MODEL.FEATCOMP.CODEC.TARGET_KB"),
)


def dump_config(cfg):
    """Writes a configuration down for another machine: without paths and device of this one.

    Args:
        cfg (CfgNode): not changed.

    Returns:
        str: YAML.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cuda"  # where there is one
    cfg.OUTPUT_DIR = "./output"
    if cfg.MODEL.FEATCOMP.INFERENCE.endswith(".onnx"):  # a file of this machine
        cfg.MODEL.FEATCOMP.INFERENCE = "fused"
    cfg.MODEL.FEATCOMP.BAF.CHANNEL_ORDER = ""  # the weights hold it
    cfg.MODEL.LAZY.CONFIG_FILE = os.path.basename(cfg.MODEL.LAZY.CONFIG_FILE)
    return cfg.dump()


def describe_network(cfg, network, categories):
    """Tells, beside its weights, what a program needs that runs a network's edge or cloud sub-model.

    Args:
        cfg (CfgNode): that `network` was built from.
        network (SplitNetwork): with weights.
        categories (list[dict]): of its classes, see :func:`choose_categories`.

    Returns:
        dict: of plain types: "config" (YAML), "fingerprint" and "fingerprint_v1" (hexadecimal; the
        latter of bitstreams of format 1), "split", "split_point", "categories", "input" (format "BGR" or
        "RGB"; "min_size" and "max_size", shortest and longest side in pixels, or "size", height and
        width, where all images have one; mean and std of the channels in that order), "codec" (name,
        description and, of those that quantize uniformly, bits, quantizer, value_range) and, of a
        network of a LazyConfig file, "lazy_model" (hash of the file's `model`).
    """
    codec = network.feature_codec
    lazy_model = digest_lazy_config(cfg)
    return {
        "config": dump_config(cfg),
        "fingerprint": network.fingerprint().hex(),
        "fingerprint_v1": network.fingerprint_v1().hex(),
        "split": network.stored_split_name,
        "split_point": network.split_point.name,
        "categories": [dict(category) for category in categories],
        "input": describe_input(cfg),
        "codec": {
            "name": cfg.MODEL.FEATCOMP.CODEC.NAME,
            "description": codec.describe(),
            **{key: getattr(codec, key) for key in ("bits", "quantizer") if hasattr(codec, key)},
            "value_range": list(map(float, getattr(codec, "value_range", ()))),
        },
        **({"lazy_model": lazy_model} if lazy_model else {}),
    }


def read_dumped_config(text, overrides=(), source="config"):
    """Reads what :func:`dump_config` wrote.

    Args:
        text (str): YAML.
        overrides (sequence[str]): KEY VALUE pairs.
        source (str): where it is from, for messages.

    Returns:
        CfgNode: as :func:`setup_config`.

    Raises:
        ValueError: it cannot be read, or an override is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            return setup_config(path, overrides)
        except ValueError as error:
            raise ValueError(str(error).replace(path, f"configuration in {source!r}")) from error


def require_same_config(cfg, about, source):
    """Raises CheckpointError where a configuration codes, or decodes, other features than weights
    were exported for.

    Args:
        cfg (CfgNode): that is to be used.
        about (dict): that came with the weights, see :func:`describe_network`.
        source (str): file of the weights, for the message.
    """
    exported = read_dumped_config(about["config"], (), source)
    asked, written = (_flatten(make_plain_config(each)) for each in (cfg, exported))
    if "lazy_model" in about:  # what the file holds matters, not where it lies
        for found, content in (asked, digest_lazy_config(cfg)), (written, about["lazy_model"]):
            found["the LazyConfig file's model, as a hash,"] = content
            del found["MODEL.LAZY.CONFIG_FILE"], found["MODEL.LAZY.OVERRIDES"]
    differing = [
        key
        for key in sorted(asked.keys() | written.keys())
        if asked.get(key) != written.get(key)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in FREE)
    ]
    if not differing:
        return
    some = "; ".join(
        f"{key} {written.get(key, '(none)')!r}, not {asked.get(key, '(none)')!r}"
        for key in differing[:3]
    )
    more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise CheckpointError(
        f"{source!r} was exported with {some}{more}: edge and cloud would no longer mean the same by "
        "a bitstream. Leave these settings (or --config-file) out, or export both sub-models again "
        "with them (featcomp export)"
    )


def _flatten(node, prefix=""):
    found = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found.update(_flatten(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found
