"""Short ways of eager mode on a GPU: what was met before is looked up, and nothing else changes.

Each case is run three times, because the first time takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec.errors import OperationError
from flamec.ir.types import Device

CUBE = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
PLANE = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
View = Callable[[Any], Any]

# views that were made before ----------------------------------------------------------------
VIEWS: dict[str, View] = {
    "view": lambda x: x.view(12, 6),
    "view of a tuple": lambda x: x.view((4, 3, 6)),
    "view of all": lambda x: x.view(-1),
    "reshape": lambda x: x.reshape(-1, 4),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 3)),
    "ravel": lambda x: x.ravel(),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "expand": lambda x: x[:, :1].expand(-1, 5, 6),
    "permute": lambda x: x.permute(2, 0, 1),
    "permute by a tuple": lambda x: x.permute((1, 0, 2)),
    "transpose": lambda x: x.transpose(0, -1),
    "t": lambda x: x[0].t(),
    "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim(0, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: x.select(1, -1),
    "of a view": lambda x: x[1:].transpose(1, 2).unsqueeze(0),
    "slices": lambda x: x[1:, ::2, -3:-1],
    "a row": lambda x: x[1],
    "an element": lambda x: x[2, -1, 3],
    "None and an ellipsis": lambda x: x[None, ..., 1:, 2],
    "nothing": lambda x: x[2:1],
}
LAYOUTS: dict[str, View] = {
    "dense": lambda x: x,
    "with an offset": lambda x: flamec.cat((x, x))[3:],
    "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "with gaps": lambda x: flamec.cat((x, x), 2)[:, :, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", VIEWS)
def test_views(gpu: Device, name: str, layout: str) -> None:
    here = LAYOUTS[layout](flamec.tensor(CUBE))
    try:
        wanted = VIEWS[name](here)
    except RuntimeError:  # a view that there is not
        for _ in range(3):
            with pytest.raises(RuntimeError, match="not compatible"):
                VIEWS[name](LAYOUTS[layout](flamec.tensor(CUBE, device=gpu)))
        return
    shares = wanted._storage is here._storage
    for _ in range(3):
        there = LAYOUTS[layout](flamec.tensor(CUBE, device=gpu))
        found = VIEWS[name](there)
        assert (found.shape, found.stride(), found.dtype) == (
            wanted.shape,
            wanted.stride(),
            wanted.dtype,
        )
        assert found.storage_offset() == wanted.storage_offset()
        assert found.is_contiguous() == wanted.is_contiguous()
        np.testing.assert_array_equal(found.cpu().numpy(), wanted.numpy())
        if shares and name != "expand":
            found.fill_(7)
            assert (there == 7).sum().item() == found.numel()
            there.zero_()
            assert found.abs().sum().item() == 0


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_differentiated(gpu: Device, name: str) -> None:
    for turn in range(3):
        x = flamec.tensor(CUBE, device=gpu).requires_grad_()
        result = VIEWS[name](x)
        assert result.requires_grad and not result.is_leaf
        weights = np.arange(result.numel(), dtype=np.float32).reshape(result.shape) + turn
        (result * flamec.tensor(weights, device=gpu)).sum().backward()
        y = flamec.tensor(CUBE).requires_grad_()
        (VIEWS[name](y) * flamec.tensor(weights)).sum().backward()
        np.testing.assert_allclose(x.grad.cpu().numpy(), y.grad.numpy(), rtol=1e-6)
        with flamec.no_grad():
            assert not VIEWS[name](x).requires_grad
        assert not VIEWS[name](x.detach()).requires_grad


def test_equal_arguments_that_are_no_integers(gpu: Device) -> None:
    x = flamec.zeros(1, 4, device=gpu)
    for _ in range(2):
        assert x.view(4, 1).shape == (4, 1) and x.transpose(0, 1).shape == (4, 1)
        with pytest.raises(TypeError):
            x.view(4.0, 1)
        with pytest.raises(TypeError):
            x.view(4, True)
        with pytest.raises(TypeError):
            x.view((4, 1.0))


def test_equal_bounds_that_are_no_integers(gpu: Device) -> None:
    x = flamec.arange(6, device=gpu)
    for _ in range(2):
        assert x[1:4].tolist() == [1, 2, 3]
        assert x[np.int64(1) : np.int32(4)].tolist() == [1, 2, 3]
        assert x[True:4].tolist() == [1, 2, 3]
        with pytest.raises(TypeError):
            x[1.0:4]


def test_a_write_through_a_view_is_seen_by_autograd(gpu: Device) -> None:
    for _ in range(3):
        x = flamec.tensor(PLANE, device=gpu)
        weight = flamec.ones(16, 16, device=gpu).requires_grad_()
        product = (x * weight).sum()
        x.view(-1).zero_()
        with pytest.raises(RuntimeError, match="changed"):
            product.backward()


# numbers stored in place, and what one tensor picks ------------------------------------------
def _row(x: Any, value: Any) -> None:
    x[1] = value


def _element(x: Any, value: Any) -> None:
    x[2, -1] = value


def _columns(x: Any, value: Any) -> None:
    x[:, 1:3] = value


STORES: dict[str, Callable[[Any, Any], Any]] = {
    "a row": _row,
    "an element": _element,
    "columns": _columns,
    "fill_": lambda x, value: x.fill_(value),
    "fill_ of a row": lambda x, value: x[1].fill_(value),
    "zero_": lambda x, value: x[1:].zero_(),
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int64", "uint8", "bool"])
def test_numbers_are_stored(gpu: Device, name: str, dtype: str) -> None:
    values: list[Any] = [0, 1, True, 7.75, 0.0]
    if dtype.startswith(("float", "bf")):
        values += [-0.0, -0.0, float("nan"), float("-inf"), 0.1]
    for value in values:
        here = (flamec.arange(24).reshape(4, 6) % 5).to(getattr(flamec, dtype))
        there = here.to(gpu)
        STORES[name](here, value)
        STORES[name](there, value)
        for a, b in ((here, there), (1 / here.double(), 1 / there.double())):  # -0.0 is another
            np.testing.assert_array_equal(b.double().cpu().numpy(), a.double().numpy())


def test_a_number_that_the_dtype_has_not_is_not_stored(gpu: Device) -> None:
    x = flamec.ones(4, dtype=flamec.uint8, device=gpu)
    for _ in range(3):
        with pytest.raises(OperationError, match="overflow"):
            x.fill_(256)
        with pytest.raises(OperationError, match="overflow"):
            x[0] = 300
    assert x.tolist() == [1, 1, 1, 1]


def test_a_stored_number_is_seen_by_autograd(gpu: Device) -> None:
    for _ in range(3):
        x, leaf = flamec.ones(4, device=gpu), flamec.ones(4, device=gpu).requires_grad_()
        product = (x * leaf).sum()
        x[1] = 3.0
        with pytest.raises(RuntimeError, match="changed"):
            product.backward()
        with pytest.raises(RuntimeError, match="leaf"):
            leaf.fill_(2.0)
        tracked = leaf * 1
        tracked[1] = 5.0
        tracked.sum().backward()
        assert leaf.grad.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_a_tensor_picks_beside_slices(gpu: Device, axis: int, shape: tuple[int, ...]) -> None:
    picks = np.random.default_rng(2).integers(-3, 3, shape)
    for last in ((), (slice(None),) * (2 - axis)):
        where = (*(slice(None),) * axis, picks, *last)
        for _ in range(2):
            x = flamec.tensor(CUBE, device=gpu).requires_grad_()
            index = tuple(flamec.tensor(i, device=gpu) if i is picks else i for i in where)
            found = x[index]
            np.testing.assert_array_equal(found.detach().cpu().numpy(), CUBE[where])
            found.sum().backward()
            wanted = np.zeros_like(CUBE)
            np.add.at(wanted, where, 1)
            np.testing.assert_array_equal(x.grad.cpu().numpy(), wanted)


# arithmetic in place ------------------------------------------------------------------------
def _rows(x: Any) -> Any:
    return flamec.tensor([3, -1, 7, 0]).to(x.device)


def _second(x: Any) -> Any:
    return flamec.tensor(PLANE[::-1].copy() + 3, device=x.device)


CHANGES: dict[str, View] = {
    "add_": lambda x: x.add_(_second(x)),
    "iadd": lambda x: x.__iadd__(_second(x)),
    "sub_": lambda x: x.sub_(_second(x)),
    "mul_ by a number": lambda x: x.mul_(2.5),
    "mul_ by an integer": lambda x: x.mul_(3),
    "isub of a number": lambda x: x.__isub__(1.5),
    "div_": lambda x: x.div_(_second(x)),
    "div_ rounded": lambda x: x.div_(_second(x), rounding_mode="floor"),
    "add_ with alpha": lambda x: x.add_(_second(x), alpha=0.25),
    "sub_ with alpha": lambda x: x.sub_(_second(x), alpha=-2),
    "add_ with alpha 1": lambda x: x.add_(_second(x), alpha=1),
    "add_ of one row": lambda x: x.add_(_second(x)[3]),
    "add_ of one column": lambda x: x.add_(_second(x)[:, 3:4]),
    "add_ of a scalar tensor": lambda x: x.add_(_second(x).sum()),
    "itself": lambda x: x.add_(x),
    "itself with alpha": lambda x: x.add_(x, alpha=3),
    "its own row": lambda x: x.mul_(x[2]),
    "its transpose": lambda x: x.add_(x.t()),
    "its own rows, shifted": lambda x: x[1:].add_(x[:-1]),
    "its own rows, shifted back": lambda x: x[:-1].sub_(x[1:], alpha=2),
    "a view": lambda x: x.t().add_(_second(x)),
    "some rows": lambda x: x[2:5].mul_(_second(x)[2:5]),
    "from an odd address": lambda x: x.view(-1)[3:].add_(_second(x).view(-1)[3:]),
    "another dtype": lambda x: x.add_(_second(x).double()),
    "16 bits": lambda x: x.mul_(_second(x).bfloat16()),
    "16 bits with alpha": lambda x: x.sub_(_second(x).half(), alpha=0.5),
    "a scalar tensor of 16 bits": lambda x: x.mul_(_second(x).bfloat16()[0, 0]),
    "bools": lambda x: x.add_(_second(x) > 0),
    "without bools": lambda x: x.sub_(_second(x) > 0),
    "without True": lambda x: x.sub_(True),
    "its own bytes": lambda x: x.add_(x.view(-1).view(flamec.int8)[:16]),
    "index_put_": lambda x: x.index_put_((_rows(x),), _second(x)[:4]),
    "index_put_ of a row": lambda x: x.index_put_((_rows(x),), _second(x)[0]),
    "index_put_ of elements": lambda x: x.index_put_((_rows(x), _rows(x)), _second(x)[0, :4]),
    "index_put_, adding": lambda x: x.index_put_((_rows(x),), _second(x)[:4], accumulate=True),
    "index_put_ of its own rows": lambda x: x.index_put_((_rows(x),), x[4:8]),
    "index_put_ of another dtype": lambda x: x.index_put_((_rows(x),), _second(x)[:4].double()),
    "index_put_ by a mask": lambda x: x.index_put_((_second(x) > 0,), _second(x)[0, 0]),
    "index_put_ in a transpose": lambda x: x.t().index_put_((_rows(x),), _second(x)[:4]),
    "neg_": lambda x: x.neg_(),
    "abs_": lambda x: x.abs_(),
    "floor_": lambda x: x.floor_(),
    "sin_": lambda x: x.sin_(),
    "sin_ of a transpose": lambda x: x.t().sin_(),
    "tanh_ of some rows": lambda x: x[2:5].tanh_(),
    "relu_": lambda x: x.relu_(),
    "relu of some rows": lambda x: flamec.nn.functional.relu(x[2:5], inplace=True),
    "leaky_relu of a column": lambda x: flamec.nn.functional.leaky_relu(x[:, 1], inplace=True),
    "relu of a result": lambda x: x.copy_(flamec.nn.functional.relu(x * 2, inplace=True)),
}


@pytest.mark.parametrize("dtype", [flamec.float32, flamec.bfloat16, flamec.int32], ids=str)
@pytest.mark.parametrize("name", CHANGES)
def test_changes_in_place(gpu: Device, name: str, dtype: Any) -> None:
    def changed(device: Any) -> Any:
        x = flamec.tensor(PLANE * 5, device=device).to(dtype)
        alias, version = x.view(16, 16), x._version
        try:
            CHANGES[name](x)
        except RuntimeError as error:
            return type(error)
        assert x._version > version
        np.testing.assert_array_equal(alias.float().cpu().numpy(), x.float().cpu().numpy())
        return x

    wanted = changed("cpu")
    for _ in range(3):
        found = changed(gpu)
        if isinstance(wanted, type):
            assert found is wanted
            continue
        rtol = 2.0**-7 if dtype is flamec.bfloat16 else 1e-5
        np.testing.assert_allclose(
            found.float().cpu().numpy(), wanted.float().numpy(), rtol=rtol, atol=1e-5
        )


def test_nothing_is_allocated_for_a_change_in_place(
    simulated: list[SimulatedGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[int] = []
    runtime: Any = simulated[0].runtime
    allocate = runtime.allocate  # before calls remember it
    monkeypatch.setattr(runtime, "allocate", lambda n: (allocated.append(n), allocate(n))[1])
    x, y = (flamec.tensor(PLANE, device="cuda") for _ in range(2))
    half, whole, angle = x.bfloat16(), x.to(flamec.int64), x * 1
    assert allocated
    for turn in range(3):
        del allocated[:]
        x.add_(y)
        x.mul_(1.5)
        x.sub_(y, alpha=0.5)
        x += y[0]
        for small in (half, whole):
            small.mul_(2)
            small.add_(small)
        half.sub_(half, alpha=0.5)
        x.add_(half, alpha=0.0)
        angle.sin_()
        flamec.nn.functional.relu(angle, inplace=True)
        assert turn == 0 or not allocated
    np.testing.assert_allclose(x.cpu().numpy()[0, 0], _three_turns(PLANE[0, 0], PLANE[0, 0]), 1e-5)


def _three_turns(x: float, y: float) -> float:
    for _ in range(3):
        x = (x + y) * 1.5 - 0.5 * y + y
    return x


def test_changes_in_place_are_differentiated(gpu: Device) -> None:
    for _ in range(3):
        x = flamec.tensor(PLANE, device=gpu).requires_grad_()
        y = x * 2
        y.mul_(x)
        y += x
        y.sub_(x, alpha=3)
        y.sum().backward()
        np.testing.assert_allclose(x.grad.cpu().numpy(), 4 * PLANE - 2, rtol=1e-5, atol=1e-5)
        with pytest.raises(RuntimeError, match="leaf"):
            x.add_(1.0)
        with flamec.no_grad():
            x.add_(1.0)
        np.testing.assert_allclose(x.detach().cpu().numpy(), PLANE + 1, rtol=1e-6)


def test_a_change_in_place_of_what_a_derivative_needs(gpu: Device) -> None:
    for _ in range(3):
        x = flamec.tensor(PLANE, device=gpu)
        weight = flamec.ones(16, 16, device=gpu).requires_grad_()
        loss = (x * weight).sum()
        x.mul_(2.0)
        with pytest.raises(RuntimeError, match="changed"):
            loss.backward()


def test_errors_are_those_of_the_long_way(gpu: Device) -> None:
    x = flamec.tensor(PLANE, device=gpu)
    for _ in range(2):
        x.add_(1.0)
        with pytest.raises(OperationError, match="output with shape"):
            x[0].add_(x)
        with pytest.raises(TypeError):
            x.add_("1")
        with pytest.raises(RuntimeError, match=r"stored|device"):
            x.add_(flamec.tensor(PLANE))
        with pytest.raises(RuntimeError, match="expanded"):
            x[:1].expand(16, 16).add_(x)


# joining -------------------------------------------------------------------------------------
def test_cat_in_one_launch_has_the_values_of_many(gpu: Device) -> None:
    parts = [PLANE[:n] for n in (1, 5, 16, 3)]
    for _ in range(3):
        there = [flamec.tensor(p, device=gpu) for p in parts]
        np.testing.assert_array_equal(flamec.cat(there).cpu().numpy(), np.concatenate(parts))
        sides = flamec.cat([t.t() for t in there], -1).cpu().numpy()
        np.testing.assert_array_equal(sides, np.concatenate(parts).T)
        mixed = flamec.cat([there[0], there[1].double()]).cpu()
        assert mixed.dtype is flamec.float64
        with pytest.raises(OperationError, match=r"cat|concatenate"):
            flamec.cat([there[0], there[1][:, :3]])
        with pytest.raises(IndexError):
            flamec.cat(there, 2)


# arrays of one value ------------------------------------------------------------------------
FILLED = [
    (flamec.float32, 1.0),
    (flamec.float32, -0.0),
    (flamec.float32, 0.0),
    (flamec.bfloat16, 1.5),
    (flamec.float16, float("-inf")),
    (flamec.float64, 0.5),
    (flamec.float64, float("nan")),
    (flamec.int64, -1),
    (flamec.int64, 3),
    (flamec.int8, -5),
    (flamec.bool, True),
]


@pytest.mark.parametrize("shape", [(), (1, 1), (3, 5), (0, 2)], ids=str)
@pytest.mark.parametrize(("dtype", "value"), FILLED, ids=str)
def test_one_value_everywhere(
    gpu: Device, dtype: flamec.dtype, value: float, shape: tuple[int, ...]
) -> None:
    wanted = flamec.full(shape, value, dtype=dtype)
    for _ in range(3):
        found = flamec.full(shape, value, dtype=dtype, device=gpu)
        assert found.dtype is dtype and found.shape == shape
        assert found.cpu().numpy().tobytes() == wanted.numpy().tobytes()
        found.fill_(0)  # what is made next has memory of its own


def test_values_that_are_equal_but_not_the_same_are_told_apart(gpu: Device) -> None:
    for _ in range(2):
        made = [flamec.full((2,), v, device=gpu) for v in (0.0, -0.0, 0, False, 1, 1.0, True)]
        kinds = [t.dtype.kind for t in made]
        assert kinds == ["float", "float", "int", "bool", "int", "float", "bool"]
        signs = [np.signbit(t.cpu().numpy()).any() for t in made[:2]]
        assert signs == [False, True]


@pytest.mark.parametrize("dtype", [flamec.float32, flamec.bfloat16, flamec.bool], ids=str)
def test_one_value_everywhere_is_one_fill(
    dtype: flamec.dtype, simulated: list[SimulatedGpu]
) -> None:
    runtime: Any = simulated[0].runtime
    for shape in ((), (64, 64)):
        for _ in range(2):
            runtime.work.clear()
            flamec.ones(shape, dtype=dtype, device="cuda")
            assert runtime.work == ["fill"]
