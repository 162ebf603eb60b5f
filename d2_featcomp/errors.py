"""Errors of command lines: one line, and an exit status."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator

__all__ = [
    "DETECTRON2_MISSING",
    "describe_import_error",
    "describe_missing",
    "is_missing",
    "report_errors",
]

DETECTRON2_MISSING = (
    "d2_featcomp needs Detectron2, which cannot be imported: install it with "
    "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)


# What the extra "torch" installs, and an installation for edge.onnx alone lacks.
_OF_TORCH = ("torch", "torchvision", "fvcore", "iopath", "pycocotools", "matplotlib", "bjontegaard")


def describe_missing(package: str | None) -> str | None:
    """Tells in one sentence how to get a package that cannot be imported; None if it is not known
    here."""
    if package == "detectron2" and _is_installed("torch"):
        return DETECTRON2_MISSING
    if package in ("detectron2", *_OF_TORCH):
        return (
            f"this needs {package}, which is not installed here: pip install 'd2_featcomp[torch]', and "
            "Detectron2 after it; without them featcomp edge runs an exported edge.onnx"
        )
    return None


def describe_import_error(error: ImportError, need: str, how: str, *packages: str) -> str:
    """Tells whether an optional package is missing, or is there and cannot be loaded.

    Args:
        error (ImportError): of its import.
        need (str): what needs which packages, e.g. "video files need PyAV".
        how (str): gets what is missing, e.g. "pip install av".
        *packages (str): that are imported, e.g. "av".

    Returns:
        str: for the user.
    """
    if is_missing(error, *packages):
        return f"{need}: {how}"
    return f"{need}, and what is installed cannot be loaded ({error}): install what it lacks"


def is_missing(error: BaseException, *packages: str) -> bool:
    """Tells whether an import has failed because one of the packages is not installed."""
    name = getattr(error, "name", None) or ""
    return isinstance(error, ModuleNotFoundError) and name.partition(".")[0] in packages


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # of one that was made impossible to import
        return False


@contextlib.contextmanager
def report_errors(program: str | None = None) -> Iterator[None]:
    """Turns an error of the user's making into one line and exit status 2, an interruption into 130.

    With the environment variable D2_FEATCOMP_TRACEBACK set, the traceback is kept.

    Args:
        program (str or None): what the line begins with; None is the name of this program.
    """
    program = program or os.path.basename(sys.argv[0])
    try:
        yield
    except KeyboardInterrupt as interruption:
        advice = f": {interruption}" if interruption.args else ""
        print(f"{program}: interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    except (
        ValueError,
        OSError,
        ImportError,
        KeyError,
        AssertionError,
        FloatingPointError,
    ) as error:
        # Detectron2 reports many mistakes in a config by KeyError and AssertionError.
        if os.getenv("D2_FEATCOMP_TRACEBACK"):
            raise
        # YAML's and the operating system's may have many lines.
        message = " ".join(_without_worker(_describe(error)).split())
        _end_progress_bars()
        if isinstance(error, ModuleNotFoundError):
            message = describe_missing((error.name or "").partition(".")[0]) or message
        if isinstance(error, (KeyError, AssertionError)):
            message += " (set D2_FEATCOMP_TRACEBACK=1 to see where)"
        print(f"{program}: error: {message}", file=sys.stderr)
        sys.exit(2)


def _describe(error: BaseException) -> str:
    """What an error says, or its name where it says nothing; of the operating system's, without its
    number."""
    if not isinstance(error, OSError) or error.filename is None or not error.strerror:
        return str(error) or type(error).__name__
    if isinstance(error, (FileExistsError, NotADirectoryError)) and not os.path.isdir(error.filename):
        return f"{error.filename!r}: there is a file, where a folder is needed"
    return f"{error.filename!r}: {error.strerror[0].lower()}{error.strerror[1:]}"


def _end_progress_bars() -> None:
    """Ends the progress bars that an error has left open: its message would stand in one of them."""
    progress = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(progress, "_instances", ())):
        bar.close()


def _without_worker(message: str) -> str:
    """Strips the traceback from the error of a process that loads data."""
    if not message.startswith("Caught ") or " in DataLoader worker process" not in message:
        return message
    kind = message.removeprefix("Caught ").partition(" ")[0]
    return message.rpartition(f"{kind}: ")[2] or message
