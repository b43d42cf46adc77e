"""The errors for files that cannot be read, and what reading a damaged zip file raises."""

from __future__ import annotations

import struct
import zipfile
import zlib

__all__ = ["DAMAGED_ZIP", "FileFormatError", "MissingDeviceError"]

# of zipfile.ZipFile, for a directory, a member's header or a member that was altered
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, OSError),
    *(struct.error, zlib.error),
)


class FileFormatError(RuntimeError):
    """A file is damaged, of another kind, or asks for what is not a tensor."""


class MissingDeviceError(RuntimeError):
    """A tensor was saved on a device that is not here, and nothing says where it is to go."""
