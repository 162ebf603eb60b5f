"""Setting-up and processes of command lines."""

import datetime
import re
import sys

import torch
import yaml
from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException

from ..arguments import import_modules
from ..config import make_config
from ..data.datasets.image_folders import register_image_folders
from ..errors import report_errors
from ..model_zoo import find_config_file
from ..modeling import find_split_name
from .config_errors import explain_config_error
from .config_files import merge_config_file
from .lazy_config import merge_lazy_config, separate_overrides

__all__ = [
    "end_process_group",
    "make_plain_config",
    "require_weights",
    "run_processes",
    "setup_config",
]


def setup_config(config_file, overrides=()):
    """Reads a config file, with the keys of d2_featcomp, of `CONFIG_REGISTRY` and, where it is
    installed, of PointRend.

    Data sets named `images:FOLDER` are registered.

    Args:
        config_file (str): YAML, its name in the model zoo, or a LazyConfig file NAME.py (see
            :mod:`.lazy_config`), which is run; "" gives Detectron2's defaults.
        overrides (sequence[str]): KEY VALUE pairs; of a LazyConfig "model.backbone.depth=34", too.

    Returns:
        CfgNode: frozen. MODEL.DEVICE is :func:`choose_device`, MODEL.FEATCOMP.SPLIT
        :func:`find_split_name`.

    Raises:
        FileNotFoundError: no such file. ValueError: no YAML, YAML with objects of Python (which could
            run code, and are not made), an unknown key, a value of the wrong type, or no such device.
    """
    cfg = make_config()
    if config_file:
        config_file = find_config_file(config_file)
    source = config_file or "config"
    try:
        overrides, lazy = separate_overrides(overrides)
        if config_file.endswith(".py"):
            merge_lazy_config(cfg, config_file, lazy)
        elif lazy:
            source = "config overrides"
            raise ValueError(
                f"write {lazy[0].replace('=', ' ', 1)!r}: "
                "NAME=VALUE is for Detectron2's LazyConfig files alone"
            )
        elif config_file:
            cfg = merge_config_file(cfg, config_file)
        codec = cfg.MODEL.FEATCOMP.CODEC
        if isinstance(codec.QUALITY, int):  # its default has no type; sweeps set it to any number
            codec.QUALITY = float(codec.QUALITY)
        source = "config overrides"
        cfg.merge_from_list(_whole_numbers_as_floats(cfg, overrides))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise explain_config_error(cfg, error, source) from error
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

    Raises:
        ChildProcessError: a process was killed.
    """
    layout = {key: getattr(args, key) for key in ("num_machines", "machine_rank", "dist_url")}
    if args.num_machines == 1:  # all are watched here; one may work for hours while others wait
        layout["timeout"] = datetime.timedelta(days=30)
    try:
        launch(_one_of_them, args.num_gpus, **layout, args=(main, args))
    except ProcessExitedException as error:
        if error.signal_name:
            raise ChildProcessError(
                f"one of the {args.num_gpus} processes was ended by {error.signal_name}, perhaps for "
                "want of memory: fewer processes need less"
            ) from error
        sys.exit(error.exit_code)  # the process has said what is wrong


def _one_of_them(main, args):
    with report_errors(getattr(args, "program", None)):
        import_modules(getattr(args, "imports", ()))  # in processes that were started here, again
        main(args)
        end_process_group()
