"""Files of configs and plans: those of a checkout's configs/ and projects/, which setup.py copies beside
this file in an installed package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__all__ = [
    "find_config_file",
    "find_plan_file",
    "get_config",
    "get_config_file",
    "list_configs",
    "list_plans",
]

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]
_SUFFIX = ".yaml"


def list_configs() -> list[str]:
    """Lists the names of the configs, sorted, e.g. "msfc_R50" and "quick/msfc_R18"."""
    return sorted(_list_files("configs"))


def list_plans() -> list[str]:
    """Lists the names of the experiment plans, sorted, e.g. "MSFC/quickstart"."""
    return sorted(name for name in _list_files("projects") if name.count("/") == 1)


def get_config_file(name: str) -> str:
    """Finds the file of a config.

    Args:
        name (str): e.g. "msfc_R50", "msfc_R50.yaml" or "configs/msfc_R50.yaml".

    Returns:
        str: path of the YAML file.

    Raises:
        FileNotFoundError: none has that name; the message tells similar names.
    """
    wanted = _strip(name, "configs/")
    files = _list_files("configs")
    if wanted not in files:
        if _strip(name, "projects/").lower() in map(str.lower, list_plans()):
            raise FileNotFoundError(
                f"{name!r} is an experiment, not the config of a network: featcomp reproduce runs it"
            )
        raise FileNotFoundError(
            f"no config file {name!r}, and none of that name in the model zoo: {_suggest(wanted, files)}"
        )
    return str(files[wanted])


def get_config(name: str) -> CfgNode:
    """Reads a config of the model zoo; registers everything that it may name.

    Args:
        name (str): see :func:`get_config_file`.

    Returns:
        CfgNode: with the keys of d2_featcomp, not frozen.

    Raises:
        FileNotFoundError: none has that name.
    """
    from ..config import make_config
    from ..registration import register_all

    path = get_config_file(name)
    register_all()
    cfg = make_config()
    cfg.merge_from_file(path, allow_unsafe=False)
    return cfg


def find_config_file(given: str) -> str:
    """Finds a config file of the user's, or else of the model zoo.

    Args:
        given (str): path of a file, or see :func:`get_config_file`.

    Returns:
        str: the same, or the path in the model zoo.

    Raises:
        FileNotFoundError: there is neither.
    """
    return given if os.path.isfile(given) else get_config_file(given)


def find_plan_file(given: str) -> str:
    """Finds an experiment plan of the user's, or else of this project.

    Args:
        given (str): path of a file, or a name, e.g. "MSFC/quickstart", in upper or lower case.

    Returns:
        str: path of the YAML file.

    Raises:
        FileNotFoundError: there is neither.
    """
    if os.path.isfile(given):
        return given
    files = {name.lower(): path for name, path in _list_files("projects").items()}
    wanted = _strip(given, "projects/").lower()
    if wanted not in files:
        if _strip(given, "configs/") in list_configs():
            raise FileNotFoundError(
                f"{given!r} is the config of a network, not an experiment: featcomp train trains it"
            )
        raise FileNotFoundError(
            f"no plan {given!r}: give a YAML file, or a name: {_suggest(wanted, list_plans())}"
        )
    return str(files[wanted])


def _list_files(folder: str) -> dict[str, Path]:
    """Name, without suffix -> path of the YAML files of "configs" or "projects"."""
    root = _HERE / folder
    if not root.is_dir():
        root = _CHECKOUT / folder
    return {
        path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob(f"*{_SUFFIX}")
    }


def _strip(name: str, prefix: str) -> str:
    return name.replace(os.sep, "/").removeprefix(prefix).removesuffix(_SUFFIX)


def _suggest(wanted: str, names: list[str] | dict[str, Path]) -> str:
    """Words for a name that there is not: the most similar ones, or all."""
    lower = {name.lower(): name for name in sorted(names, key=len)}
    containing = [name for name in lower if wanted.lower() in name]
    similar = containing or difflib.get_close_matches(wanted.lower(), lower, n=3, cutoff=0.6)
    if similar and wanted:
        return f"did you mean {' or '.join(repr(lower[name]) for name in similar[:3])}?"
    return f"there are {', '.join(sorted(names))}"
