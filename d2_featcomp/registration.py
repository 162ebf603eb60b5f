"""Registration with Detectron2, no sooner than Detectron2 itself is imported.

`import d2_featcomp` alone imports neither PyTorch nor Detectron2, so that a command line answers at
once. What it has to offer is registered as soon as Detectron2's registries exist.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["register_all", "register_when_imported"]

# Package of Detectron2 that holds registries -> the one here that registers something there.
_REGISTERED_IN = {"detectron2.data": "d2_featcomp.data", "detectron2.modeling": "d2_featcomp.modeling"}


def register_all() -> None:
    """Registers meta-architectures, backbones, feature splits, codecs and data sets; imports
    Detectron2."""
    for package in _REGISTERED_IN.values():
        importlib.import_module(package)


def register_when_imported() -> None:
    """Registers what belongs to packages of Detectron2 that are imported, and the rest when they are."""
    sys.meta_path.insert(0, _Finder())
    for registries, package in _REGISTERED_IN.items():
        if registries in sys.modules:
            importlib.import_module(package)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds those packages of Detectron2 as Python does, and registers after they were executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _REGISTERED_IN:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(_REGISTERED_IN[name])

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
