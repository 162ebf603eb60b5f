"""Arguments of the command lines in tools/: options and config overrides in any order, and --import."""

import argparse
import importlib
import importlib.util
import os
import re
import sys

from detectron2.config import get_cfg

__all__ = ["import_modules", "parse_arguments"]

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def parse_arguments(parser, arguments=None):
    """As `parser.parse_args`, with config overrides, KEY VALUE, in `opts` wherever they stand; and with
    the option --import, whose modules are imported.

    Args:
        parser (ArgumentParser): its positional argument, if it has one, is `opts`.
        arguments (list[str] or None): of the command line; None is this program's.

    Returns:
        Namespace: with `imports`, a list[str].
    """
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module, a .py file or the folder of a package that registers data sets, splits, "
        "codecs, networks; can be repeated",
    )
    takes_overrides = False
    for action in parser._actions:
        if action.dest == "opts":  # which would take all that stands behind the first override
            action.nargs, takes_overrides = argparse.ZERO_OR_MORE, True
    rest = sys.argv[1:] if arguments is None else list(arguments)
    overrides = []
    if takes_overrides:
        rest, overrides = _separate(parser, rest)
    args = parser.parse_intermixed_args(rest)
    if takes_overrides:
        args.opts = [*overrides, *args.opts]
    try:
        import_modules(args.imports)
    except ImportError as error:
        parser.error(str(error))
    return args


def _separate(parser, arguments):
    """Separates (other arguments, KEY VALUE pairs of Detectron2's configs)."""
    top, others, pairs = get_cfg(), [], []
    arguments = iter(arguments)
    for argument in arguments:
        section = argument.partition(".")[0]
        whole = _KEY.fullmatch(argument) and section in top
        if not whole or isinstance(top.get(argument), dict):  # "MODEL" alone may be a file's name
            others.append(argument)
            continue
        value = next(arguments, None)
        if value is None or value.startswith("--"):
            parser.error(f"config override {argument} has no value: give KEY VALUE pairs")
        pairs += [argument, value]
    return others, pairs


def import_modules(names):
    """Imports modules of other projects, for what they register.

    Args:
        names (sequence[str]): of modules, looked for in the working directory, too; or paths of .py
            files, or of folders of packages, whose name is the folder's.

    Raises:
        ImportError: there is none of that name, or it cannot be imported.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(name)
            elif os.sep in name:
                _import_folder(name)
            else:
                importlib.import_module(name)
        except Exception as error:  # whatever its code raises
            reason = f"{type(error).__name__}: {error}"
            raise ImportError(f"--import {name}: it cannot be imported ({reason})") from error


def _import_file(path):
    name = os.path.splitext(os.path.basename(path))[0]
    loaded = sys.modules.get(name)
    if loaded is not None:
        if os.path.realpath(getattr(loaded, "__file__", None) or "") == os.path.realpath(path):
            return
        raise ImportError(f"a module {name!r} is imported already: choose another name for the file")
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _import_folder(path):
    """Imports a package by its folder; its parts are found as those of any package."""
    folder, name = os.path.split(os.path.realpath(path))
    if folder not in sys.path:
        sys.path.append(folder)
    found = importlib.import_module(name)
    if os.path.dirname(os.path.realpath(found.__file__)) != os.path.join(folder, name):
        raise ImportError(f"another package {name!r} was found first, {found.__file__!r}")
