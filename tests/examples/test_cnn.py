"""The convolutional example learns digits, and images in the form of CIFAR's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from example_programs import program

pytest.importorskip("sklearn")


@pytest.mark.parametrize(("model", "epochs", "bound"), [("cnn", 3, 0.9), ("resnet", 5, 0.85)])
def test_digits(
    model: str, epochs: int, bound: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the small ResNet five seeds gave 92% to 98%; after three epochs 59% to 93%, because the
    running statistics of its norms still lag."""
    main = program("cnn", "flamec", tmp_path).main
    losses, accuracy = main(["--model", model, "--channels", "8", "--epochs", str(epochs)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"accuracy on 360 unseen images: {accuracy:.1%}"
    assert accuracy > bound
    assert losses.shape == (22 * epochs,)
    assert losses[-22:].mean() < losses[:22].mean() / 4


def write_cifar(folder: Path, name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose label can be seen: the rows of a band are red, the others noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count).astype(np.uint8)
    images = random.integers(0, 128, (count, 3, 32, 32)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 * label : 3 * label + 3] = 255
    records = np.concatenate([labels[:, None], images.reshape(count, -1)], axis=1)
    records.tofile(folder / name)
    return images, labels


def test_a_folder_in_the_form_of_cifar(tmp_path: Path) -> None:
    write_cifar(tmp_path, "data_batch_1.bin", 300, seed=1)
    write_cifar(tmp_path, "data_batch_2.bin", 100, seed=2)
    images, labels = write_cifar(tmp_path, "test_batch.bin", 90, seed=3)
    cnn = program("cnn", "flamec", tmp_path)
    (train_images, train_labels), (x, y) = cnn.cifar(tmp_path)
    assert train_images.shape == (400, 3, 32, 32) and train_labels.dtype == np.int64
    np.testing.assert_array_equal(np.rint(x * 255), images)
    np.testing.assert_array_equal(y, labels)
    words = ["--channels", "4", "--epochs", "6", "--batch", "32", "--folder", str(tmp_path)]
    _, accuracy = cnn.main(words)
    assert accuracy > 0.6


def test_a_folder_that_is_no_such_data(tmp_path: Path) -> None:
    cifar = program("cnn", "flamec", tmp_path).cifar
    with pytest.raises(ValueError, match="has no files data_batch_"):
        cifar(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="100 bytes, which is no multiple of 3073"):
        cifar(tmp_path)
