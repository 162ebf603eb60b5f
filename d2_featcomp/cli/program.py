"""From a command line to the module of a sub-command."""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..arguments import parse_arguments
from ..errors import report_errors
from ..model_zoo import find_config_file

__all__ = ["COMMANDS", "main", "run_command", "run_tool"]

# In the order in which `featcomp --help` tells them.
COMMANDS = (
    *("train", "eval", "sweep", "bdrate", "reproduce", "demo"),
    *("export", "edge", "cloud", "serve"),
    *("split-table", "crossover", "benchmark"),
    *("datasets", "make-scenes", "label-images", "select-channels"),
    *("convert-darknet", "convert-efficientnet-lite"),
    "info",
)


class CommandParser(argparse.ArgumentParser):
    """Tells an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help tells more)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `featcomp`.

    Args:
        arguments (sequence[str] or None): of the command line; None is this program's.

    Returns:
        int: exit status. SystemExit is raised by --help, --version and mistakes in the arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] == "help":
        given = [*given[1:], "--help"]
    if given and not given[0].startswith("-"):
        if given[0] not in COMMANDS:
            _make_main_parser().error(_describe_unknown(given[0]))
        return run_command(given[0], given[1:])
    parser = _make_main_parser()
    _, unknown = parser.parse_known_args(given)
    if unknown:
        command = next((word for word in given if word in COMMANDS), "COMMAND")
        parser.error(f"{given[0]} stands before the command: give featcomp {command} {given[0]} ...")
    parser.print_help()
    return 2


def run_command(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs a sub-command.

    Args:
        name (str): one of COMMANDS.
        arguments (sequence[str] or None): for it; None is those of this program.
        program (str or None): what its messages begin with; None is "featcomp NAME".

    Returns:
        int: exit status. SystemExit is raised by mistakes.
    """
    module = _load(name)
    program = program or f"featcomp {name}"
    parser = CommandParser(
        prog=program, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    takes_imports = getattr(module, "TAKES_IMPORTS", True)
    args = parse_arguments(parser, arguments, takes_imports=takes_imports)
    args.program = program
    with report_errors(program):
        if getattr(args, "config_file", None):
            args.config_file = find_config_file(args.config_file)
        return module.run(args) or 0


def run_tool(path: str) -> NoReturn:
    """Runs the sub-command that a script of tools/ stands for, and ends the program.

    Args:
        path (str): of the script: "split_table.py" is `featcomp split-table`, under its own name.
    """
    program = os.path.basename(path)
    name = os.path.splitext(program)[0].replace("_", "-")
    sys.exit(run_command("train" if name == "train-net" else name, program=program))


def _load(name: str) -> ModuleType:
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def _make_main_parser() -> CommandParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}} {(_load(name).__doc__ or ' ').splitlines()[0]}" for name in COMMANDS]
    parser = CommandParser(
        prog="featcomp",
        usage="featcomp COMMAND [options] [KEY VALUE ...]",
        description="Split inference with Detectron2: trains, measures and deploys networks whose\n"
        "features are compressed between edge and cloud.\n\ncommands:\n" + "\n".join(lines),
        epilog="featcomp COMMAND --help shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"d2_featcomp {__version__}")
    return parser


def _describe_unknown(name: str) -> str:
    similar = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name!r}" + (f": did you mean {similar[0]}?" if similar else "")
