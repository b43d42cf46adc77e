"""The error for files that cannot be read."""

from __future__ import annotations

__all__ = ["FileFormatError"]


class FileFormatError(RuntimeError):
    """A file is damaged, of another kind, or asks for what is not a tensor."""
