"""The user's source lines, shown beside what became of them."""

from __future__ import annotations

import linecache
from pathlib import PurePath

from flamec.ir.graph import Location


def source_text(location: Location) -> str:
    """The line itself, stripped; empty if the file cannot be read."""
    return linecache.getline(location.file, location.line).strip()


def describe_location(location: Location, scope: str = "") -> str:
    """``model.py:12 in step (layers.0): h = relu(x)``, as far as known."""
    text = f"{PurePath(location.file).name}:{location.line}"
    if location.function:
        text += f" in {location.function.rpartition('.')[2]}"
    if scope:
        text += f" ({scope})"
    source = source_text(location)
    return f"{text}: {source}" if source else text


def describe_place(place: str) -> str:
    """As above, for a location that a plan or kernel keeps as ``FILE:LINE``."""
    file, _, line = place.rpartition(":")
    if not file or not line.isdigit():
        return place
    return describe_location(Location(file, int(line)))
