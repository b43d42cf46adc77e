"""The picture writer of the examples: its files keep the PNG format's rules."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from example_programs import program


def test_a_png_can_be_read(tmp_path: Path) -> None:
    images = program("images", "flamec", tmp_path)
    pictures = np.random.default_rng(0).random((7, 1, 8, 8))
    images.save_grid(tmp_path / "grid.png", pictures, columns=3, scale=2)
    data = (tmp_path / "grid.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (width, height, depth, colour) == (3 * 18, 3 * 18, 8, 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    second = lines[1:17, 20:36][::2, ::2]  # the second picture, a white line around each
    np.testing.assert_array_equal(second, np.rint(pictures[1, 0] * 255))
    assert (lines[37:, 19:] == 255).all()  # after the seventh there is nothing
