"""``save`` and ``load``: nested Python structures with tensors, in one file.

The tensors are a safetensors file; the structure around them is JSON in its metadata
under the key ``flamec``, so that other programs read the tensors and nothing in a file is
ever executed. ``load`` also reads safetensors files of other programs and PyTorch's.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from flamec.ir.types import Device
from flamec.saving import safetensors_format, structure, torch_archive
from flamec.saving.errors import FileFormatError
from flamec.saving.placement import placement

__all__ = ["load", "save"]

STRUCTURE = "flamec"  # the key in the metadata

MapLocation = str | Device | dict[str, str] | None


def save(obj: Any, f: str | os.PathLike[str] | BinaryIO) -> None:
    """Write a tensor, a state_dict, or any nesting of containers, numbers, text and tensors.

    ``f``: a path or a binary file. A file appears at its path complete or not at all: it
    is written beside it, flushed to the disk and renamed. Tensors that are the same memory are
    stored once and share memory again when they are loaded; other views are stored as copies.

    Raises TypeError that names the place of what cannot be stored (objects, functions).
    """
    tensors: dict[str, Any] = {}
    tree = structure.encode(obj, tensors)
    metadata = {STRUCTURE: json.dumps(tree, separators=(",", ":"), allow_nan=False)}
    if not isinstance(f, (str, os.PathLike)):
        safetensors_format.write(f, tensors, metadata)
        return
    write_atomically(Path(f), lambda file: safetensors_format.write(file, tensors, metadata))


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a new file beside ``path`` and put it in ``path``'s place."""
    target = path.resolve()  # a link stays a link
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(target.stat().st_mode & 0o777 if target.exists() else _default_mode())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def load(
    f: str | os.PathLike[str] | BinaryIO,
    map_location: MapLocation = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
) -> Any:
    """What ``save`` or PyTorch's ``torch.save`` wrote, or a safetensors file as a dict.

    A file of ``export`` gives an ``ExportedProgram``, to be called with NumPy arrays; there is
    machine code in it, which its calls run.

    ``map_location``: the device for all tensors, or a dict from saved to wanted devices.
    ``mmap``: tensors of a path are read from the disk when they are used; a change stays in
    memory. Nothing else in a file is executed.

    Raises FileFormatError (a RuntimeError) for files that are damaged, of another kind, or
    that ask for anything but tensors and plain containers.
    """
    if not weights_only:
        raise ValueError(
            "load(weights_only=False) would execute what is in the file, which flamec never does; "
            "load the file with PyTorch and save its state_dict"
        )
    place = placement(map_location)
    if not isinstance(f, (str, os.PathLike)):
        if mmap:
            raise ValueError("load(mmap=True) needs a path, not an open file")
        return _load_from(f, "the file", None, place)
    path = Path(f)
    with path.open("rb") as file:
        return _load_from(file, str(path), path if mmap else None, place)


def _load_from(file: BinaryIO, name: str, mapped: Path | None, place: Any) -> Any:
    if not file.seekable():
        file = io.BytesIO(file.read())
    start = file.tell()
    first = file.read(9)
    file.seek(start)
    if first.startswith(b"PK\x03\x04"):
        from flamec.deployment.archive import is_archive

        if is_archive(file):
            from flamec.deployment.exported import ExportedProgram

            return ExportedProgram(file, name)
        return torch_archive.read(file, name, mapped, place)
    if first[:1] == b"\x80" and first[8:] != b"{":  # a length may begin so too
        raise FileFormatError(
            f"{name} is a bare pickle, perhaps of PyTorch before 1.6; load it with PyTorch and "
            "save its state_dict again"
        )
    tensors, metadata = safetensors_format.read(file, name, mapped, place)
    if STRUCTURE not in metadata:
        return {key: entry.tensor for key, entry in tensors.items()}
    try:
        tree = json.loads(metadata[STRUCTURE])
        return structure.decode(tree, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{name}: its structure cannot be read ({error!r})") from error
