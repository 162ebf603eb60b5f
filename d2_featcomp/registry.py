"""Registries: objects by name, of Python alone, so that a light installation has them, too."""

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Registry"]


class Registry:
    """Maps names to objects, as fvcore's class of this name does.

    Args:
        name (str): of the registry, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def _do_register(self, name: str, obj: Any) -> None:
        known = self._obj_map.get(name)
        if name in self._obj_map and (known is obj or _describe_place(known) != _describe_place(obj)):
            raise AssertionError(f"{name!r} is registered in {self._name!r} already")
        self._obj_map[name] = obj

    def register(self, obj: Any = None) -> Any:
        """Registers a class or function by its `__name__`; without an argument it is a decorator. What
        is defined once more in the same place, as by a cell of a notebook, takes the place of the first.

        Raises:
            AssertionError: its name is taken by something else.
        """
        if obj is None:
            decorate: Callable[[Any], Any] = self.register
            return decorate
        self._do_register(obj.__name__, obj)
        return obj

    def get(self, name: str) -> Any:
        """Returns what has that name; KeyError if there is none."""
        if name not in self._obj_map:
            raise KeyError(f"{name!r} is not registered in {self._name!r}")
        return self._obj_map[name]

    def __contains__(self, name: str) -> bool:
        return name in self._obj_map

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._obj_map.items())

    def __repr__(self) -> str:
        return f"Registry of {self._name}: {', '.join(self._obj_map) or 'empty'}"


def _describe_place(obj: Any) -> tuple[str, str]:
    return getattr(obj, "__module__", ""), getattr(obj, "__qualname__", repr(obj))
