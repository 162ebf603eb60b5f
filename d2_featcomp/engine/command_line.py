"""Setting-up, errors and processes of the command lines in tools/."""

import contextlib
import os
import re
import sys

import torch
import yaml
from detectron2.config import get_cfg
from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException

from ..config import CONFIG_REGISTRY, add_featcomp_config
from ..data.datasets.image_folders import register_image_folders
from ..modeling import find_split_name
from .arguments import import_modules
from .config_files import merge_config_file
from .lazy_config import merge_lazy_config, separate_overrides

__all__ = [
    "end_process_group",
    "make_plain_config",
    "report_errors",
    "require_weights",
    "run_processes",
    "setup_config",
]


def setup_config(config_file, overrides=()):
    """Reads a config file, with the keys of d2_featcomp, of `CONFIG_REGISTRY` and, where it is
    installed, of PointRend.

    Data sets named `images:FOLDER` are registered.

    Args:
        config_file (str): YAML, or a LazyConfig file NAME.py (see :mod:`.lazy_config`), which is run; ""
            gives Detectron2's defaults.
        overrides (sequence[str]): KEY VALUE pairs; of a LazyConfig "model.backbone.depth=34", too.

    Returns:
        CfgNode: frozen. MODEL.DEVICE is :func:`choose_device`, MODEL.FEATCOMP.SPLIT
        :func:`find_split_name`.

    Raises:
        FileNotFoundError: no such file. ValueError: no YAML, YAML with objects of Python (which could
            run code, and are not made), an unknown key, a value of the wrong type, or no such device.
    """
    cfg = get_cfg()
    add_featcomp_config(cfg)
    with contextlib.suppress(ImportError):
        from detectron2.projects.point_rend import add_pointrend_config

        add_pointrend_config(cfg)
    for _, add_keys in CONFIG_REGISTRY:
        add_keys(cfg)
    if config_file and not os.path.isfile(config_file):
        raise FileNotFoundError(f"no config file {config_file!r}")
    try:
        overrides, lazy = separate_overrides(overrides)
        if config_file.endswith(".py"):
            merge_lazy_config(cfg, config_file, lazy)
        elif lazy:
            raise ValueError(f"{lazy[0]!r} is an override of a LazyConfig file: give KEY VALUE pairs")
        elif config_file:
            cfg = merge_config_file(cfg, config_file)
        codec = cfg.MODEL.FEATCOMP.CODEC
        if isinstance(codec.QUALITY, int):  # its default has no type; sweeps set it to any number
            codec.QUALITY = float(codec.QUALITY)
        cfg.merge_from_list(_whole_numbers_as_floats(cfg, overrides))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        hint = (
            "; --import adds those of another project" if "Non-existent config key" in str(error) else ""
        )
        raise ValueError(f"{config_file or 'config'}: {error}{hint}") from error
    cfg.MODEL.FEATCOMP.SPLIT = find_split_name(cfg.MODEL.FEATCOMP.SPLIT)
    cfg.MODEL.DEVICE = choose_device(cfg.MODEL.DEVICE)
    register_image_folders([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    cfg.freeze()
    return cfg


def _whole_numbers_as_floats(cfg, overrides):
    """Lets a whole number stand for a float: `CODEC.RATE 1` for `CODEC.RATE 1.0`."""
    found = list(overrides)
    for place in range(1, len(found), 2):
        value = cfg
        for key in str(found[place - 1]).split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, float) and re.fullmatch(r"[+-]?\d+", str(found[place])):
            found[place] = float(found[place])
    return found


def choose_device(name):
    """Chooses the device to compute on.

    Args:
        name (str): of a device, e.g. "cpu", "cuda" or "cuda:1".

    Returns:
        str: the same, or "cpu" where a GPU is asked for and there is none at all.

    Raises:
        ValueError: no name of a device, or of one that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is {name!r}: give cpu, cuda, or cuda:0") from error
    if device.type != "cuda":
        return name
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and (device.index or 0) >= count:
        raise ValueError(f"MODEL.DEVICE is {name!r}, but there are {count} GPUs, the first is cuda:0")
    return name if count else "cpu"


def make_plain_config(cfg):
    """Converts a CfgNode to a dict of JSON's own types, as it would be read from its YAML."""
    if isinstance(cfg, dict):
        return {key: make_plain_config(cfg[key]) for key in sorted(cfg)}
    return [make_plain_config(value) for value in cfg] if isinstance(cfg, (list, tuple)) else cfg


def require_weights(cfg):
    """Raises ValueError if MODEL.WEIGHTS is not set."""
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("no weights: add MODEL.WEIGHTS and a checkpoint at the end")


def end_process_group():
    """Ends the communication of several processes: its threads must not outlive the interpreter."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def run_processes(main, args):
    """Runs `main(args)` in each of the processes that a command line asks for. Ends the program, with
    the exit status of the process that failed, if one does.

    Args:
        main (callable): of a module, so that other processes find it.
        args (Namespace): with Detectron2's num_gpus, num_machines, machine_rank and dist_url.
    """
    layout = {key: getattr(args, key) for key in ("num_machines", "machine_rank", "dist_url")}
    try:
        launch(_one_of_them, args.num_gpus, **layout, args=(main, args))
    except ProcessExitedException as error:  # the process has said what is wrong
        sys.exit(error.exit_code)


def _one_of_them(main, args):
    with report_errors():
        import_modules(getattr(args, "imports", ()))  # in processes that were started here, again
        main(args)
        end_process_group()


def _without_worker(message):
    """Strips the traceback from the error of a process that loads data."""
    if not message.startswith("Caught ") or " in DataLoader worker process" not in message:
        return message
    kind = message.removeprefix("Caught ").partition(" ")[0]
    return message.rpartition(f"{kind}: ")[2] or message


@contextlib.contextmanager
def report_errors():
    """Turns an error of the user's making into one line and exit status 2, an interruption into 130.

    With the environment variable D2_FEATCOMP_TRACEBACK set, the traceback is kept.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
        sys.exit(130)
    except (
        ValueError,
        OSError,
        ImportError,
        KeyError,
        AssertionError,
        FloatingPointError,
    ) as error:
        # Detectron2 reports many mistakes in a config by the last two.
        if os.getenv("D2_FEATCOMP_TRACEBACK"):
            raise
        # YAML's and the operating system's may have many lines.
        message = " ".join(_without_worker(str(error)).split())
        if isinstance(error, (KeyError, AssertionError)):
            message += " (set D2_FEATCOMP_TRACEBACK=1 to see where)"
        print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)
        sys.exit(2)
