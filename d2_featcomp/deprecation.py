"""Earlier names of public functions and classes, which stay importable."""

import importlib
import warnings

__all__ = ["make_getattr"]


def make_getattr(package, renamed, moved=None):
    """Makes the `__getattr__` of a package whose public names have changed.

    Args:
        package (str): its `__name__`.
        renamed (dict[str, str]): earlier name -> name of today; taken with a DeprecationWarning.
        moved (dict[str, iterable[str]] or None): package that now holds them -> names that this one
            goes on giving.

    Returns:
        callable: str -> what has that name. AttributeError if there is none.
    """

    def find(name):
        if name in renamed:
            text = f"{package}.{name} is now called {renamed[name]}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(package), renamed[name])
        for other, names in (moved or {}).items():
            if name in names:
                return getattr(importlib.import_module(other), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
