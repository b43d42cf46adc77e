"""Where the inputs of a program come from at each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.tensor import Storage, Tensor

if TYPE_CHECKING:
    from flamec.host_numbers import Expression


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
    ``storage``, or of the storage of argument ``position``), or ``"number"`` (the Python number
    that the keys ``path`` lead to in ``container``, or what ``expression`` is in Python).
    """

    kind: str
    position: int = -1
    held: Tensor | None = None
    owner: Tensor | None = None
    storage: Storage | None = None
    container: Any = None
    path: tuple[Any, ...] = ()
    expression: Expression | None = None
    name: str = ""

    @property
    def tensor(self) -> Tensor | None:
        """The captured tensor; of a gradient the one that is there now."""
        return self.held if self.owner is None else self.owner._grad

    def read(self, leaves: Sequence[Any], sizes: Mapping[str, int]) -> Any:
        """The number in a call with these arguments and values of symbols."""
        if self.expression is not None:
            return self.expression.evaluate(leaves, sizes)
        return fetch(self.container, self.path)

    @property
    def moment(self) -> int:
        """After how many actions of the call it is read (``host_state.py``)."""
        return 0 if self.expression is None else self.expression.moment
