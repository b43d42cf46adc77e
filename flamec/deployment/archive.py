"""Zip archives whose manifest has a hash of every member: programs, and the kernel cache.

In: members as bytes and facts as JSON. Out: the same, checked. Invariant: a file in which any
byte of a member was altered, or a member added or removed, is refused before anything of it is
used. The hashes find damage; who can rewrite the whole file can rewrite them, too, and libraries
in it are machine code: load files only from people whose programs you would run.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from flamec.saving.errors import DAMAGED_ZIP, FileFormatError

MANIFEST = "manifest.json"
FORMAT = 1
PROGRAM, CACHE = "program", "cache"
_DATE = (1980, 1, 1, 0, 0, 0)  # equal contents make equal files


def write_archive(
    file: BinaryIO, kind: str, facts: Mapping[str, Any], members: Iterable[tuple[str, bytes]]
) -> None:
    """Write the members, then a manifest with the facts and the members' SHA-256 hashes."""
    hashes = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            hashes[name] = _digest(content)
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
        manifest = {"flamec": kind, "format": FORMAT, **facts, "members": hashes}
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()
        archive.writestr(zipfile.ZipInfo(MANIFEST, _DATE), text)
        archive.comment = _digest(text).encode()


def is_archive(file: BinaryIO) -> bool:
    """Whether a seekable file is such an archive; it is left where it was."""
    start = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            return MANIFEST in archive.namelist()
    except DAMAGED_ZIP:
        return False
    finally:
        file.seek(start)


class Archive:
    """An archive of the kind ``kind`` in a seekable file called ``name`` in errors.

    FileFormatError if it is of another kind, damaged, or was altered: of the manifest and the
    members' names at once, of a member when it is read.
    """

    def __init__(self, file: BinaryIO, name: str, kind: str) -> None:
        self.name = name
        try:
            self._archive = zipfile.ZipFile(file)
            text = self._archive.read(MANIFEST)
            if _digest(text).encode() != self._archive.comment:
                raise FileFormatError(f"{name}: {MANIFEST} was altered")
            self.manifest: dict[str, Any] = json.loads(text)
            found = self.manifest.get("flamec"), self.manifest.get("format")
            if found != (kind, FORMAT):
                raise FileFormatError(
                    f"{name} is a flamec {found[0]} of format {found[1]}; expected a {kind} of "
                    f"format {FORMAT}"
                )
            self._hashes: dict[str, str] = self.manifest["members"]
        except DAMAGED_ZIP as error:
            raise FileFormatError(f"{name} is no whole {kind} of flamec: {error}") from error
        present = self._archive.namelist()
        expected = [*self._hashes, MANIFEST]
        if sorted(present) != sorted(expected):
            differing = ", ".join(sorted(set(present) ^ set(expected))) or "one is there twice"
            raise FileFormatError(f"{name}: members were added or removed: {differing}")

    def __iter__(self) -> Any:
        return iter(self._hashes)

    def read(self, member: str) -> bytes:
        """The bytes of a member."""
        try:
            content = self._archive.read(member)
        except DAMAGED_ZIP as error:
            raise FileFormatError(f"{self.name}: {member} was altered ({error})") from error
        if _digest(content) != self._hashes[member]:
            raise FileFormatError(f"{self.name}: {member} was altered")
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
