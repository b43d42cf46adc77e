"""Objects from one process to another: large arrays in shared memory, the rest pickled.

Pickle's protocol 5 leaves the contents of arrays and tensors out; those of one message are
laid side by side in one anonymous memory file, whose descriptor goes over the socket. It
has no name, so nothing is left behind by a process that dies, and the memory is
returned when the last array that lies in it is gone. Where the system has no such files
the contents are sent through the socket.

Both ends are processes of one program; nothing here reads a file from outside.
"""

from __future__ import annotations

import mmap
import os
import pickle
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

__all__ = ["receive", "send"]

ALIGNMENT = 64
SMALLEST_SHARED = 1 << 14  # bytes of a message below which sharing costs more than copying


def send(connection: Connection, message: Any) -> None:
    """Send one message to the process at the other end."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = [part.nbytes for part in parts]
    if not hasattr(os, "memfd_create") or sum(sizes) < SMALLEST_SHARED:
        connection.send_bytes(pickle.dumps((content, sizes, [bytes(part) for part in parts], 0)))
        return
    total = sum(_padded(size) for size in sizes)
    descriptor = os.memfd_create("flamec-data", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, total)
        with mmap.mmap(descriptor, total) as memory:
            position = 0
            for part, size in zip(parts, sizes, strict=True):
                memory[position : position + size] = part
                position += _padded(size)
        connection.send_bytes(pickle.dumps((content, sizes, None, total)))
        send_handle(connection, descriptor, None)
    finally:
        os.close(descriptor)


def receive(connection: Connection) -> Any:
    """The next message; EOFError if the other end is gone."""
    content, sizes, parts, total = pickle.loads(connection.recv_bytes())
    if parts is not None:
        return pickle.loads(content, buffers=[bytearray(part) for part in parts])
    descriptor = recv_handle(connection)
    try:
        whole = memoryview(mmap.mmap(descriptor, total))
    finally:
        os.close(descriptor)
    buffers = []
    position = 0
    for size in sizes:
        buffers.append(whole[position : position + size])
        position += _padded(size)
    return pickle.loads(content, buffers=buffers)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
