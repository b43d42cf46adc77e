"""Where the inputs of a program come from at each call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flamec.tensor import Storage, Tensor


def fetch(container: Any, path: tuple[Any, ...]) -> Any:
    """``container[path[0]][path[1]]…``."""
    value = container
    for key in path:
        value = value[key]
    return value


@dataclass(frozen=True, eq=False)
class InputSource:
    """Where a graph input comes from at each call.

    ``kind``: ``"argument"`` (flattened argument ``position``), ``"captured"`` (the
    tensor ``held`` itself, or what ``owner`` has as its ``.grad``), ``"base"`` (the base of
    ``storage``, or of the storage of argument ``position``), or ``"number"`` (argument
    ``position`` itself, or the Python number that the keys ``path`` lead to in ``container``).
    """

    kind: str
    position: int = -1
    held: Tensor | None = None
    owner: Tensor | None = None
    storage: Storage | None = None
    container: Any = None
    path: tuple[Any, ...] = ()
    name: str = ""

    @property
    def tensor(self) -> Tensor | None:
        """The captured tensor; of a gradient the one that is there now."""
        return self.held if self.owner is None else self.owner._grad

    def read(self) -> Any:
        """The number in its container now."""
        return fetch(self.container, self.path)
