"""Pictures for the examples: reading handwritten digits and CIFAR's files, writing a PNG.

Everything here is NumPy. Images are float32 [N, channels, height, width] from 0 to 1, labels int64.
"""

import struct
import zlib
from pathlib import Path

import numpy as np


def digits():
    """scikit-learn's 1797 digits, [N, 1, 8, 8], with labels; the last fifth is for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    split = len(images) * 4 // 5
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def cifar(folder):
    """CIFAR-10 in its binary form, or any images in the same form: (training, testing).

    ``folder`` holds ``data_batch_*.bin`` and ``test_batch.bin`` (Krizhevsky 2009, "binary
    version"). An image is a record of 3073 bytes: its label, then 32 x 32 values of red, of
    green and of blue. ValueError if there are no such files or one does not consist of records.
    """
    folder = Path(folder)
    train = sorted(folder.glob("data_batch_*.bin"))
    if not train:
        raise ValueError(f"{folder} has no files data_batch_*.bin")
    return _records(train), _records([folder / "test_batch.bin"])


def _records(files):
    parts = []
    for file in files:
        data = np.fromfile(file, np.uint8)
        if data.size == 0 or data.size % 3073:
            raise ValueError(f"{file} has {data.size} bytes, which is no multiple of 3073")
        parts.append(data.reshape(-1, 3073))
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    return images, records[:, 0].astype(np.int64)


def save_grid(path, images, columns=10, scale=4):
    """Write images [N, 1, height, width] as one grey PNG; values beyond 0 and 1 are clipped.

    Each pixel becomes ``scale`` x ``scale`` pixels; two white lines separate the images.
    """
    images = np.clip(np.asarray(images), 0, 1)[:, 0]
    rows = -(-len(images) // columns)
    empty = np.ones((rows * columns - len(images), *images.shape[1:]))
    tiles = np.concatenate([images, empty]).repeat(scale, 1).repeat(scale, 2)
    tiles = np.pad(tiles, [(0, 0), (1, 1), (1, 1)], constant_values=1)
    height, width = tiles.shape[1:]
    grid = tiles.reshape(rows, columns, height, width).swapaxes(1, 2)
    write_png(path, np.rint(grid.reshape(rows * height, columns * width) * 255).astype(np.uint8))


def write_png(path, pixels):
    """A grey PNG of ``pixels`` [height, width], uint8 (PNG specification, sections 5 and 11)."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey
    lines = np.pad(pixels, [(0, 0), (1, 0)])  # each line begins with its filter: 0, none
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes()))
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))
