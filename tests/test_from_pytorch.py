"""The table of docs/FROM_PYTORCH.md: one test for each row, which fails if the row is untrue."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import differences_of_settings  # noqa: F401  # whose rows are tested here
import ml_dtypes
import numpy as np
import pytest
from differences import ROWS, raises, row

import flamec
from flamec import nn

torch = pytest.importorskip("torch")

PAGE = Path(__file__).parents[1] / "docs" / "FROM_PYTORCH.md"


def titles() -> list[str]:
    lines = PAGE.read_text().splitlines()
    cells = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.startswith("| ")]
    assert all(len(c) == 3 for c in cells)
    return [c[0] for c in cells[1:]]


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert sorted(titles()) == sorted(ROWS)


@pytest.mark.parametrize("title", titles())
def test_row(title: str, tmp_path: Path) -> None:
    test = ROWS[title]
    test(tmp_path) if test.__code__.co_argcount else test()


@row("saving")
def _(folder: Path) -> None:
    torch.save({"x": folder}, folder / "own.pt")
    raises(lambda: flamec.save({"x": folder}, folder / "own"))
    state = {"w": torch.tensor([1.0, 2.0])}
    torch.save(state, folder / "theirs.pt")
    assert flamec.load(folder / "theirs.pt")["w"].tolist() == [1.0, 2.0]


@row("dtypes")
def _() -> None:
    for name in ("complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "qint8"):
        assert hasattr(torch, name) and not hasattr(flamec, name)
    for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "bfloat16"):
        assert isinstance(getattr(flamec, name), flamec.dtype)


@row("sparse tensors")
def _() -> None:
    indices = [[0, 1]]
    table = torch.ones(3, 2, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor(indices), table, sparse=True).sum().backward()
    assert table.grad.is_sparse
    F, own = nn.functional, flamec.ones(3, 2, requires_grad=True)
    raises(lambda: F.embedding(flamec.tensor(indices), own, sparse=True), NotImplementedError)


@row("determinism")
def _() -> None:
    flamec.use_deterministic_algorithms(True)
    try:
        table, index = flamec.zeros(3), flamec.tensor([0, 0, 2])
        table.index_add_(0, index, flamec.ones(3))
        raises(lambda: flamec.compile(flamec.relu, deterministic=False), RuntimeError)
    finally:
        flamec.use_deterministic_algorithms(False)


@row("grad_fn")
def _() -> None:
    def nodes(package: Any, function: Any) -> list[str]:
        names, open_nodes = [], [function(package.ones(2, requires_grad=True)).grad_fn]
        while open_nodes:
            node = open_nodes.pop()
            names.append(node.name())
            open_nodes += [next_node for next_node, _ in node.next_functions if next_node]
        return names

    end = "torch::autograd::AccumulateGrad"
    for package in (torch, flamec):
        assert nodes(package, lambda x: x * 2) == ["MulBackward0", end]
    assert nodes(torch, lambda x: torch.softmax(x, 0)) == ["SoftmaxBackward0", end]
    assert len(nodes(flamec, lambda x: flamec.softmax(x, 0))) > 2
    assert len(nodes(flamec, flamec.compile(lambda x: (x * 2).exp().sum()))) == 2
    node = (flamec.ones(2, requires_grad=True) * 2).grad_fn
    assert not hasattr(node, "metadata") and not hasattr(node, "register_hook")


@row("random numbers")
def _() -> None:
    torch.manual_seed(0)
    flamec.manual_seed(0)
    first = flamec.rand(4)
    assert first.tolist() != torch.rand(4).tolist()
    flamec.manual_seed(0)
    assert flamec.compile(lambda: flamec.rand(4))().tolist() == first.tolist()


@row("empty")
def _() -> None:
    assert not flamec.empty(1000).any() and not flamec.ones(3).new_empty(1000).any()


@row("clone")
def _() -> None:
    for package, strides in ((torch, (1, 3)), (flamec, (2, 1))):
        x = package.ones(2, 3).T
        for result in (x.clone(), x * 2, x.exp(), package.ones_like(x), x.double()):
            assert result.stride() == strides
    x = flamec.ones(1, 2, 3, 4)
    assert x.clone(memory_format=flamec.channels_last).stride() == (24, 1, 8, 2)


@row("bfloat16 in NumPy")
def _() -> None:
    raises(lambda: torch.ones(2, dtype=torch.bfloat16).numpy(), TypeError)
    assert flamec.ones(2, dtype=flamec.bfloat16).numpy().dtype == ml_dtypes.bfloat16


@row("view of a dtype")
def _() -> None:
    assert torch.ones(2).view(torch.int32).tolist() == [0x3F800000] * 2
    raises(lambda: flamec.ones(2).view(flamec.int32))
    assert flamec.ones(2).view(flamec.float32).tolist() == [1, 1]


@row("Tensor.unfold")
def _() -> None:
    for package, shared in ((torch, True), (flamec, False)):
        x = package.zeros(4)
        x.unfold(0, 2, 2)[0, 0] = 5.0
        assert bool(x[0] == 5.0) is shared


@row("as_strided")
def _() -> None:
    assert torch.arange(3).as_strided((2, 2), (1, 1)).tolist() == [[0, 1], [1, 2]]
    raises(lambda: flamec.arange(3).as_strided((2, 2), (1, 1)), RuntimeError)


@row("storage")
def _() -> None:
    for name in ("untyped_storage", "storage", "share_memory_"):
        assert hasattr(torch.Tensor, name) and not hasattr(flamec.Tensor, name)
    x = flamec.zeros(2)
    x.numpy()[0] = 3.0
    np.from_dlpack(x)[1] = 4.0
    assert x.tolist() == [3.0, 4.0] and x.data_ptr() == x.numpy().ctypes.data


@row("x.data")
def _() -> None:
    def square(package: Any) -> Any:
        x = package.tensor([2.0], requires_grad=True)
        y = (x * x).sum()
        x.data += 1
        y.backward()
        return x.grad

    assert square(torch).item() == 6.0  # the derivative at a place where y was not computed
    raises(lambda: square(flamec), RuntimeError)


@row("inference_mode")
def _() -> None:
    with torch.inference_mode():
        theirs = torch.ones(2)
    w = torch.ones(2, requires_grad=True)
    raises(lambda: (w * theirs).sum(), RuntimeError)
    with flamec.inference_mode():
        mine = flamec.ones(2)
        assert not (flamec.ones(2, requires_grad=True) * 2).requires_grad
    assert (flamec.ones(2, requires_grad=True) * mine).requires_grad


@row("dual tensors")
def _() -> None:
    from torch.autograd import forward_ad as theirs

    from flamec.autograd import forward_ad as mine

    for package, ad, recorded in ((torch, theirs, False), (flamec, mine, True)):
        with ad.dual_level():
            x = ad.make_dual(package.ones(2), package.ones(2))
            assert (x * 2).requires_grad is recorded
            with package.no_grad():
                assert (ad.unpack_dual(x * 2).tangent is None) is recorded


@row("Function.jvp")
def _() -> None:
    for package in (torch, flamec):

        class Twice(package.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x * 2

            @staticmethod
            def jvp(ctx: Any, t: Any) -> Any:
                return t * 2

        x = package.ones(2, requires_grad=True)
        if package is torch:
            raises(lambda f=Twice, x=x: f.apply(x).sum().backward(), NotImplementedError)
        else:
            Twice.apply(x).sum().backward()
            assert x.grad.tolist() == [2.0, 2.0]


@row("mark_dirty")
def _() -> None:
    class Changes(flamec.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.mark_dirty(x)
            return x.add_(1)

    raises(lambda: Changes.apply(flamec.ones(2)), RuntimeError)


@row("backward hooks of modules")
def _() -> None:
    class Pair(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2, x * 3

    module, seen = Pair(), []
    handle = module.register_full_backward_hook(lambda m, i, o: seen.append(o[1]))
    x = flamec.ones(2, requires_grad=True)
    module(x)[0].sum().backward()
    assert seen == [None]
    inside = flamec.compile(lambda x: flamec.autograd.grad(module(x)[0].sum(), x)[0])
    assert inside(x).tolist() == [2.0, 2.0] and seen == [None, None]
    handle.remove()
    module.register_full_backward_hook(lambda m, i, o: (i[0] + o[1] + 1,))
    x.grad = None
    flamec.compile(lambda x: module(x)[0])(x).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


@row("register_backward_hook")
def _() -> None:
    assert hasattr(torch.nn.Module, "register_backward_hook")
    assert not hasattr(nn.Module, "register_backward_hook")
    assert hasattr(nn.Module, "register_full_backward_hook")


@row("second derivatives")
def _() -> None:
    def second(package: Any) -> Any:
        x = package.tensor([[0.0, 1.0], [2.0, 3.0]], requires_grad=True)
        total = package.cdist(x, x.detach() + 1).sum()
        (first,) = package.autograd.grad(total, x, create_graph=True)
        return package.autograd.grad((first**2).sum(), x)[0]

    raises(lambda: second(torch), RuntimeError)
    assert second(flamec).shape == (2, 2)


@row("gradients of relu")
def _() -> None:
    for name in ("relu", "leaky_relu", "hardtanh", "relu6", "softshrink"):
        for package, zero in ((torch, [0.0, 0.0]), (flamec, None)):
            x = package.ones(3, requires_grad=True)
            weight, bias = package.full((2, 3), 0.1), package.zeros(2)
            weight.requires_grad_(), bias.requires_grad_()
            hidden = package.nn.functional.linear(x, weight, bias)
            total = getattr(package.nn.functional, name)(hidden).sum()
            (slope,) = package.autograd.grad(total, x, create_graph=True)
            slope.pow(2).sum().backward()
            assert weight.grad is not None
            assert (None if bias.grad is None else bias.grad.tolist()) == zero


@row("derivatives where a formula breaks")
def _() -> None:
    def slopes(package: Any) -> list[float]:
        functions = (
            (lambda y: package.xlogy(package.zeros(1), y), 0.0),
            (lambda x: package.logsumexp(x, 0), -math.inf),
            (lambda x: package.logaddexp(x, x), math.inf),
        )
        found = []
        for function, point in functions:
            x = package.tensor([point], requires_grad=True)
            function(x).sum().backward()
            found.append(x.grad.item())
        return found

    assert all(map(math.isnan, slopes(torch)))
    assert slopes(flamec) == [0.0, 0.0, 1.0]


@row("embedding_bag")
def _() -> None:
    indices = [[1, 2, 1, 0]]
    gradients = []
    for package in (torch, flamec):
        table = package.ones(3, 1, requires_grad=True)
        bag = package.nn.functional.embedding_bag
        found = bag(package.tensor(indices), table, mode="sum", scale_grad_by_freq=True)
        gradients.append(package.autograd.grad(found.sum(), table)[0].reshape(-1).tolist())
    assert gradients[0] != [1.0, 1.0, 1.0] == gradients[1]


@row("ctc_loss")
def _() -> None:
    values = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (4, 1)))

    def gradients(package: Any) -> list[np.ndarray]:
        by_probabilities = package.tensor(values, requires_grad=True)
        by_logits = package.tensor(values, requires_grad=True)
        for x in (by_probabilities, package.log_softmax(by_logits, 2)):
            loss = package.nn.functional.ctc_loss(x, package.tensor([[1, 2]]), (4,), (2,))
            loss.backward()
        return [x.grad.numpy() for x in (by_probabilities, by_logits)]

    ours, theirs = gradients(flamec), gradients(torch)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-12)
    np.testing.assert_allclose(ours[0] + np.exp(values) / 2, theirs[0], atol=1e-12)


@row("as_strided_scatter")
def _() -> None:
    found = []
    for package in (torch, flamec):
        x = package.arange(3.0).requires_grad_()
        y = package.as_strided_scatter(x, package.ones(2), (2,), (1,))
        found.append(package.autograd.grad(y.sum(), x)[0].tolist())
    assert found == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@row("out=")
def _() -> None:
    for package in (torch, flamec):
        assert package.exp(package.zeros(2), out=package.empty(0)).tolist() == [1.0, 1.0]

    def into(x: Any, out: Any) -> Any:
        return flamec.exp(x, out=out)

    compiled = flamec.compile(into)
    assert compiled(flamec.zeros(2), flamec.empty(2)).tolist() == [1.0, 1.0]
    raises(lambda: compiled(flamec.zeros(2), flamec.empty(0)), RuntimeError)


@row("a dtype or memory of out=")
def _() -> None:
    def wide(package: Any) -> Any:
        out = package.empty(1, dtype=package.float64)
        return package.gather(package.ones(3), 0, package.tensor([0]), out=out)

    def overlapping(package: Any) -> Any:
        x = package.arange(4.0)
        return package.take(x, package.tensor([3, 2, 1]), out=x[:3])

    for call, wanted in ((wide, [1.0]), (overlapping, [3.0, 2.0, 1.0])):
        raises(lambda call=call: call(torch), RuntimeError)
        assert call(flamec).tolist() == wanted
    raises(lambda: flamec.exp(flamec.ones(2), out=flamec.empty(2, dtype=flamec.int64)))


@row("torch.compile")
def _() -> None:
    def double(x: Any) -> Any:
        return x * 2

    for options in ({"mode": "reduce-overhead"}, {"backend": "inductor"}, {"fullgraph": True}):
        assert flamec.compile(double, **options)(flamec.ones(1)).item() == 2
    assert flamec.compile(double, mode="max-autotune").options.autotune == "max"
    for options in ({"backend": "other"}, {"options": {"a": 1}}, {"disable": True}, {"mode": "x"}):
        raises(lambda o=options: flamec.compile(double, **o), ValueError)


@row("torch.jit")
def _() -> None:
    def double(x: Any) -> Any:
        return x if flamec.jit.is_scripting() else flamec.jit.annotate(flamec.Tensor, x * 2)

    assert type(torch.jit.script(lambda_free)) is not type(lambda_free)
    assert flamec.jit.script(double) is double and flamec.jit.unused(double) is double
    assert flamec.jit.ignore(drop=True)(double) is double and flamec.jit.ignore(double) is double
    layer = nn.Linear(2, 2)
    assert flamec.jit.script(layer) is layer and not isinstance(layer, flamec.jit.ScriptModule)
    assert flamec.compile(double, fullgraph=True)(flamec.ones(1)).item() == 2.0
    for name in ("trace", "save", "load"):
        raises(lambda name=name: getattr(flamec.jit, name), AttributeError)


def lambda_free(x: torch.Tensor) -> torch.Tensor:
    """TorchScript reads the text of functions."""
    return x * 2


@row("cond, while_loop")
def _() -> None:
    eager: list[object] = []

    def chosen(x: Any) -> Any:
        eager.append(x)
        return x + 1

    taken = flamec.cond(flamec.tensor(True), chosen, lambda x: x - 1, (flamec.ones(2),))
    assert taken.tolist() == [2.0, 2.0] and isinstance(eager[0], flamec.Tensor)

    def doubled(x: Any, **bound: int) -> Any:
        return flamec.while_loop(lambda x: x < 9, lambda x: (2 * x,), (x,), **bound)[0]

    def gradient(**bound: int) -> Any:
        x = flamec.tensor(1.0, requires_grad=True)
        flamec.compile(lambda x: doubled(x, **bound))(x).backward()
        assert x.grad is not None
        return x.grad.item()

    assert gradient() == gradient(max_steps=8) == 16.0

    def programs(**bound: int) -> int:
        x = flamec.tensor(1.0, requires_grad=True)
        compiled = flamec.compile(lambda x: doubled(x, **bound))
        compiled(x)
        with flamec.profiler.profile() as profile:
            compiled(x)
        return len({e.name.partition("/")[0] for e in profile.events() if "/" in e.name})

    assert (programs(), programs(max_steps=8)) == (2, 1)  # each of which runs the loop
