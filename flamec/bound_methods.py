"""What a compiled function needs as a member of classes and modules: one for each instance, a name.

In: instances, as Python looks methods up, and how a method of one is made. Out: the method of each.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from flamec.runtime.fork_locks import held_in_forks

Method = TypeVar("Method")
_MOST = 256  # instances whose methods, with their programs, are kept


class BoundMethods(Generic[Method]):
    """The methods of instances, which these keep alive; those asked for first go first.

    Instances that are equal are still two, and need be neither hashable nor weakly referable.
    """

    def __init__(self) -> None:
        self._methods: OrderedDict[int, Method] = OrderedDict()
        self._lock = held_in_forks(threading.Lock())

    def of(self, instance: Any, make: Callable[[], Method]) -> Method:
        """The method of an instance, of which it must hold a reference."""
        key = id(instance)
        method = self._methods.get(key)
        if method is None:
            made = make()
            with self._lock:
                method = self._methods.setdefault(key, made)
                if len(self._methods) > _MOST:
                    self._methods.popitem(last=False)
        return method


def name_of(value: Any) -> str | None:
    """The qualified name by which its module has an object, for pickle; None if it has not."""
    name: str = getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is value else None
