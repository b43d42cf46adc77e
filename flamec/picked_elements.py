"""Copies of elements that eager mode would give as views: ``x[i]`` where ``i`` is a tensor.

While a function is traced the place of such an element is not known, so it is looked up, which
gives a copy: the program need not be split. A copy is as good as the view until either of the two
memories is written to. In: what was picked from which memory. Out: PlaceWanted where the difference
would show; then the trace begins again, and the values of such indices are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.errors import CompileError, user_location
from flamec.ir.graph import Location
from flamec.tensor import Storage, Tensor

if TYPE_CHECKING:
    from flamec.roots import Root


class PlaceWanted(BaseException):  # code that handles errors must not handle it
    """The trace must start again, with views in place of copies."""

    def __init__(self) -> None:
        super().__init__("a view x[i], where i is a tensor, is changed in place")


@dataclass
class _Picked:
    """``version``: the source's when its element was picked; ``written``: the copy was since, at
    ``location``."""

    source: Storage
    index: Any
    version: int
    written: bool = False
    location: Location | None = None


class PickedElements:
    """Of one trace, whose memory is ``roots``. ``begins_again``: it can start again;
    ``reads_places``: it has, so that indices are read where that is possible."""

    def __init__(self, roots: Mapping[Storage, Root]) -> None:
        self._roots = roots
        self._found: dict[Storage, _Picked] = {}
        self._behind: set[Storage] = set()  # sources of copies that were written to
        self.begins_again = False
        self.reads_places = False

    def note(self, copy: Tensor, source: Tensor, index: Any) -> None:
        """``copy`` would be the view ``source[index]`` in eager mode."""
        root = self._roots.get(source._storage)
        if root is not None:
            self._found[copy._storage] = _Picked(source._storage, index, root.version)

    def read(self, tensor: Tensor) -> None:
        """``tensor`` is read: what was written to its source since would show, or to a copy."""
        if not self._found:
            return
        found = self._found.get(tensor._storage)
        if tensor._storage in self._behind or (found is not None and self._is_behind(found)):
            self._want_place(user_location())

    def write(self, tensor: Tensor) -> None:
        """``tensor`` is written to: through the view that would change its source."""
        found = self._found.get(tensor._storage)
        if found is not None:
            found.written, found.location = True, user_location()
            self._behind.add(found.source)

    def put_back(self, copy: Any, target: Tensor, index: Any) -> bool:
        """Whether ``target[index] = copy`` puts a copy back where it is from (``x[i] += 1``)."""
        found = self._found.get(copy._storage) if isinstance(copy, Tensor) else None
        if found is None or found.source is not target._storage or found.index is not index:
            return False
        if self._is_behind(found):
            return False
        del self._found[copy._storage]
        self._behind = {f.source for f in self._found.values() if f.written}
        return True

    def finish(self) -> None:
        """The function has returned."""
        for found in self._found.values():
            if found.written:
                self._want_place(found.location)

    def clear(self) -> None:
        """Let go of what was picked."""
        self._found.clear()
        self._behind.clear()

    def _is_behind(self, found: _Picked) -> bool:
        return self._roots[found.source].version != found.version

    def _want_place(self, location: Location | None) -> None:
        if self.begins_again and not self.reads_places:
            raise PlaceWanted
        raise CompileError(
            "x[i], where i is a tensor, is a copy while a function is traced here: it, or what it "
            f"is from, is changed in place and used afterwards (at {location}). Write "
            "x[i] = ... or x[i].clone()"
        )
