"""The file of an exported program: a zip archive whose manifest has a hash of every member.

In: members as bytes and facts as JSON. Out: the same, checked. Invariant: a file in which any
byte of a member was altered, or a member added or removed, is refused before anything of it is
used. The hashes find damage; who can rewrite the whole file can rewrite them, too, and libraries
in it are machine code: load files only from people whose programs you would run.

Members: ``manifest.json``, ``graph.txt`` (the traced graph), ``plan.json`` (buffers, steps and
sources of the kernels), ``weights.safetensors``, ``kernels/N.so`` or ``.cubin``.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

from flamec.saving.errors import FileFormatError

MANIFEST = "manifest.json"
FORMAT = 1
_DATE = (1980, 1, 1, 0, 0, 0)  # equal programs make equal files


def write_archive(file: BinaryIO, facts: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write the members, and a manifest with the facts and the members' SHA-256 hashes."""
    manifest: dict[str, Any] = {"flamec_program": FORMAT, **facts}
    manifest["members"] = {name: _digest(content) for name, content in members.items()}
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = _digest(text).encode()
        for name, content in ((MANIFEST, text), *members.items()):
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)


def is_program(file: BinaryIO) -> bool:
    """Whether a seekable file is the archive of a program; it is left where it was."""
    start = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()[:1] == [MANIFEST]
    except zipfile.BadZipFile:
        return False
    finally:
        file.seek(start)


def read_archive(file: BinaryIO, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the members; FileFormatError if anything does not match its hash."""
    try:
        with zipfile.ZipFile(io.BytesIO(file.read())) as archive:
            present = archive.namelist()
            text = archive.read(MANIFEST)
            if _digest(text).encode() != archive.comment:
                raise FileFormatError(f"{name}: {MANIFEST} was altered")
            manifest = json.loads(text)
            members = {m: archive.read(m) for m in present if m != MANIFEST}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise FileFormatError(f"{name} is no whole program file: {error}") from error
    if manifest.get("flamec_program") != FORMAT:
        raise FileFormatError(
            f"{name} has format {manifest.get('flamec_program')}; this flamec reads {FORMAT}"
        )
    expected = manifest["members"]
    if len(present) != len(set(present)) or set(members) != set(expected):
        differing = sorted(set(members) ^ set(expected))
        raise FileFormatError(f"{name}: members were added or removed: {', '.join(differing)}")
    for member, content in members.items():
        if _digest(content) != expected[member]:
            raise FileFormatError(f"{name}: {member} was altered")
    return manifest, members


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
