"""Random programs are traced by the thousand: what other tests left in memory is not looked at.

A trace asks the collector who refers to a function's code, which takes the longer the more objects
there are.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _old_objects_rest() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
