"""Arguments of command lines: options and config overrides in any order, and --import."""

import argparse
import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence

__all__ = ["import_modules", "list_imported_files", "parse_arguments"]

_IMPORTED: list[str] = []  # modules by name, in the order of import_modules

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
# The keys at the top of Detectron2's configs: those with keys below them, and the others.
SECTIONS = ("DATALOADER", "DATASETS", "GLOBAL", "INPUT", "MODEL", "SOLVER", "TEST")
VALUES = ("CUDNN_BENCHMARK", "FLOAT32_PRECISION", "OUTPUT_DIR", "SEED", "VERSION", "VIS_PERIOD")


def parse_arguments(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
    *,
    takes_imports: bool = True,
) -> argparse.Namespace:
    """As `parser.parse_args`, with config overrides, KEY VALUE, in `opts` wherever they stand; and with
    the option --import, whose modules are imported. Options cannot be abbreviated.

    Args:
        parser (ArgumentParser): where it has a positional argument `opts`, that takes overrides.
        arguments (list[str] or None): of the command line; None is this program's.
        takes_imports (bool): whether there is the option --import.

    Returns:
        Namespace: with `imports`, a list[str].
    """
    parser.set_defaults(imports=[])
    if takes_imports:
        parser.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="MODULE",
            help="import a module, a .py file or the folder of a package that registers data sets, "
            "splits, codecs, networks; can be repeated",
        )
    parser.allow_abbrev = False  # or an unknown option might be taken for another one
    takes_overrides = False
    for action in parser._actions:
        if action.dest == "opts":  # which would take all that stands behind the first override
            action.nargs, takes_overrides = argparse.ZERO_OR_MORE, True
    rest = sys.argv[1:] if arguments is None else list(arguments)
    overrides: list[str] = []
    if takes_overrides:
        rest, overrides = _separate(parser, rest)
    _refuse_unknown_options(parser, rest)
    args = parser.parse_intermixed_args(rest)
    if takes_overrides:
        args.opts = [*overrides, *args.opts]
    try:
        import_modules(args.imports)
    except ImportError as error:
        parser.error(str(error))
    return args


def _separate(parser: argparse.ArgumentParser, given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates (other arguments, KEY VALUE pairs of Detectron2's configs)."""
    others, pairs = [], []
    arguments = iter(given)
    for argument in arguments:
        below_section = argument.partition(".")[0] in SECTIONS and "." in argument
        # "MODEL" alone may be a file's name.
        if not (_KEY.fullmatch(argument) and (below_section or argument in VALUES)):
            others.append(argument)
            continue
        value = next(arguments, None)
        if value is None or value.startswith("--"):
            parser.error(f"config override {argument} has no value: give KEY VALUE pairs")
        pairs += [argument, value]
    return others, pairs


def _refuse_unknown_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Before anything else is told, such as that a required option is missing: it may be misspelt."""
    known = [name for action in parser._actions for name in action.option_strings]
    for argument in arguments:
        if argument == "--":  # what follows are no options
            return
        option = argument.partition("=")[0]
        if option.startswith("--") and " " not in option and option not in known:
            similar = difflib.get_close_matches(option, known, n=2, cutoff=0.6)
            hint = f": did you mean {' or '.join(similar)}?" if similar else ""
            parser.error(f"unknown option {option}{hint}")


def import_modules(names: Sequence[str]) -> None:
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
                found = _import_file(name)
            elif os.sep in name:
                found = _import_folder(name)
            else:
                found = importlib.import_module(name).__name__
        except Exception as error:  # whatever its code raises
            reason = f"{type(error).__name__}: {error}"
            raise ImportError(f"--import {name}: it cannot be imported ({reason})") from error
        if found not in _IMPORTED:
            _IMPORTED.append(found)


def list_imported_files() -> list[str]:
    """Lists the Python files of what :func:`import_modules` imported: of a package all of them.

    Returns:
        list[str]: paths, those of each module in the order of their names.
    """
    files = []
    for name in _IMPORTED:
        origin = getattr(sys.modules.get(name), "__file__", None) or ""
        if os.path.basename(origin) == "__init__.py":
            below = os.walk(os.path.dirname(origin))
            files += sorted(
                os.path.join(folder, each)
                for folder, _, names in below
                for each in names
                if each.endswith(".py")
            )
        elif os.path.isfile(origin):
            files.append(origin)
    return files


def _import_file(path: str) -> str:
    name = os.path.splitext(os.path.basename(path))[0]
    loaded = sys.modules.get(name)
    if loaded is not None:
        if os.path.realpath(getattr(loaded, "__file__", None) or "") == os.path.realpath(path):
            return name
        raise ImportError(f"a module {name!r} is imported already: choose another name for the file")
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"no Python file {path!r}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return name


def _import_folder(path: str) -> str:
    """Imports a package by its folder; its parts are found as those of any package."""
    folder, name = os.path.split(os.path.realpath(path))
    if folder not in sys.path:
        sys.path.append(folder)
    origin = importlib.import_module(name).__file__ or ""
    if os.path.dirname(os.path.realpath(origin)) != os.path.join(folder, name):
        raise ImportError(f"another package {name!r} was found first, {origin!r}")
    return name
