"""Sequential, ModuleList, ModuleDict, parameter containers, Flatten and Unflatten."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

RNG = np.random.default_rng(0)


def tensor(array: Any, requires_grad: bool = False) -> flamec.Tensor:
    result = flamec.from_numpy(np.array(array))
    result.requires_grad = requires_grad
    return result


def test_sequential() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(net) == 3
    assert isinstance(net[-1], nn.Linear)
    assert isinstance(net[1:], nn.Sequential)
    assert net[1:][1] is net[2]
    net.append(nn.Tanh()).insert(0, nn.Identity())
    assert [type(m).__name__ for m in net] == ["Identity", "Linear", "ReLU", "Linear", "Tanh"]
    assert list(net.state_dict()) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert type(net.pop(2)) is nn.ReLU
    assert list(net.state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    net[0] = nn.Sigmoid()
    del net[1:3]
    assert [type(m).__name__ for m in net] == ["Sigmoid", "Tanh"]
    net.extend([nn.ReLU()])
    assert net[2] in net
    with pytest.raises(IndexError, match="out of range"):
        net[5]


def test_module_list_and_dict() -> None:
    modules = nn.ModuleList([nn.Linear(1, 1)])
    modules = modules + [nn.Tanh()]  # noqa: RUF005 - the operator is under test
    modules += [nn.ReLU()]
    assert len(modules) == 3
    assert len(modules[:2]) == 2
    table = nn.ModuleDict({"a": nn.Tanh()})
    table["b"] = nn.ReLU()
    table.update([("c", nn.Sigmoid())])
    assert list(table) == list(table.keys()) == ["a", "b", "c"]
    assert "b" in table and len(table) == 3
    assert type(table.pop("a")) is nn.Tanh
    del table["b"]
    assert [k for k, _ in table.items()] == ["c"]
    table.clear()
    assert not list(table.values())


def test_parameter_containers() -> None:
    values = nn.ParameterList([flamec.ones(2), nn.Parameter(flamec.zeros(3))])
    values.append(flamec.ones(1)).extend([flamec.ones(4)])
    assert len(values) == 4 and len(values[1:3]) == 2
    assert [p.shape[0] for p in values] == [2, 3, 1, 4]
    values[0] = flamec.zeros(5)
    assert values[-4].shape == (5,)
    assert list(values.state_dict()) == ["0", "1", "2", "3"]
    assert all(p.requires_grad for p in values)
    table = nn.ParameterDict({"a": flamec.ones(2)})
    table["b"] = flamec.zeros(1)
    assert list(table.state_dict()) == ["a", "b"]
    assert table.get("c") is None and "a" in table and len(table) == 2
    assert table.pop("a").shape == (2,)
    assert [k for k, _ in table.items()] == ["b"]
    assert "(b): Parameter containing: [flamec.FloatTensor of size 1]" in repr(table)


def test_a_dictionary_of_parameters_is_a_dictionary() -> None:
    table = nn.ParameterDict({"w": flamec.ones(1), "b": flamec.ones(2)})
    assert list(table) == ["b", "w"]  # a plain dict is sorted: PyTorch's numbers of parameters
    assert list(nn.ParameterDict([("w", flamec.ones(1)), ("b", flamec.ones(2))])) == ["w", "b"]
    assert list(nn.ParameterDict(OrderedDict(w=flamec.ones(1), b=flamec.ones(2)))) == ["w", "b"]
    assert table.setdefault("a", flamec.ones(3)) is table["a"] and table.setdefault("w").shape == (
        1,
    )
    assert list(reversed(table)) == ["a", "w", "b"]
    same = table.copy()
    assert same["w"] is table["w"] and list(same) == list(table)
    both = table | {"c": flamec.ones(4)}
    assert list(both) == ["b", "w", "a", "c"] and len(table) == 3
    table |= {"d": flamec.ones(5)}
    key, value = table.popitem()
    assert (key, tuple(value.shape), len(list(table.parameters()))) == ("d", (5,), 3)
    table.clear()
    assert not len(table) and not list(table.parameters())
    with pytest.raises(KeyError):
        table.popitem()
    assert [*table.fromkeys("xy", 1).items()] == [("x", 1), ("y", 1)]


def test_sequences_of_modules_are_added_and_repeated() -> None:
    first, second = nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Sequential(nn.Tanh())
    both = first + second
    assert [*both] == [*first, *second] and list(both.state_dict()) == ["0.weight", "0.bias"]
    thrice = 3 * second
    assert len(thrice) == 3 and thrice[2] is second[0]
    second *= 2
    second += first
    assert [type(m).__name__ for m in second] == ["Tanh", "Tanh", "Linear", "ReLU"]
    for wrong in (0, -1):
        with pytest.raises(ValueError):
            first * wrong
    with pytest.raises(ValueError, match="Sequential"):
        first += nn.ReLU()  # type: ignore[operator,arg-type]


def test_flatten_unflatten() -> None:
    x = tensor(np.arange(24.0).reshape(2, 3, 4))
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Unflatten(1, (3, 1))(x).shape == (2, 3, 1, 4)
    with pytest.raises(TypeError):
        nn.Unflatten(1, (1.5,))  # type: ignore[arg-type]
