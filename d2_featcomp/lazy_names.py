"""Names of a package that need PyTorch: it is imported when one of them is asked for."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["make_lazy_getattr"]

_MODULE = "needs_torch"


def make_lazy_getattr(
    package: str, otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package with a module `needs_torch`, whose names are the package's.

    Args:
        package (str): its `__name__`.
        otherwise (callable or None): of a name that this module does not have either; returns what is
            meant, or raises AttributeError.

    Returns:
        callable: str -> what has that name. AttributeError if there is none; ModuleNotFoundError if it
        may be there, but PyTorch or what else the module needs is not installed.
    """

    def find(name: str) -> Any:
        # What is a module itself `import` finds, after an AttributeError.
        if not name.startswith("__") and importlib.util.find_spec(f"{package}.{name}") is None:
            found = vars(importlib.import_module(f"{package}.{_MODULE}"))
            if name in found:
                setattr(sys.modules[package], name, found[name])  # found at once from now on
                return found[name]
            if otherwise is not None:
                return otherwise(name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
