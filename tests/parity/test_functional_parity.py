"""Activations, normalisations and linear functions agree with PyTorch.

Results, gradients and second gradients in float64; results in float32 and
bfloat16; NaN, infinities and empty inputs.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from torch_comparison import compare, to_flamec, to_torch, torch

import flamec
import flamec.nn.functional as flamec_functional

torch_functional = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def between(low: float, high: float, *shape: int) -> np.ndarray:
    return RNG.uniform(low, high, shape)


def classes(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, count, shape)


# activations ---------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 1.5},
    "selu": {},
    "celu": {"alpha": 0.5},
    "gelu": {},
    "gelu_tanh": {"approximate": "tanh"},
    "silu": {},
    "mish": {},
    "softplus": {},
    "softplus_beta": {"beta": 2.0, "threshold": 3.0},
    "softsign": {},
    "softshrink": {"lambd": 0.3},
    "hardshrink": {"lambd": 0.3},
    "hardtanh": {"min_val": -0.5, "max_val": 1.0},
    "hardsigmoid": {},
    "hardswish": {},
    "tanhshrink": {},
    "threshold": {"threshold": 0.1, "value": 20.0},
    "logsigmoid": {},
    "sigmoid": {},
    "tanh": {},
    "rrelu": {},
    "softmax": {"dim": 1},
    "softmin": {"dim": 0},
    "log_softmax": {"dim": -1},
    "glu": {"dim": 0},
}
ROUNDED_ONCE = ("gelu", "gelu_tanh", "silu", "mish", "elu", "selu", "celu", "hardswish", "softplus")
NO_SECOND = {
    "hardsigmoid",
    "hardswish",
    "rrelu",
}  # PyTorch has no second derivative, or no fixed slope


def _activation(name: str) -> Any:
    options = ACTIVATIONS[name]
    function = name.removesuffix("_tanh").removesuffix("_beta")
    return lambda F, x: getattr(F, function)(x, **options)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    call, constant = _activation(name), None
    if name == "hardsigmoid":
        constant = 1e-7  # PyTorch keeps its 1/6 in float32
    compare(call, [normal(4, 6) * 3], second=name not in NO_SECOND, tolerance=constant)
    compare(call, [(normal(4, 6) * 8).astype(np.float32)], second=False, tolerance=5e-6)
    compare(call, [normal(0, 3)], second=False)
    moved = np.moveaxis(normal(3, 4, 2), 0, 2).copy()
    compare(call, [moved], second=False, tolerance=constant)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in ("glu", "gelu", "gelu_tanh")])
def test_activation_of_special_values(name: str) -> None:
    x = np.array([[0.0, -0.0, 1e4, -1e4, 1e-30], [np.nan, np.inf, -np.inf, 88.0, -104.0]])
    compare(_activation(name), [x], gradients=False)
    finite = np.array([[0.0, 1e4, -1e4, 50.0, -50.0], [20.0, 19.9, 1e-8, -1e-8, 700.0]])
    compare(_activation(name), [finite], second=False, tolerance=1e-9)


@pytest.mark.parametrize("name", ROUNDED_ONCE)
def test_activation_in_bfloat16_is_rounded_once(name: str) -> None:
    x = (normal(6, 8) * 2).astype(np.float32)
    call = _activation(name)
    ours = call(flamec_functional, flamec.from_numpy(x.astype(ml_dtypes.bfloat16)))
    theirs = call(torch_functional, torch.from_numpy(x).bfloat16())
    np.testing.assert_allclose(
        ours.float().numpy(), theirs.float().numpy(), rtol=2**-8, atol=2**-12
    )


@pytest.mark.parametrize("name", ["relu", "elu", "selu", "celu", "leaky_relu", "hardtanh", "rrelu"])
def test_in_place_activation(name: str) -> None:
    def call(F: Any, x: Any) -> Any:
        y = x * 1.5
        result = getattr(F, f"{name}_")(y)
        assert result is y
        return result

    compare(call, [normal(3, 4)], second=False)


@pytest.mark.parametrize("name", ["relu", "silu", "mish", "hardswish", "hardsigmoid", "relu6"])
def test_inplace_argument(name: str) -> None:
    compare(
        lambda F, x: getattr(F, name)(x * 2.0, inplace=True),
        [normal(3, 4)],
        second=False,
        tolerance=1e-8,
    )


def test_threshold_in_place() -> None:
    compare(lambda F, x: F.threshold_(x * 1.0, 0.1, 2.0), [normal(3, 4)])


def test_prelu() -> None:
    compare(lambda F, x, w: F.prelu(x, w), [normal(3, 4, 2), normal(4)])
    compare(lambda F, x, w: F.prelu(x, w), [normal(3, 4), normal(1)])
    compare(lambda F, x, w: F.prelu(x, w), [normal(5), normal(1)])


def test_relu_of_integers() -> None:
    compare(lambda F, x: F.relu(x), [RNG.integers(-5, 5, (3, 3))])
    compare(lambda F, x: F.relu6(x), [RNG.integers(-9, 9, (3, 3))])


def test_softmax_converts_first() -> None:
    x = normal(3, 4).astype(np.float32)
    ours = flamec_functional.softmax(to_flamec(x), dim=1, dtype=flamec.float64)
    theirs = torch_functional.softmax(to_torch(x), dim=1, dtype=torch.float64)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-14)
    integers = np.arange(6).reshape(2, 3)
    ours = flamec_functional.log_softmax(to_flamec(integers), 1, dtype=flamec.float32)
    theirs = torch_functional.log_softmax(to_torch(integers), 1, dtype=torch.float32)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


def test_softmax_of_empty_and_scalar() -> None:
    compare(lambda F, x: F.softmax(x, dim=1), [normal(3, 0)], second=False)
    compare(lambda F, x: F.log_softmax(x, dim=0), [normal(3, 0)], second=False)
    compare(lambda F, x: F.softmax(x, dim=0), [np.array(2.0)], second=False)
    compare(lambda F, x: F.log_softmax(x, dim=-1), [np.array(2.0)], second=False)


def test_implicit_dimension_warns() -> None:
    with pytest.warns(UserWarning, match="Implicit dimension"):
        ours = flamec_functional.softmax(to_flamec(normal(2, 3)))
    np.testing.assert_allclose(ours.numpy().sum(1), 1.0)


def test_gumbel_softmax_is_a_distribution() -> None:
    logits = to_flamec(normal(50, 4), requires_grad=True)
    soft = flamec_functional.gumbel_softmax(logits, tau=0.7)
    np.testing.assert_allclose(soft.detach().numpy().sum(-1), 1.0)
    hard = flamec_functional.gumbel_softmax(logits, tau=0.7, hard=True)
    assert set(np.unique(np.round(hard.detach().numpy(), 9))) == {0.0, 1.0}
    hard.sum().backward()
    assert logits.grad is not None


# distances -----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3, 0.5, math.inf])
def test_normalize(p: float) -> None:
    compare(lambda F, x: F.normalize(x, p=p, dim=(0, -1)), [normal(3, 4, 2)], second=p != math.inf)
    compare(lambda F, x: F.normalize(x, p=p, dim=1), [normal(3, 4, 2)], second=p != math.inf)


def test_normalize_zero_row() -> None:
    x = normal(3, 4)
    x[1] = 0
    compare(lambda F, x: F.normalize(x, dim=1), [x], second=False)


def test_cosine_similarity() -> None:
    compare(lambda F, a, b: F.cosine_similarity(a, b), [normal(3, 4), normal(3, 4)])
    compare(lambda F, a, b: F.cosine_similarity(a, b, dim=-1), [normal(5, 1, 4), normal(2, 4)])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_pairwise_distance(p: float) -> None:
    compare(lambda F, a, b: F.pairwise_distance(a, b, p=p), [normal(3, 4), normal(3, 4)])
    compare(lambda F, a, b: F.pairwise_distance(a, b, p, keepdim=True), [normal(3, 4), normal(4)])


# normalisation -------------------------------------------------------------------------


def test_layer_norm() -> None:
    compare(lambda F, x: F.layer_norm(x, (6,)), [normal(4, 6)])
    compare(
        lambda F, x, w, b: F.layer_norm(x, (3, 4), w, b, eps=1e-3),
        [normal(5, 3, 4), normal(3, 4), normal(3, 4)],
    )
    x = (100 + normal(4, 64)).astype(np.float32)
    compare(lambda F, x: F.layer_norm(x, (64,)), [x], second=False, tolerance=2e-4)


def test_rms_norm() -> None:
    compare(lambda F, x: F.rms_norm(x, (6,)), [normal(4, 6)])
    compare(lambda F, x, w: F.rms_norm(x, (6,), w, 1e-5), [normal(2, 4, 6), normal(6)])


def test_group_norm() -> None:
    compare(lambda F, x: F.group_norm(x, 2), [normal(3, 4, 5)])
    compare(
        lambda F, x, w, b: F.group_norm(x, 3, w, b, 1e-4),
        [normal(2, 6, 2, 2), normal(6), normal(6)],
    )


# linear --------------------------------------------------------------------------------


def test_linear() -> None:
    compare(lambda F, x, w: F.linear(x, w), [normal(3, 4), normal(5, 4)])
    compare(lambda F, x, w, b: F.linear(x, w, b), [normal(2, 3, 4), normal(5, 4), normal(5)])
    compare(lambda F, x, w, b: F.linear(x, w, b), [normal(4), normal(5, 4), normal(5)])
    compare(lambda F, x, w: F.linear(x, w), [normal(2, 4), normal(4)])
    compare(lambda F, x, w: F.linear(x, w), [normal(0, 4), normal(5, 4)], second=False)


def test_bilinear() -> None:
    compare(
        lambda F, a, b, w, c: F.bilinear(a, b, w, c),
        [normal(6, 2), normal(6, 3), normal(4, 2, 3), normal(4)],
    )


def test_embedding() -> None:
    index = classes(7, 3, 5)
    compare(lambda F, i, w: F.embedding(i, w), [index, normal(7, 4)])
    compare(lambda F, i, w: F.embedding(i, w, padding_idx=2), [index, normal(7, 4)], second=False)
    compare(lambda F, i, w: F.embedding(i.int(), w, padding_idx=-1), [index, normal(7, 4)])


def test_embedding_max_norm() -> None:
    index, weight = np.array([1, 3, 3]), normal(5, 4) * 3
    ours, theirs = to_flamec(weight), to_torch(weight)
    result = flamec_functional.embedding(to_flamec(index), ours, max_norm=1.0)
    expected = torch_functional.embedding(to_torch(index), theirs, max_norm=1.0)
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


def test_one_hot() -> None:
    compare(lambda F, x: F.one_hot(x), [classes(4, 3, 2)])
    compare(lambda F, x: F.one_hot(x, 6), [classes(4, 5)])


def test_pad() -> None:
    compare(lambda F, x: F.pad(x, (1, 2)), [normal(3, 4)])
    compare(lambda F, x: F.pad(x, (1, -2, 0, 3), value=2.5), [normal(2, 3, 4)])
    compare(lambda F, x: F.pad(x, (-1, -1)), [normal(3, 4)])
    compare(lambda F, x: F.pad(x, (1, 1), "constant", 7), [classes(5, 3)])


# attention -----------------------------------------------------------------------------


def _attention(**options: Any) -> Any:
    return lambda F, q, k, v, *mask: F.scaled_dot_product_attention(q, k, v, *mask, **options)


def test_attention() -> None:
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 6, 4), normal(2, 3, 6, 7)
    compare(_attention(), [q, k, v])
    compare(_attention(is_causal=True, scale=0.3), [q, k, v])
    compare(_attention(), [q, k, v, normal(5, 6)])
    compare(_attention(), [q[0, 0], k[0, 0], v[0, 0]])
    compare(_attention(), [normal(2, 4, 5, 4), normal(1, 4, 6, 4), normal(2, 1, 6, 7)])


def test_attention_with_mask() -> None:
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 6, 4), normal(2, 3, 6, 7)
    mask = RNG.random((2, 1, 5, 6)) < 0.6
    mask[..., 0, :] = False  # a row in which nothing takes part gives 0
    compare(_attention(), [q, k, v, mask], second=False)


def test_attention_with_grouped_heads() -> None:
    q, k, v = normal(2, 6, 5, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4)
    compare(_attention(enable_gqa=True), [q, k, v], second=False)


# errors and signatures -----------------------------------------------------------------

ERRORS = {
    "linear shapes": lambda F, t: F.linear(t(normal(2, 3)), t(normal(4, 5))),
    "linear dtypes": lambda F, t: F.linear(t(normal(2, 3)), t(normal(4, 3).astype(np.float32))),
    "layer_norm shape": lambda F, t: F.layer_norm(t(normal(2, 3)), (4,)),
    "group_norm groups": lambda F, t: F.group_norm(t(normal(2, 3)), 2),
    "glu odd": lambda F, t: F.glu(t(normal(2, 3))),
    "gelu approximate": lambda F, t: F.gelu(t(normal(2, 3)), approximate="fast"),
    "softmax of integers": lambda F, t: F.softmax(t(classes(3, 4)), dim=0),
    "softmax dim": lambda F, t: F.softmax(t(normal(2, 3)), dim=2),
    "sigmoid-like of integers": lambda F, t: F.silu(t(classes(3, 4))),
    "class out of range": lambda F, t: F.cross_entropy(t(normal(2, 3)), t(np.array([0, 3]))),
    "negative class": lambda F, t: F.cross_entropy(t(normal(2, 3)), t(np.array([0, -1]))),
    "batch sizes": lambda F, t: F.cross_entropy(t(normal(2, 3)), t(np.array([0, 1, 2]))),
    "class dtype": lambda F, t: F.nll_loss(t(normal(2, 3)), t(np.array([0, 1], np.int32))),
    "class weights": lambda F, t: F.nll_loss(t(normal(2, 3)), t(np.array([0, 1])), t(normal(4))),
    "label_smoothing": lambda F, t: F.cross_entropy(
        t(normal(2, 3)), t(np.array([0, 1])), label_smoothing=1.5
    ),
    "reduction": lambda F, t: F.mse_loss(t(normal(2)), t(normal(2)), reduction="average"),
    "bce sizes": lambda F, t: F.binary_cross_entropy(t(between(0, 1, 2)), t(normal(3))),
    "bce range": lambda F, t: F.binary_cross_entropy(t(normal(9) * 9), t(between(0, 1, 9))),
    "bce logits sizes": lambda F, t: F.binary_cross_entropy_with_logits(t(normal(2)), t(normal(3))),
    "embedding index": lambda F, t: F.embedding(t(np.array([5])), t(normal(5, 2))),
    "embedding negative": lambda F, t: F.embedding(t(np.array([-1])), t(normal(5, 2))),
    "embedding float": lambda F, t: F.embedding(t(normal(3)), t(normal(5, 2))),
    "dropout p": lambda F, t: F.dropout(t(normal(3)), 1.5),
    "one_hot negative": lambda F, t: F.one_hot(t(np.array([-1]))),
    "one_hot classes": lambda F, t: F.one_hot(t(np.array([3])), 3),
    "pad count": lambda F, t: F.pad(t(normal(3)), (1,)),
    "huber delta": lambda F, t: F.huber_loss(t(normal(3)), t(normal(3)), delta=-1.0),
    "attention mask": lambda F, t: F.scaled_dot_product_attention(
        t(normal(3, 4)), t(normal(3, 4)), t(normal(3, 4)), t(normal(3, 3)), is_causal=True
    ),
    "margin": lambda F, t: F.triplet_margin_loss(
        t(normal(2, 3)), t(normal(2, 3)), t(normal(2, 3)), margin=-1.0
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(name: str) -> None:
    call = ERRORS[name]
    with pytest.raises(Exception) as theirs:
        call(torch_functional, to_torch)
    with pytest.raises(Exception) as ours:
        call(flamec_functional, to_flamec)
    kinds = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
    wanted = next(k for k in kinds if isinstance(theirs.value, k))
    if wanted is not NotImplementedError:
        assert isinstance(ours.value, wanted), (ours.value, theirs.value)
    assert __file__ in str(ours.value), "the error names the user's line"


@pytest.mark.parametrize("name", flamec_functional.__all__)
def test_signature(name: str) -> None:
    """Argument names, order and defaults are PyTorch's, where Python can tell them."""
    try:
        wanted = inspect.signature(getattr(torch_functional, name)).parameters
    except ValueError:
        pytest.skip("PyTorch's is a builtin")
    signature = inspect.signature(getattr(flamec_functional, name))
    ours = {k: p for k, p in signature.parameters.items() if k != "out" or k in wanted}
    if set(wanted) == {"args", "kwargs"}:
        pytest.skip("PyTorch's is a wrapper")
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in wanted.values()
    ]
