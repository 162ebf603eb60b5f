"""Networks that a LazyConfig file of Detectron2 describes."""

import hashlib
import json
import os

from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import OmegaConf

__all__ = ["LazyNetwork", "allow_lazy_config", "digest_lazy_config", "read_lazy_config"]

_ALLOWED = set()  # files that this process was told to run


def allow_lazy_config(path):
    """Lets configs name a LazyConfig file, which is code: one that the user has named.

    Args:
        path (str): of the `.py` file.
    """
    _ALLOWED.add(os.path.realpath(path))


def read_lazy_config(cfg):
    """Reads the LazyConfig file that a config names.

    Args:
        cfg (CfgNode): with the keys of :func:`add_featcomp_config`.

    Returns:
        DictConfig or None: of `MODEL.LAZY.CONFIG_FILE`, with `MODEL.LAZY.OVERRIDES`.

    Raises:
        FileNotFoundError: no such file. ValueError: it was not named by the user, or an override does
            not fit.
    """
    path = cfg.MODEL.LAZY.CONFIG_FILE
    if not path:
        return None
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no config file {path!r}, the LazyConfig file of this network: give it by --config-file"
        )
    if os.path.realpath(path) not in _ALLOWED:
        raise ValueError(
            f"MODEL.LAZY.CONFIG_FILE is {path!r}, which is a program: it is run only where it is given "
            "itself, by --config-file"
        )
    try:
        return LazyConfig.apply_overrides(LazyConfig.load(path), list(cfg.MODEL.LAZY.OVERRIDES))
    except Exception as error:  # whatever its code raises
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def digest_lazy_config(cfg, parts=("model",)):
    """Hashes what a LazyConfig file holds, wherever it lies.

    Args:
        cfg (CfgNode): see :func:`read_lazy_config`.
        parts (sequence[str]): of the file's variables, those that count.

    Returns:
        str: 24 hexadecimal digits; "" where the config names no such file.
    """
    lazy = read_lazy_config(cfg)
    if lazy is None:
        return ""
    plain = OmegaConf.to_container(OmegaConf.masked_copy(lazy, [part for part in parts if part in lazy]))
    text = json.dumps(plain, sort_keys=True, default=_describe_object)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _describe_object(value):
    name = getattr(value, "__qualname__", "")
    return f"{value.__module__}.{name}" if name else str(value)


@META_ARCH_REGISTRY.register()
def LazyNetwork(cfg):
    """Builds the `model` of a LazyConfig file.

    Args:
        cfg (CfgNode): see :func:`read_lazy_config`.

    Returns:
        nn.Module

    Raises:
        ValueError, FileNotFoundError: there is no such file, or no `model` in it.
    """
    lazy = read_lazy_config(cfg)
    if lazy is None or "model" not in lazy:
        raise ValueError(
            "LazyNetwork needs a LazyConfig file with a `model`: give one, NAME.py, by --config-file"
        )
    return instantiate(lazy.model)
