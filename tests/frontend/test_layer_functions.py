"""Functions of layers by NumPy formulas, dropout, initial values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import flamec
import flamec.nn.functional as F
from flamec import nn

RNG = np.random.default_rng(0)


def tensor(array: Any, requires_grad: bool = False) -> flamec.Tensor:
    result = flamec.from_numpy(np.array(array))
    result.requires_grad = requires_grad
    return result


def test_linear_relu_cross_entropy_by_hand() -> None:
    x, w = RNG.standard_normal((6, 4)), RNG.standard_normal((3, 4))
    b, y = RNG.standard_normal(3), RNG.integers(0, 3, 6)
    weight, bias = tensor(w, True), tensor(b, True)
    loss = F.cross_entropy(F.relu(F.linear(tensor(x), weight, bias)), tensor(y))
    z = x @ w.T + b
    a = np.maximum(z, 0)
    p = np.exp(a) / np.exp(a).sum(1, keepdims=True)
    assert math.isclose(loss.item(), -np.log(p[np.arange(6), y]).mean(), rel_tol=1e-12)
    loss.backward()
    g = (p - np.eye(3)[y]) / 6 * (z > 0)
    np.testing.assert_allclose(weight.grad.numpy(), g.T @ x, atol=1e-14)
    np.testing.assert_allclose(bias.grad.numpy(), g.sum(0), atol=1e-14)


def test_layer_norm_by_hand() -> None:
    x = RNG.standard_normal((5, 7))
    centered = x - x.mean(1, keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(tensor(x), (7,)).numpy(), expected, atol=1e-12)
    expected = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(F.rms_norm(tensor(x), (7,), eps=1e-3).numpy(), expected, atol=1e-12)


def test_softmax_does_not_overflow_in_half() -> None:
    x = np.array([[60000.0, 60000.0, -60000.0]], np.float16)
    result = F.softmax(tensor(x), dim=1)
    assert result.dtype is flamec.float16
    np.testing.assert_array_equal(result.numpy(), [[0.5, 0.5, 0.0]])


def test_padding_row_gets_no_gradient() -> None:
    layer = nn.Embedding(4, 2, padding_idx=0)
    assert not layer.weight.detach().numpy()[0].any()
    layer(tensor(np.array([0, 1, 1]))).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [0, 2, 0, 0])
    table = nn.Embedding.from_pretrained(flamec.ones(3, 2))
    assert not table.weight.requires_grad
    with pytest.raises(NotImplementedError, match="sparse"):
        nn.Embedding(3, 2, sparse=True)(tensor(np.array([0])))


# randomness -------------------------------------------------------------------------------


def test_dropout() -> None:
    flamec.manual_seed(0)
    x = tensor(np.ones((1000, 20), np.float32), True)
    y = F.dropout(x, 0.25)
    values = y.detach().numpy()
    np.testing.assert_allclose(np.unique(values), [0.0, 4 / 3], rtol=1e-6)
    assert abs((values == 0).mean() - 0.25) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), values)
    assert F.dropout(x, 0.5, training=False) is x
    assert not F.dropout(x, 1.0).detach().numpy().any()
    layer = nn.Dropout(0.5)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(-0.1)


def test_dropout_of_channels() -> None:
    x = tensor(np.ones((30, 8, 4, 5), np.float32))
    kept = F.dropout2d(x, 0.5).numpy()
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert (kept.std(axis=(2, 3)) == 0).all()
    assert (F.dropout1d(x[0, :, :, 0], 0.5).numpy().std(axis=1) == 0).all()
    assert (F.feature_alpha_dropout(x, 0.5, True).numpy().std(axis=(2, 3)) < 1e-6).all()


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = tensor(RNG.standard_normal((500, 100)))
    y = F.alpha_dropout(x, 0.3, training=True).numpy()
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02


def test_linear_initialisation() -> None:
    layer = nn.Linear(100, 50)
    bound = 1 / math.sqrt(100)
    for parameter in (layer.weight, layer.bias):
        values = parameter.detach().numpy()
        assert np.abs(values).max() <= bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.15 * bound
    flamec.manual_seed(3)
    first = nn.Linear(3, 3).weight.detach().numpy()
    flamec.manual_seed(3)
    np.testing.assert_array_equal(first, nn.Linear(3, 3).weight.detach().numpy())
