"""Files that only their owner may write and that several processes write at once.

In: paths. Out: checked folders, locks, whole files. Invariants: a file appears whole or not at
all; a lock is released by the system if its process dies.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

WRITING = ".writing-"  # what the names of files begin with that are not whole yet


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can use, or check one that is there.

    What lies there is trusted, so OSError if it belongs to someone else or others may write.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    if status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by other users")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then give it its own."""
    handle, name = tempfile.mkstemp(prefix=WRITING, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def locked(path: Path) -> int:
    """An open handle on the lock file that ``path`` names, locked for the caller alone.

    Whoever holds it may remove the file, so whoever waited checks that the name still means it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            current = path.stat()
            mine = os.fstat(handle)
            if (current.st_dev, current.st_ino) == (mine.st_dev, mine.st_ino):
                return handle
        except FileNotFoundError:
            pass  # removed by its last holder: lock the next one
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
