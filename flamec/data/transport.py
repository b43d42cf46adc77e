"""Objects from one process to another: large arrays in shared memory, the rest pickled.

Pickle's protocol 5 leaves the contents of arrays and tensors out; those of one message are
laid side by side in one anonymous memory file (``flamec.data.shared_files``), whose descriptor
goes over the socket when the file is used for the first time. Where the system has no such
files the contents are sent through the socket.

Both ends are processes of one program; nothing here reads a file from outside.
"""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np

from flamec.data.shared_files import HAS_FILES, LentFiles, ReceivedFiles

__all__ = ["Channel"]

ALIGNMENT = 64
SMALLEST_SHARED = 1 << 14  # bytes of a message below which sharing costs more than copying


class Channel:
    """One end of a connection. One thread may send while another receives.

    The arrays of a message lie in a memory file, which goes back to the sender when the last of
    them is gone, with the next message of the other direction.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lent = LentFiles()
        self._received = ReceivedFiles()

    def send(self, message: Any) -> None:
        """Send one message to the process at the other end."""
        buffers: list[pickle.PickleBuffer] = []
        content = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
        parts = [buffer.raw() for buffer in buffers]
        sizes = [part.nbytes for part in parts]
        returned = self._received.returned()
        if not HAS_FILES or sum(sizes) < SMALLEST_SHARED:
            inside = [bytes(part) for part in parts]
            self.connection.send_bytes(pickle.dumps((content, sizes, returned, inside, None)))
            return
        file = self._lent.lend(sum(_padded(size) for size in sizes))
        position = 0
        for part, size in zip(parts, sizes, strict=True):
            np.copyto(file.content[position : position + size], np.frombuffer(part, np.uint8))
            position += _padded(size)
        where = file.number, file.size, file.is_new, self._lent.dropped()
        self.connection.send_bytes(pickle.dumps((content, sizes, returned, None, where)))
        if file.is_new:
            send_handle(self.connection, file.descriptor, None)
            file.close_descriptor()

    def receive(self) -> Any:
        """The next message; EOFError if the other end is gone."""
        content, sizes, returned, inside, where = pickle.loads(self.connection.recv_bytes())
        self._lent.take_back(returned)
        if inside is not None:
            return pickle.loads(content, buffers=[bytearray(part) for part in inside])
        number, total, is_new, dropped = where
        self._received.forget(dropped)
        if is_new:
            self._received.add(number, recv_handle(self.connection), total)
        whole = self._received.borrowed(number).data
        buffers = []
        position = 0
        for size in sizes:
            buffers.append(whole[position : position + size])
            position += _padded(size)
        return pickle.loads(content, buffers=buffers)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
