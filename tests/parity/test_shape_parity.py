"""Shape, indexing and scatter functions against PyTorch.

Compared: values, dtypes, aliasing, strides of views, gradients, kinds of errors.
One row a call: the name of the function, then its arguments (arrays become tensors,
floating-point ones require grad).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape))


def ints(*values: Any) -> np.ndarray:
    return np.array(values)


x, m, v, s0 = normal(2, 3, 4), normal(3, 4), normal(5), normal()
CASES: list[tuple[Any, ...]] = [
    ("reshape", x, (6, 4)),
    ("reshape", x, (-1, 4)),
    ("reshape", x, (5,)),
    ("reshape", x, (-1, -1)),
    ("reshape", x, (-1, 5)),
    ("reshape", normal(0, 3), (3, -1)),
    ("reshape", normal(0, 3), (0, -1)),
    ("view", x, (6, 4)),
    ("view", x, -1),
    ("view_as", x, normal(4, 6)),
    ("flatten", x),
    ("flatten", x, 1),
    ("flatten", x, 0, 1),
    ("flatten", s0),
    ("flatten", x, 2, 1),
    ("unflatten", x, 2, (2, 2)),
    ("unflatten", x, -1, (-1, 2)),
    ("unflatten", x, 1, (2, 2)),
    ("ravel", x),
    ("squeeze", normal(1, 3, 1)),
    ("squeeze", normal(1, 3, 1), 0),
    ("squeeze", normal(1, 3, 1), 1),
    ("squeeze", normal(1, 3, 1), (0, 2)),
    ("squeeze", s0, 0),
    ("unsqueeze", x, 0),
    ("unsqueeze", x, -1),
    ("unsqueeze", x, 3),
    ("unsqueeze", x, 5),
    ("unsqueeze", s0, 0),
    ("atleast_1d", s0),
    ("atleast_2d", v),
    ("atleast_3d", v),
    ("atleast_3d", m),
    ("atleast_2d", [v, s0]),
    ("broadcast_to", m, (2, 3, 4)),
    ("broadcast_to", m, (2, 3, 5)),
    ("broadcast_tensors", m, x),
    ("permute", x, (2, 0, 1)),
    ("permute", x, (0, 0, 1)),
    ("permute", x, (0, 1)),
    ("permute", x, (-1, 0, 1)),
    ("transpose", x, 0, 2),
    ("transpose", s0, 0, 0),
    ("transpose", x, 0, 3),
    ("swapaxes", x, 0, 1),
    ("swapdims", x, 0, 1),
    ("t", m),
    ("t", v),
    ("t", x),
    ("movedim", x, 0, 2),
    ("movedim", x, (0, 1), (2, 0)),
    ("moveaxis", x, -1, 0),
    ("movedim", x, (0, 0), (1, 2)),
    ("flip", x, (0,)),
    ("flip", x, (0, 2)),
    ("flip", x, (0, 0)),
    ("fliplr", m),
    ("flipud", m),
    ("fliplr", v),
    ("roll", x, 1),
    ("roll", x, (1, -2), (0, 2)),
    ("roll", x, 7, 1),
    ("roll", v, -13, 0),
    ("roll", normal(0, 3), 1, 0),
    ("roll", x, (1, 2)),
    ("rot90", m),
    ("rot90", m, 2),
    ("rot90", m, -1),
    ("rot90", x, 3, (1, 2)),
    ("rot90", m, 4),
    ("rot90", v),
    ("cat", [x, x]),
    ("cat", [x, x], 1),
    ("cat", [x, x], -1),
    ("cat", [x, normal(3, 3, 4)]),
    ("cat", [x, m]),
    ("cat", [normal(0), x]),
    ("cat", [s0, s0]),
    ("cat", [v, np.arange(3)]),
    ("cat", [np.arange(3), np.array([True])]),
    ("stack", [m, m]),
    ("stack", [m, m], -1),
    ("stack", [m, m], 1),
    ("stack", [m, v]),
    ("stack", [s0, s0]),
    ("hstack", [v, v]),
    ("hstack", [m, m]),
    ("hstack", [s0, s0]),
    ("vstack", [v, v]),
    ("vstack", [m, m]),
    ("dstack", [v, v]),
    ("dstack", [m, m]),
    ("column_stack", [v, v]),
    ("column_stack", [normal(3), m]),
    ("split", x, 2, 2),
    ("split", v, 2),
    ("split", v, [1, 4]),
    ("split", v, [1, 3]),
    ("split", v, 7),
    ("split", normal(0, 2), 2),
    ("chunk", v, 2),
    ("chunk", v, 3),
    ("chunk", v, 7),
    ("chunk", x, 2, -1),
    ("chunk", normal(0, 2), 3),
    ("chunk", v, 0),
    ("tensor_split", v, 3),
    ("tensor_split", v, (1, 3)),
    ("tensor_split", v, (3, 1, 7, -1)),
    ("tensor_split", x, 2, 2),
    ("hsplit", m, 2),
    ("vsplit", m, 3),
    ("dsplit", x, 2),
    ("hsplit", v, 5),
    ("vsplit", m, 2),
    ("unbind", x),
    ("unbind", x, 1),
    ("unbind", s0),
    ("narrow", x, 2, 1, 2),
    ("narrow", x, -1, -3, 2),
    ("narrow", x, 0, 1, 5),
    ("select", x, 1, -1),
    ("select", x, 0, 5),
    ("tile", x, (2,)),
    ("tile", x, (2, 1, 2)),
    ("tile", v, (2, 2)),
    ("tile", s0, (3,)),
    ("repeat_interleave", x, 2),
    ("repeat_interleave", x, 3, 1),
    ("repeat_interleave", v, ints(1, 2, 0, 3, 1)),
    ("repeat_interleave", ints(1, 2, 0)),
    ("repeat_interleave", m, ints(1, 0, 2), 0),
    ("repeat_interleave", m, ints(1, 2), 0),
    ("diagonal", x),
    ("diagonal", x, 1, 1, 2),
    ("diagonal", x, -1, 0, 2),
    ("diagonal", m, 5),
    ("diagonal", x, 0, 1, 1),
    ("diag", v),
    ("diag", v, 1),
    ("diag", v, -2),
    ("diag", m),
    ("diag", m, 1),
    ("diag", x),
    ("diag_embed", m),
    ("diag_embed", m, 1),
    ("diag_embed", m, -1, 0, 2),
    ("diag_embed", x, 0, 1, 3),
    ("diagflat", m, 1),
    ("tril", x),
    ("tril", m, 1),
    ("tril", m, -1),
    ("triu", m),
    ("triu", x, 2),
    ("triu", m, -5),
    ("tril", v),
    ("block_diag", m, v, s0),
    ("block_diag", m, ints(1, 2)),
    ("block_diag", x),
    ("block_diag",),
    ("tril_indices", 3, 4),
    ("tril_indices", 3, 4, 1),
    ("triu_indices", 3, 4, -1),
    ("tril_indices", 0, 3),
    ("meshgrid", v, normal(3)),
    ("cartesian_prod", v, normal(3)),
    ("cartesian_prod", v),
    ("combinations", v),
    ("combinations", v, 3),
    ("combinations", v, 2, True),
    ("combinations", v, 0),
    ("combinations", ints(1), 2),
    ("as_strided", x, (2, 3), (12, 4)),
    ("as_strided", x, (2, 3), (1, 2), 1),
    ("as_strided", x, (3,), (0,)),
    ("as_strided", x, (2, 2, 2), (12, 2, 5)),
    ("as_strided", x, (30,), (1,)),
    ("as_strided", x, (2, 3, 2), (12, 4, 1), 2),
    ("as_strided", m, (3, 3), (5, 1)),
    ("as_strided", m, (2, 0), (5, 1)),
    ("gather", m, 0, ints(*[[0, 1, 2, 0], [2, 2, 1, 0]])),
    ("gather", m, 1, ints(*[[0, 1], [2, 3], [3, 3]])),
    ("gather", m, 1, ints([-1])),
    ("gather", m, 1, ints([9])),
    ("gather", m, 0, ints([0, 1, 2, 3, 0])),
    ("gather", v, 0, ints(4, 4, 0)),
    ("gather", s0, 0, ints(0, 0)),
    ("gather", v, 0, np.array(2)),
    ("gather", m, 0, ints([0, 1, 2, 0, 1])),
    ("take", m, ints(0, 5, -1)),
    ("take", m, ints([[0, 11]])),
    ("take", m, ints(12)),
    ("take_along_dim", m, ints([[0], [1], [2]])[0], 1),
    ("take_along_dim", m, ints(3, 0)),
    ("take_along_dim", x, np.zeros((1, 3, 1), int), 2),
    ("index_select", x, 1, ints(2, 0)),
    ("index_select", x, 2, np.array(1)),
    ("index_select", x, 0, ints(2)),
    ("index_select", x, 0, ints(-1)),
    ("index_select", x, 0, ints([0])),
    ("index_select", s0, 0, ints(0)),
    ("scatter", m, 0, ints([0, 1, 2, 0]), normal(2, 4)),
    ("scatter", m, 1, ints([0, 1], [2, 3]), normal(3, 4)),
    ("scatter", m, 1, ints([0, 1]), 1.5),
    ("scatter", m, 1, ints([0, 7]), 1.5),
    ("scatter", m, 1, ints([0, -1]), 1.5),
    ("scatter", m, 0, ints([0, 1, 2, 0, 3]), 1.0),
    ("scatter_add", m, 0, ints([0, 1, 2, 0], [0, 0, 2, 1]), normal(2, 4)),
    ("scatter_add", m, 0, ints([0, 1, 2, 0], [0, 0, 2, 1]), normal(1, 4)),
    ("scatter_add", v, 0, ints(1, 1, 1), normal(3)),
    ("index_add", x, 1, ints(0, 0, 2), normal(2, 3, 4)),
    ("index_add", x, 1, ints(0, 5), normal(2, 2, 4)),
    ("index_add", v, 0, ints(1, 1), normal(2)),
    ("index_add", x, 1, ints(0), normal(2, 2, 4)),
    ("index_copy", x, 2, ints(3, 0), normal(2, 3, 2)),
    ("index_fill", x, 1, ints(0, 2), 2.5),
    ("index_fill", x, 1, ints(0, 2), normal()),
    ("index_fill", np.arange(4), 0, ints(1), 7),
    ("index_fill", np.arange(4), 0, ints(1), 7.5),
    ("masked_fill", m, m > 0, 1.0),
    ("masked_fill", m, normal(4) > 0, normal()),
    ("masked_fill", m, normal(2, 3, 4) > 0, 2),
    ("masked_fill", m, m, 2),
    ("masked_fill", m, m > 0, v),
    ("masked_fill", np.arange(3), ints(True, False, True), 2.5),
    ("masked_fill", np.arange(3), ints(True, False, True), 2),
    ("masked_select", m, m > 0),
    ("masked_select", m, normal(4) > 0),
    ("masked_scatter", m, m > 0, normal(20)),
    ("masked_scatter", m, m > 0, normal(1)),
    ("masked_scatter", m, normal(4) > 0, normal(4, 4)),
    ("put", m, ints(0, -1), normal(2)),
    ("put", m, ints([0, 1]), normal(2), True),
    ("put", m, ints(0, 1), normal(3)),
    ("select_scatter", x, normal(2, 4), 1, -1),
    ("select_scatter", x, normal(2, 3), 1, 0),
    ("slice_scatter", x, normal(2, 2, 4), 1, 1),
    ("slice_scatter", x, normal(2, 2, 4), 1, 0, None, 2),
    ("slice_scatter", x, normal(2, 3, 4)),
    ("diagonal_scatter", m, normal(3)),
    ("diagonal_scatter", m, normal(3), 1),
    ("diagonal_scatter", m, normal(2), 1),
    ("diagonal_scatter", x, normal(4, 2), 0, 0, 1),
    ("nonzero", m > 0),
    ("nonzero", s0),
    ("argwhere", x > 1),
    ("index_put", m, (ints(0, 1), ints(2, 3)), normal(2)),
    ("index_put", m, (ints(0, 0),), normal(4), True),
    ("index_put", x, (m[:2, :3] > 0,), normal()),
]

PLACES = ints([0, 1, 2, 0], [0, 0, 2, 1])
for how in ("sum", "prod", "mean", "amax", "amin"):
    for include in (True, False):
        CASES.append(("scatter_reduce", m, 0, PLACES, normal(2, 4), how, {"include_self": include}))
        CASES.append(
            ("scatter_reduce", np.arange(4), 0, ints(1, 1, 3), ints(5, 2, 7), how)
            if include
            else ("scatter_reduce", ints(1.0, 2.0), 0, ints(0, 0, 1), ints(0.0, 3.0, 2.0), how)
        )
CASES += [
    ("scatter_reduce", ints(1.0, 2.0), 0, ints(0, 0), ints(1.0, 1.0), "amax"),
    ("scatter_reduce", ints(3.0, 2.0), 0, ints(0, 0, 1), ints(0.0, 0.0, -2.0), "prod"),
    ("scatter_reduce", m, 0, PLACES, normal(2, 4), "median"),
    ("scatter", m, 0, PLACES, 2.0, {"reduce": "add"}),
    ("scatter", m, 0, PLACES, 2.0, {"reduce": "multiply"}),
    ("repeat", m, 2, 1),
    ("repeat", m, 2, 1, 1),
    ("repeat", m, 2),
    ("repeat", m, 0, 1),
    ("unfold", v, 0, 2, 1),
    ("unfold", x, 1, 2, 2),
    ("unfold", x, -1, 5, 1),
    ("expand", normal(3, 1), 2, 3, 4),
    ("expand", normal(3, 1), -1, 4),
    ("expand", normal(3, 1), -1, 3, 4),
    ("expand_as", normal(3, 1), m),
    ("contiguous", m),
    ("clone", m),
    ("split_with_sizes", v, (2, 3)),
    ("index_fill", m, 1, ints(0), 0.0),
]

# PyTorch's own derivative fails where the source is larger than the index
GRADIENT_IS_BROKEN = {("scatter", (1, 4)), ("scatter", (2, 2))}
METHODS = {"reshape", "view", "view_as"}
COPIES = {"unfold"}  # views in PyTorch, whose elements may overlap; here copies


def function(lib: ModuleType, name: str) -> Callable[..., Any]:
    found = getattr(lib.Tensor, name, None) if name in METHODS else getattr(lib, name, None)
    result: Callable[..., Any] = found or getattr(lib.Tensor, name)
    return result


def as_tensors(lib: ModuleType, argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return lib.tensor(argument, requires_grad=argument.dtype == np.float64)
    if isinstance(argument, list) and argument and isinstance(argument[0], np.ndarray):
        return [as_tensors(lib, a) for a in argument]
    if isinstance(argument, tuple):
        return tuple(as_tensors(lib, a) for a in argument)
    return argument


def leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, (tuple, list)):
        for part in structure:
            yield from leaves(part)
    elif isinstance(structure, (flamec.Tensor, torch.Tensor)):
        yield structure


def call(lib: ModuleType, name: str, arguments: Any) -> Any:
    options = {"indexing": "ij"} if name == "meshgrid" else {}
    if arguments and isinstance(arguments[-1], dict):
        *arguments, options = arguments
    try:
        return function(lib, name)(*arguments, **options)
    except Exception as error:
        return error


def shares(lib: ModuleType, result: Any, source: Any) -> bool:
    if lib is torch:
        return bool(result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr())
    return result._storage is source._storage


def gradients(lib: ModuleType, outputs: list[Any], inputs: list[Any]) -> list[Any]:
    tracked = [o for o in outputs if o.requires_grad]
    seeds = [
        lib.arange(1, o.numel() + 1, dtype=lib.float64).reshape(tuple(o.shape)) for o in tracked
    ]
    return list(lib.autograd.grad(tracked, inputs, seeds, allow_unused=True))


def label(row: tuple[Any, ...]) -> str:
    shown = (a.shape if isinstance(a, np.ndarray) else type(a).__name__ for a in row[1:])
    return f"{row[0]}-{'-'.join(map(str, shown))}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", CASES, ids=label)
def test_against_torch(row: tuple[Any, ...]) -> None:
    name, *arguments = row
    ours, theirs = as_tensors(flamec, tuple(arguments)), as_tensors(torch, tuple(arguments))
    got, want = call(flamec, name, ours), call(torch, name, theirs)
    if isinstance(want, Exception):
        assert isinstance(got, type(want)), f"{got!r} where PyTorch says {want!r}"
        assert "test_shape_parity.py" in str(got)
        return
    assert not isinstance(got, Exception), got
    outputs, expected = list(leaves(got)), list(leaves(want))
    inputs = [t for t in leaves(ours) if t.requires_grad]
    their_inputs = [t for t in leaves(theirs) if t.requires_grad]
    for a, b in zip(outputs, expected, strict=True):
        assert a.shape == tuple(b.shape)
        assert a.dtype.name == str(b.dtype).removeprefix("torch.")
        assert a.requires_grad == b.requires_grad
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
        if b.numel() and inputs:
            aliased = shares(torch, b, their_inputs[0])
            assert shares(flamec, a, inputs[0]) == (aliased and name not in COPIES)
            if aliased and name not in COPIES:
                assert (a.stride(), a.storage_offset()) == (b.stride(), b.storage_offset())
    if arguments and isinstance(arguments[-1], dict) and "reduce" in arguments[-1]:
        return  # PyTorch has no derivative
    if (
        not any(o.requires_grad for o in expected)
        or (name, _shape(arguments)) in GRADIENT_IS_BROKEN
    ):
        return
    pairs = zip(
        gradients(flamec, outputs, inputs), gradients(torch, expected, their_inputs), strict=True
    )
    for a, b in pairs:
        if a is None or b is None:
            assert all(g is None or not g.numpy().any() for g in (a, b))
        else:
            np.testing.assert_allclose(a.numpy(), b.numpy())


def _shape(arguments: list[Any]) -> tuple[int, ...] | None:
    index = arguments[2] if len(arguments) > 2 else None
    return index.shape if isinstance(index, np.ndarray) else None


@pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])
def test_gradients_of_strided_views_of_parts(wrap: Any) -> None:
    """By a tensor whose history begins with it, not with its storage; by a view; by a result."""
    begins: dict[str, Callable[[ModuleType], Any]] = {
        "leaf": lambda p: p.arange(6.0).detach().requires_grad_(),
        "leaf of a part": lambda p: p.arange(6.0)[1:].requires_grad_(),
        "leaf of other sizes": lambda p: p.arange(8.0).reshape(2, 4).requires_grad_(),
        "view": lambda p: p.arange(6.0).requires_grad_()[1:],
        "view of a leaf": lambda p: p.arange(6.0).detach().requires_grad_()[1:],
        "result": lambda p: p.arange(6.0).requires_grad_() * 2,
    }

    def gradient(framework: ModuleType, function: Any, begin: str) -> Any:
        x = begins[begin](framework)
        y = function(x)
        (found,) = framework.autograd.grad((y * y).sum(), x)
        return found.numpy()

    ours = wrap(lambda x: x.as_strided((2, 2), (2, 1)))
    for begin in begins:
        wanted = gradient(torch, lambda x: x.as_strided((2, 2), (2, 1)), begin)
        np.testing.assert_array_equal(gradient(flamec, ours, begin), wanted, begin)
