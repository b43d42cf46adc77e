"""Memory of a GPU as the host's control flow reads and writes it.

In: addresses on the device and a stream. Out: integers, once the stream is done. Errors that
kernels before have left are raised by the read that waits for them.
"""

from __future__ import annotations

import numpy as np

from flamec.runtime.cuda import transfer
from flamec.runtime.cuda.error_words import error_words
from flamec.runtime.cuda.stream import Stream


class DeviceControlMemory:
    """See ``ControlMemory`` in ``runtime/control_steps.py``."""

    def read_integer(self, address: int, nbytes: int, stream: Stream) -> int:
        """The integer of so many bytes at an address; waits for the stream."""
        word = np.zeros(nbytes, np.uint8)
        transfer.copy_to_host(word.ctypes.data, address, nbytes, stream)
        error = error_words().take()
        if error is not None:
            raise error
        return int.from_bytes(word.tobytes(), "little", signed=nbytes > 1)

    def write_integer(self, address: int, value: int, stream: Stream) -> None:
        """Store an int64."""
        word = np.array(value, np.int64)
        transfer.copy_to_device(address, word.ctypes.data, 8, stream)

    def copy(self, to: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copy within the device."""
        transfer.copy_on_device(to, source, nbytes, stream)

    def zero(self, to: int, nbytes: int, stream: Stream) -> None:
        """Set bytes to 0."""
        transfer.fill_bytes(to, 0, nbytes, stream)
