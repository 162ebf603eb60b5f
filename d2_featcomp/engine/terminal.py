"""What commands show while they run: few lines, and progress bars that these do not tear."""

import logging
import os
import sys
import tempfile
import warnings

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

__all__ = ["setup_terminal"]

_LOGGERS = ("detectron2", "fvcore", "d2_featcomp")
_SHOWN = ("d2_featcomp", "detectron2.utils.events")  # the latter tells losses, once a period

_handlers = {}  # name of a logger -> those that the last call gave it


def setup_terminal(output=None, *, verbose=False):
    """Sets up the loggers of Detectron2 and of this package.

    A terminal gets what this package tells, a line of losses each period of a training, and warnings;
    the log file gets everything.

    Args:
        output (str or None): folder of the log file, `log.txt`; None writes none.
        verbose (bool): show all that the log file gets.

    Raises:
        OSError: nothing can be written into the folder.
    """
    if output:
        _require_writable(output)
    setup_logger.cache_clear()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in _handlers.pop(name, ()):
            logger.removeHandler(handler)
        others = len(logger.handlers)
        # Detectron2's default_setup, called with the same arguments, then adds no handlers of its own.
        named = {} if name == "detectron2" else {"name": name}
        setup_logger(output, distributed_rank=comm.get_rank(), **named)
        _handlers[name] = logger.handlers[others:]
        for handler in _handlers[name]:
            if handler.stream is sys.stdout:
                handler.setStream(_BesideBars(sys.stdout))
                handler.filters = [] if verbose else [_is_shown]
    if not verbose:  # what Detectron2 does in ways that PyTorch has newer ones for
        for words in ("torch.meshgrid", "The given NumPy array is not writable"):
            warnings.filterwarnings("ignore", words)
        for name in ("torch.fx._symbolic_trace", "torch.utils.cpp_extension"):
            logging.getLogger(name).addFilter(_is_of_the_user)


def _require_writable(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the output folder {folder!r} ({error.strerror}): choose another"
        ) from error


def _is_shown(record):
    if record.name == "fvcore.common.checkpoint" and _tells_split_parameters(record.getMessage()):
        return False
    if record.name == "detectron2.data.datasets.coco" and "We'll apply a mapping" in record.getMessage():
        return False  # of categories that are not numbered from 1 on: as it should be
    return record.levelno >= logging.WARNING or record.name.startswith(_SHOWN)


def _is_of_the_user(record):
    """Whether a user can do something about what PyTorch tells; not so about what Detectron2 calls, nor
    about CUDA's compiler without a GPU."""
    return not any(words in str(record.msg) for words in ("is_fx_tracing", "No CUDA runtime is found"))


def _tells_split_parameters(message):
    """Whether a checkpoint lacks split and codec alone, which a training then starts, or holds besides
    the network those alone, as where another codec is measured."""
    head, *names = message.splitlines()
    heads = ("Some model parameters", "The checkpoint state_dict contains keys that are not used")
    return head.startswith(heads) and all("feature_" in name for name in names)


class _BesideBars:
    """Writes to a terminal, above the progress bars that are on it; to the standard output of the
    moment, once it is closed. Not to that while it is open: what a redirection catches may be logged."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        if getattr(self._stream, "closed", False):
            self._stream = sys.stdout
        with tqdm.external_write_mode(file=self._stream):
            self._stream.write(text)

    def flush(self):
        if not getattr(self._stream, "closed", False):
            self._stream.flush()
