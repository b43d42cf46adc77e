"""Modules have PyTorch's constructor arguments, reprs, state_dict layout and results."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn

RNG = np.random.default_rng(1)

MODULES = [
    lambda nn: nn.Linear(3, 4),
    lambda nn: nn.Linear(3, 4, bias=False),
    lambda nn: nn.Bilinear(2, 3, 4),
    lambda nn: nn.Embedding(5, 3, padding_idx=-1, max_norm=2.0),
    lambda nn: nn.EmbeddingBag(5, 3, padding_idx=-1, max_norm=2.0, norm_type=1.0),
    lambda nn: nn.LayerNorm(4),
    lambda nn: nn.LayerNorm([3, 4], bias=False),
    lambda nn: nn.RMSNorm((4,), eps=1e-3),
    lambda nn: nn.GroupNorm(2, 6, affine=False),
    lambda nn: nn.ReLU(),
    lambda nn: nn.ReLU(inplace=True),
    lambda nn: nn.ReLU6(),
    lambda nn: nn.LeakyReLU(0.2, True),
    lambda nn: nn.ELU(),
    lambda nn: nn.CELU(0.5, True),
    lambda nn: nn.SELU(),
    lambda nn: nn.GELU("tanh"),
    lambda nn: nn.SiLU(),
    lambda nn: nn.Mish(inplace=True),
    lambda nn: nn.Softplus(2.0),
    lambda nn: nn.Softsign(),
    lambda nn: nn.Softshrink(0.3),
    lambda nn: nn.Hardshrink(),
    lambda nn: nn.Hardtanh(0.0, 6.0, True),
    lambda nn: nn.Hardsigmoid(),
    lambda nn: nn.Hardswish(),
    lambda nn: nn.Tanhshrink(),
    lambda nn: nn.Threshold(0.1, 2.0),
    lambda nn: nn.GLU(),
    lambda nn: nn.LogSigmoid(),
    lambda nn: nn.Softmax(dim=1),
    lambda nn: nn.Softmin(),
    lambda nn: nn.LogSoftmax(-1),
    lambda nn: nn.Softmax2d(),
    lambda nn: nn.PReLU(3),
    lambda nn: nn.RReLU(),
    lambda nn: nn.Sigmoid(),
    lambda nn: nn.Tanh(),
    lambda nn: nn.Dropout(0.1),
    lambda nn: nn.Dropout1d(),
    lambda nn: nn.Dropout2d(0.2, True),
    lambda nn: nn.Dropout3d(),
    lambda nn: nn.AlphaDropout(),
    lambda nn: nn.FeatureAlphaDropout(),
    lambda nn: nn.CosineSimilarity(),
    lambda nn: nn.PairwiseDistance(),
    lambda nn: nn.Identity(3, key=4),
    lambda nn: nn.Flatten(),
    lambda nn: nn.Unflatten(1, (2, 3)),
    lambda nn: nn.MSELoss(),
    lambda nn: nn.CrossEntropyLoss(),
    lambda nn: nn.Sequential(),
    lambda nn: nn.ModuleList(),
    lambda nn: nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()]),
    lambda nn: nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Sequential(nn.Tanh(), nn.ReLU())}),
    lambda nn: nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.Sequential(nn.ReLU()))),
    lambda nn: nn.MultiheadAttention(8, 2),
    lambda nn: nn.MultiheadAttention(8, 2, bias=False, kdim=4, vdim=6, add_bias_kv=True),
    lambda nn: nn.TransformerEncoderLayer(8, 2, 16),
    lambda nn: nn.TransformerDecoderLayer(8, 2, 16, activation=nn.GELU()),
    lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, bias=False), 2),
    lambda nn: nn.Transformer(8, 2, 2, 1, 16),
    lambda nn: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, norm_first=True), 2, nn.LayerNorm(8), False
    ),
]


@pytest.mark.parametrize("make", MODULES)
def test_repr_and_state(make: Any) -> None:
    ours, theirs = make(nn), make(torch.nn)
    text = repr(theirs).replace("NonDynamicallyQuantizableLinear", "Linear")
    assert repr(ours) == text
    mine, wanted = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(wanted)
    assert [tuple(v.shape) for v in mine.values()] == [tuple(v.shape) for v in wanted.values()]
    names = [name for name, _ in ours.named_modules()]
    assert names == [name for name, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


SAME_ARGUMENTS = sorted(
    name
    for name in nn.__all__
    if inspect.isclass(getattr(nn, name)) and name not in ("Module", "Parameter", "Buffer")
)


@pytest.mark.parametrize("name", SAME_ARGUMENTS)
def test_constructor_arguments(name: str) -> None:
    ours, theirs = _arguments(getattr(nn, name)), _arguments(getattr(torch.nn, name))
    if name in ("RNN", "LSTM", "GRU"):  # PyTorch's take any and hand them to their base
        other = ("mode", "kwargs", "nonlinearity", *(() if name == "LSTM" else ("proj_size",)))
        theirs = [a for a in _arguments(torch.nn.RNNBase) if a[0] not in other]
        ours = [a for a in ours if a[0] not in other]
    assert ours == theirs


def _arguments(cls: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults, of ``__new__`` where a class has no ``__init__`` of its own."""
    make = cls.__new__ if cls.__init__ is object.__init__ else cls.__init__
    found = list(inspect.signature(make).parameters.values())[1:]
    return [(p.name, p.kind, _plain(p.default)) for p in found]


def _plain(default: Any) -> Any:
    return default.__name__ if callable(default) and hasattr(default, "__name__") else default


@pytest.mark.parametrize("name", nn.init.__all__)
def test_init_arguments(name: str) -> None:
    ours = inspect.signature(getattr(nn.init, name)).parameters
    theirs = inspect.signature(getattr(torch.nn.init, name)).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("name", [n for n, f in vars(nn.utils).items() if callable(f)])
def test_utils_arguments(name: str) -> None:
    ours = inspect.signature(getattr(nn.utils, name)).parameters
    theirs = inspect.signature(getattr(torch.nn.utils, name)).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("nonlinearity", ["linear", "conv2d", "sigmoid", "tanh", "relu", "selu"])
def test_gain(nonlinearity: str) -> None:
    assert nn.init.calculate_gain(nonlinearity) == torch.nn.init.calculate_gain(nonlinearity)
    slope = nn.init.calculate_gain("leaky_relu", 0.3)
    assert slope == torch.nn.init.calculate_gain("leaky_relu", 0.3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("uniform_", (-2.0, 3.0)),
        ("normal_", (1.0, 2.0)),
        ("trunc_normal_", (0.5, 1.0, -1.0, 1.5)),
        ("xavier_uniform_", (1.5,)),
        ("xavier_normal_", ()),
        ("kaiming_uniform_", (0.2, "fan_out")),
        ("kaiming_normal_", (0, "fan_in", "relu")),
        ("constant_", (2.5,)),
    ],
)
def test_init_has_the_same_distribution(name: str, arguments: tuple[Any, ...]) -> None:
    ours = flamec.from_numpy(np.zeros((60, 400), np.float32))
    theirs = torch.zeros(60, 400)
    assert getattr(nn.init, name)(ours, *arguments) is ours
    getattr(torch.nn.init, name)(theirs, *arguments)
    a, b = ours.numpy(), theirs.numpy()
    spread = b.std() + 1e-6
    assert abs(a.mean() - b.mean()) < 0.05 * spread + 1e-6
    assert abs(a.std() - b.std()) < 0.03 * spread
    assert abs(a.min() - b.min()) < 0.8 * spread
    assert abs(a.max() - b.max()) < 0.8 * spread


def test_exact_init() -> None:
    for name, shape in (("eye_", (3, 5)), ("dirac_", (4, 3, 3)), ("ones_", (2,)), ("zeros_", (2,))):
        ours, theirs = flamec.from_numpy(np.full(shape, 7.0)), torch.full(shape, 7.0)
        getattr(nn.init, name)(ours)
        getattr(torch.nn.init, name)(theirs)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    square = nn.init.orthogonal_(flamec.from_numpy(np.zeros((4, 6))), gain=2.0).numpy()
    np.testing.assert_allclose(square @ square.T, 4 * np.eye(4), atol=1e-12)


def copied(module: Any, source: Any) -> Any:
    """flamec's ``module`` with the weights of PyTorch's ``source``."""
    state = {
        k: flamec.from_numpy(v.detach().numpy().copy()) for k, v in source.state_dict().items()
    }
    assert str(module.load_state_dict(state)) == "<All keys matched successfully>"
    return module


def _pair(make: Any, dtype: str = "double") -> tuple[Any, Any]:
    theirs = getattr(make(torch.nn), dtype)()
    return copied(getattr(make(nn), dtype)(), theirs), theirs


def _same(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(
        ours.detach().numpy(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance
    )


def _run(pair: tuple[Any, Any], *arrays: np.ndarray, **options: Any) -> None:
    """Compare results and parameter gradients."""
    ours, theirs = pair
    mine = ours(*(flamec.from_numpy(a) for a in arrays), **options)
    wanted = theirs(*(torch.from_numpy(a) for a in arrays), **options)
    _same(mine, wanted)
    (mine * mine).sum().backward()
    (wanted * wanted).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            _same(p.grad, q.grad)


def test_layers() -> None:
    x = RNG.standard_normal((5, 6))
    _run(_pair(lambda nn: nn.Linear(6, 3)), x)
    _run(_pair(lambda nn: nn.LayerNorm(6)), x)
    _run(_pair(lambda nn: nn.RMSNorm(6)), x)
    _run(_pair(lambda nn: nn.GroupNorm(3, 6)), x)
    _run(_pair(lambda nn: nn.PReLU(6)), x)
    _run(_pair(lambda nn: nn.Embedding(9, 4, padding_idx=3)), RNG.integers(0, 9, (4, 5)))
    _run(_pair(lambda nn: nn.Bilinear(6, 4, 2)), x, RNG.standard_normal((5, 4)))
    mlp = lambda nn: nn.Sequential(  # noqa: E731
        nn.Linear(6, 8),
        nn.GELU(),
        nn.LayerNorm(8),
        nn.Dropout(0.5),
        nn.Linear(8, 2),
        nn.Softmax(-1),
    )
    ours, theirs = _pair(mlp)
    _run((ours.eval(), theirs.eval()), x)


def test_float64_parameters_of_another_default_dtype() -> None:
    layer = nn.Linear(2, 3, dtype=flamec.float64)
    assert layer.weight.dtype is flamec.float64
    assert nn.Linear(2, 3).weight.dtype is flamec.float32


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder(batch_first: bool, norm_first: bool, activation: str) -> None:
    pair = _pair(
        lambda nn: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                8, 2, 16, 0.0, activation, batch_first=batch_first, norm_first=norm_first
            ),
            2,
            nn.LayerNorm(8),
            enable_nested_tensor=False,
        )
    )
    x = RNG.standard_normal((3, 5, 8))
    _run(pair, x)
    ours, theirs = pair
    length = 5 if batch_first else 3
    mask = np.triu(np.ones((length, length), bool), 1)
    mine = ours(flamec.from_numpy(x), mask=flamec.from_numpy(mask))
    _same(mine, theirs(torch.from_numpy(x), mask=torch.from_numpy(mask)))


def test_multihead_attention() -> None:
    for options in ({}, {"kdim": 4, "vdim": 6}, {"add_bias_kv": True}, {"bias": False}):
        ours, theirs = _pair(lambda nn, o=options: nn.MultiheadAttention(8, 2, **o))
        q = RNG.standard_normal((5, 3, 8))
        k = RNG.standard_normal((4, 3, options.get("kdim", 8)))
        v = RNG.standard_normal((4, 3, options.get("vdim", 8)))
        hidden = np.zeros((3, 4), bool)
        hidden[1, 2:] = True
        for need_weights in (True, False):
            for average in (True, False):
                mine = ours(
                    *map(flamec.from_numpy, (q, k, v)),
                    key_padding_mask=flamec.from_numpy(hidden),
                    need_weights=need_weights,
                    average_attn_weights=average,
                )
                wanted = theirs(
                    *map(torch.from_numpy, (q, k, v)),
                    key_padding_mask=torch.from_numpy(hidden),
                    need_weights=need_weights,
                    average_attn_weights=average,
                )
                _same(mine[0], wanted[0])
                assert (mine[1] is None) == (wanted[1] is None)
                if mine[1] is not None:
                    _same(mine[1], wanted[1])


def test_multihead_attention_without_batch() -> None:
    ours, theirs = _pair(lambda nn: nn.MultiheadAttention(8, 2))
    x = RNG.standard_normal((5, 8))
    mine = ours(*(flamec.from_numpy(x),) * 3)
    wanted = theirs(*(torch.from_numpy(x),) * 3)
    _same(mine[0], wanted[0])
    _same(mine[1], wanted[1])


LOSSES = {
    "MSELoss": lambda x, y: (x, y),
    "L1Loss": lambda x, y: (x, y),
    "SmoothL1Loss": lambda x, y: (x, y),
    "HuberLoss": lambda x, y: (x, y),
    "CrossEntropyLoss": lambda x, y: (x, np.arange(4) % 3),
    "NLLLoss": lambda x, y: (x, np.arange(4) % 3),
    "BCELoss": lambda x, y: (1 / (1 + np.exp(-x)), (y > 0) * 1.0),
    "BCEWithLogitsLoss": lambda x, y: (x, (y > 0) * 1.0),
    "KLDivLoss": lambda x, y: (x, np.abs(y)),
    "PoissonNLLLoss": lambda x, y: (x, np.abs(y)),
    "GaussianNLLLoss": lambda x, y: (x, y, np.abs(x) + 0.1),
    "HingeEmbeddingLoss": lambda x, y: (x, np.sign(y)),
    "MarginRankingLoss": lambda x, y: (x, y, np.sign(y)),
    "CosineEmbeddingLoss": lambda x, y: (x, y, np.sign(y[:, 0])),
    "SoftMarginLoss": lambda x, y: (x, np.sign(y)),
    "MultiLabelSoftMarginLoss": lambda x, y: (x, (y > 0) * 1.0),
    "MultiLabelMarginLoss": lambda x, y: (x, np.argsort(y, 1)),
    "MultiMarginLoss": lambda x, y: (x, np.arange(4) % 3),
    "TripletMarginLoss": lambda x, y: (x, y, y[::-1].copy()),
    "TripletMarginWithDistanceLoss": lambda x, y: (x, y, y[::-1].copy()),
}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_module(name: str, reduction: str) -> None:
    arrays = LOSSES[name](RNG.standard_normal((4, 3)), RNG.standard_normal((4, 3)))
    ours = getattr(nn, name)(reduction=reduction)(*map(flamec.from_numpy, arrays))
    theirs = getattr(torch.nn, name)(reduction=reduction)(*map(torch.from_numpy, arrays))
    _same(ours, theirs)


def test_every_loss_is_tested() -> None:
    from flamec.nn import loss

    assert set(loss.__all__) == {*LOSSES, "CTCLoss"}  # CTCLoss: test_ctc_parity.py


def test_clip_grad() -> None:
    arrays = [RNG.standard_normal(s) for s in ((3, 4), (5,), ())]
    for norm_type in (2.0, 1.0, np.inf, 3.0):
        ours = [flamec.from_numpy(np.zeros_like(a)) for a in arrays]
        theirs = [torch.zeros(a.shape, dtype=torch.float64) for a in arrays]
        for p, q, a in zip(ours, theirs, arrays, strict=True):
            p.grad, q.grad = flamec.from_numpy(np.array(a)), torch.tensor(a)
        total = nn.utils.clip_grad_norm_(ours, 0.7, norm_type)
        _same(total, torch.nn.utils.clip_grad_norm_(theirs, 0.7, norm_type))
        for p, q in zip(ours, theirs, strict=True):
            _same(p.grad, q.grad)
        nn.utils.clip_grad_value_(ours, 0.05)
        torch.nn.utils.clip_grad_value_(theirs, 0.05)
        for p, q in zip(ours, theirs, strict=True):
            _same(p.grad, q.grad)
