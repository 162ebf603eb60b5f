"""Collaborative intelligence for Detectron2: split networks, with real feature bitstreams between.

Importing this package imports neither PyTorch nor Detectron2. Its meta-architecture, feature splits and
data sets are registered when :func:`add_featcomp_config` is taken from it, or when Detectron2's
registries are imported, whichever comes first.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import describe_missing
from .registration import register_all, register_when_imported

if TYPE_CHECKING:
    from .config import add_featcomp_config

__version__ = "0.1.0"
__all__ = ["add_featcomp_config"]

_PACKAGES = (
    *("codecs", "data", "deploy", "engine", "evaluation", "experiments", "model_zoo", "modeling"),
    *("ops", "serving"),
)


def __getattr__(name: str) -> Any:
    if name == "add_featcomp_config":
        try:
            register_all()
        except ModuleNotFoundError as error:
            text = describe_missing(error.name)
            if text:
                raise ImportError(text) from error
            raise
        return importlib.import_module(".config", __name__).add_featcomp_config
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_when_imported()
