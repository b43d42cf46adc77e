"""Modules: registration, state, naming, hooks, conversion, errors."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import flamec
import flamec.nn.functional as F
from flamec import nn
from flamec.errors import CompileError

RNG = np.random.default_rng(0)


def tensor(array: Any, requires_grad: bool = False) -> flamec.Tensor:
    result = flamec.from_numpy(np.array(array))
    result.requires_grad = requires_grad
    return result


class Net(nn.Module):
    """A module with everything: parameters, buffers, submodules, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))])
        self.scale = nn.Parameter(flamec.ones(2))
        self.register_buffer("mean", flamec.zeros(3))
        self.register_buffer("cache", flamec.zeros(1), persistent=False)
        self.missing: Any = None

    def forward(self, x: flamec.Tensor) -> flamec.Tensor:
        x = self.first(x) - self.mean
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


# registration and naming -----------------------------------------------------------------


def test_what_is_registered() -> None:
    net = Net()
    parameters = [
        "scale", "first.weight", "first.bias", "layers.0.weight", "layers.0.bias",
        "layers.1.1.weight", "layers.1.1.bias",
    ]  # fmt: skip
    assert [n for n, _ in net.named_parameters()] == parameters
    assert [n for n, _ in net.named_buffers()] == ["mean", "cache"]
    assert [n for n, _ in net.named_children()] == ["first", "layers"]
    modules = ["", "first", "layers", "layers.0", "layers.1", "layers.1.0", "layers.1.1"]
    assert [n for n, _ in net.named_modules()] == modules
    assert list(net.state_dict()) == [parameters[0], "mean", *parameters[1:]]
    assert net.get_submodule("layers.1.1") is net.layers[1][1]
    assert net.get_parameter("first.bias") is net.first.bias
    assert net.get_buffer("mean") is net.mean
    assert len(list(net.parameters(recurse=False))) == 1
    assert {"scale", "mean", "first"} <= set(dir(net))


def test_tensors_know_their_path() -> None:
    net = Net()
    for name, parameter in net.named_parameters():
        assert parameter._name == name
    outer = nn.Sequential(nn.Tanh(), net)
    assert net.first.weight._name == "1.first.weight"
    net.late = nn.Linear(1, 1)
    assert net.late.bias._name == "1.late.bias"
    assert net.mean._name == "1.mean"
    assert outer[1] is net


def test_shared_parameter_is_listed_once() -> None:
    net = Net()
    net.tied = nn.Linear(4, 3)
    net.tied.weight = net.first.weight
    names = [n for n, _ in net.named_parameters()]
    assert "tied.weight" not in names
    both = [n for n, _ in net.named_parameters(remove_duplicate=False)]
    assert "tied.weight" in both
    assert "tied.weight" in net.state_dict()


def test_assignment_keeps_the_order_and_checks_kinds() -> None:
    net = Net()
    order = list(net.state_dict())
    net.scale = nn.Parameter(flamec.zeros(2))
    net.mean = flamec.ones(3)
    net.first = nn.Linear(4, 3)
    assert list(net.state_dict()) == order
    with pytest.raises(TypeError, match="cannot assign 'Tensor' as parameter 'scale'"):
        net.scale = flamec.zeros(2)
    with pytest.raises(TypeError, match="as child module 'first'"):
        net.first = 3
    with pytest.raises(TypeError, match="as buffer 'mean'"):
        net.mean = 3
    net.scale = None
    assert "scale" not in net.state_dict()
    del net.layers
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'layers'"):
        net.layers  # noqa: B018
    net.note = "plain"
    assert net.note == "plain"
    net.note = nn.Tanh()
    assert isinstance(net.note, nn.Tanh)
    assert "note" not in vars(net)


def test_registration_errors() -> None:
    net = Net()
    with pytest.raises(KeyError, match=r"can't contain '\.'"):
        net.register_buffer("a.b", flamec.zeros(1))
    with pytest.raises(KeyError, match="empty string"):
        net.add_module("", nn.Tanh())
    with pytest.raises(KeyError, match="already exists"):
        net.register_parameter("forward", None)
    with pytest.raises(TypeError, match="not a Module subclass"):
        net.add_module("x", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="required"):
        net.register_parameter("x", flamec.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no submodule `nothing`"):
        net.get_submodule("first.nothing")
    with pytest.raises(AttributeError, match="no parameter `nothing`"):
        net.get_parameter("first.nothing")

    class Early(nn.Module):
        def __init__(self) -> None:
            self.weight = nn.Parameter(flamec.zeros(1))

    with pytest.raises(AttributeError, match=r"before Module.__init__"):
        Early()
    with pytest.raises(NotImplementedError, match='missing the required "forward"'):
        nn.Module()(1)


def test_buffer_class() -> None:
    net = nn.Module()
    net.kept = nn.Buffer(flamec.zeros(2))
    net.dropped = nn.Buffer(flamec.zeros(2), persistent=False)
    assert list(net.state_dict()) == ["kept"]
    assert [n for n, _ in net.named_buffers()] == ["kept", "dropped"]


# parameters ------------------------------------------------------------------------------


def test_parameter() -> None:
    data = flamec.ones(2)
    parameter = nn.Parameter(data)
    assert parameter.requires_grad and parameter.is_leaf
    assert isinstance(parameter, flamec.Tensor)
    assert repr(parameter) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    with flamec.no_grad():
        parameter.add_(1.0)
    np.testing.assert_array_equal(data.numpy(), [2.0, 2.0])  # the memory is shared
    assert not isinstance(parameter * 2, nn.Parameter)
    assert nn.Parameter().shape == (0,)
    with pytest.raises(TypeError, match="must be a Tensor"):
        nn.Parameter([1.0])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="floating-point"):
        nn.Parameter(flamec.ones(2, dtype=flamec.int64))


def test_deep_copy_is_independent() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    assert type(twin.scale) is nn.Parameter
    assert twin.scale is not net.scale
    with flamec.no_grad():
        twin.first.weight.mul_(0.0)
    assert net.first.weight.abs().sum().item() > 0
    net.tied = net.first
    twin = copy.deepcopy(net)
    assert twin.tied is twin.first


# saving and loading -----------------------------------------------------------------------


def test_state_dict_shares_and_loading_copies() -> None:
    net, other = Net(), Net()
    state = net.state_dict()
    assert not state["scale"].requires_grad
    assert type(net.state_dict(keep_vars=True)["scale"]) is nn.Parameter
    other.load_state_dict(state)
    x = tensor(RNG.standard_normal((5, 4)).astype(np.float32))
    np.testing.assert_array_equal(other(x).detach().numpy(), net(x).detach().numpy())
    before = other.scale
    with flamec.no_grad():
        net.scale.mul_(3.0)
    np.testing.assert_array_equal(state["scale"].numpy(), [3.0, 3.0])
    np.testing.assert_array_equal(other.scale.detach().numpy(), [1.0, 1.0])
    assert other.scale is before


def test_loading_lists_every_difference() -> None:
    net = Net()
    state = dict(net.state_dict())
    del state["scale"], state["first.bias"]
    state["extra"] = flamec.zeros(1)
    state["mean"] = flamec.zeros(4)
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    assert text.startswith("Error(s) in loading state_dict for Net:")
    assert 'Missing key(s) in state_dict: "scale", "first.bias"' in text
    assert 'Unexpected key(s) in state_dict: "extra"' in text
    assert "size mismatch for mean: copying a param with shape [4]" in text
    del state["mean"]
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["scale", "mean", "first.bias"]
    assert result.unexpected_keys == ["extra"]
    assert str(net.load_state_dict(net.state_dict())) == "<All keys matched successfully>"
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="expected a Tensor"):
        net.load_state_dict({"scale": 3}, strict=False)


def test_loading_converts_and_assign_replaces() -> None:
    net = nn.Linear(2, 2)
    wide = {k: v.double() for k, v in net.state_dict().items()}
    net.load_state_dict(wide)
    assert net.weight.dtype is flamec.float32
    old = net.weight
    net.load_state_dict(wide, assign=True)
    assert net.weight.dtype is flamec.float64
    assert net.weight is not old and net.weight.requires_grad


def test_pickling_and_prefix() -> None:
    net = nn.Linear(2, 2)
    state = net.state_dict(prefix="model.")
    assert list(state) == ["model.weight", "model.bias"]


# changing everything ----------------------------------------------------------------------


def test_conversion_keeps_the_objects() -> None:
    net = Net()
    net.register_buffer("count", flamec.zeros(1, dtype=flamec.int64))
    weight = net.first.weight
    net(tensor(np.ones((1, 4), np.float32))).sum().backward()
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype is flamec.float64 and weight.requires_grad and weight.is_leaf
    assert weight.grad is not None and weight.grad.dtype is flamec.float64
    assert net.mean.dtype is flamec.float64
    assert net.count.dtype is flamec.int64
    net(tensor(np.ones((1, 4)))).sum().backward()
    assert net.half().mean.dtype is flamec.float16
    assert net.bfloat16().mean.dtype is flamec.bfloat16
    assert net.float().cpu().to("cpu").to(flamec.float64).mean.dtype is flamec.float64
    assert net.to(flamec.zeros(1)).mean.dtype is flamec.float32
    with pytest.raises(TypeError, match="floating point dtypes"):
        net.to(flamec.int64)
    with pytest.raises(TypeError, match="invalid argument"):
        net.to(3.5)


def test_train_eval_apply_requires_grad_zero_grad() -> None:
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    with pytest.raises(ValueError, match="boolean"):
        net.train(1)  # type: ignore[arg-type]
    visited: list[str] = []
    net.apply(lambda m: visited.append(type(m).__name__))
    assert visited[-1] == "Net"
    assert visited.count("Linear") == 3
    net(tensor(np.ones((2, 4), np.float32))).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.scale.grad is not None and not net.scale.grad.numpy().any()
    net.zero_grad()
    assert net.scale.grad is None
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_hooks() -> None:
    layer = nn.Linear(2, 2)
    seen: list[str] = []
    first = layer.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    layer.register_forward_pre_hook(lambda m, args: (args[0] * 0,), prepend=True)
    layer.register_forward_hook(lambda m, args, out: seen.append("post"))
    layer.register_forward_hook(lambda m, args, kwargs, out: out + 1, with_kwargs=True)
    result = layer(tensor(np.ones((1, 2), np.float32)))
    np.testing.assert_allclose(result.detach().numpy()[0], layer.bias.detach().numpy() + 1)
    assert seen == ["pre", "post"]
    first.remove()
    with layer.register_forward_hook(lambda m, args, out: seen.append("scoped")):
        layer(tensor(np.ones((1, 2), np.float32)))
    layer(tensor(np.ones((1, 2), np.float32)))
    assert seen == ["pre", "post", "post", "scoped", "post"]


def test_error_names_the_module() -> None:
    net = Net()
    with pytest.raises(RuntimeError, match="do not match") as error:
        net(tensor(np.ones((2, 5), np.float32)))
    assert "in module first (Linear)" in error.value.__notes__
    assert __file__ in str(error.value)


# tracing ----------------------------------------------------------------------------------


def test_compiled_module_and_scopes() -> None:
    net = Net()
    x = tensor(RNG.standard_normal((5, 4)).astype(np.float32))
    compiled = flamec.compile(net)
    np.testing.assert_allclose(
        compiled(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-6, atol=1e-7
    )
    with flamec.no_grad():
        net.scale.mul_(2.0)
    np.testing.assert_allclose(
        compiled(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-6, atol=1e-7
    )
    assert compiled.stats.traces == 1


def test_compiled_dropout_follows_the_generator_and_the_mode() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    x = tensor(np.ones((3, 4), np.float32))
    compiled = flamec.compile(lambda x: net(x))
    flamec.manual_seed(1)
    expected = [net(x).detach().numpy() for _ in range(3)]
    flamec.manual_seed(1)
    for value in expected:
        np.testing.assert_allclose(compiled(x).detach().numpy(), value, rtol=1e-6)
    net.eval()
    np.testing.assert_allclose(compiled(x).detach().numpy(), net(x).detach().numpy(), rtol=1e-6)


def test_modules_are_not_created_in_a_whole_graph() -> None:
    made = flamec.compile(lambda x: nn.Linear(4, 2)(x), fullgraph=True)
    with pytest.raises(CompileError, match="a Parameter is created"):
        made(tensor(np.ones((1, 4), np.float32)))


def test_utils_can_be_imported_from() -> None:
    from flamec.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

    net = nn.Linear(2, 3)
    vector = parameters_to_vector(net.parameters())
    assert vector.shape == (9,)
    vector_to_parameters(vector.detach() * 0 + 2, net.parameters())
    assert (net.bias.detach().numpy() == 2).all()
    assert clip_grad_norm_(net.parameters(), 1.0).item() == 0
    net.weight.grad = flamec.full((3, 2), math.inf)
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)


def test_functions_that_are_methods() -> None:
    x = tensor(RNG.standard_normal((3, 4)))
    assert flamec.equal(x.relu(), F.relu(x))
    assert flamec.equal(x.softmax(1), F.softmax(x, 1))
    assert x.log_softmax(-1, flamec.float32).dtype is flamec.float32
    assert x.clone().relu_().min().item() >= 0
    assert flamec.equal(x.prelu(flamec.ones(1, dtype=flamec.float64)), x)
    assert flamec.equal(x.hardshrink(10.0), x * 0)


def test_a_layer_that_is_used_twice_has_both_gradients() -> None:
    """The first use's sum is added when the rows of the second are done: nothing overwrites it."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return flamec.tensor(rng.standard_normal(shape), dtype=flamec.float32)

    model = nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 4))
    with flamec.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(*parameter.shape))
    given = draw(4, 6), draw(4, 6)

    def step(a: Any, b: Any) -> None:
        (model(a) * model(b)).sum().backward()

    found = []
    for run in (step, flamec.compile(step)):
        model.zero_grad()
        run(*given)
        found.append([p.grad.numpy() for p in model.parameters() if p.grad is not None])
    for eager, compiled in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-5)


def test_indices_of_classes_with_a_dimension_too_many_are_named() -> None:
    logits = flamec.zeros(4, 3, 5)
    with pytest.raises(RuntimeError, match=r"Indices of classes have the shape \[4, 5\]: squeeze"):
        nn.functional.cross_entropy(logits, flamec.zeros(4, 1, 5, dtype=flamec.int64))
    with pytest.raises(RuntimeError, match=r"the shape \[4\]: squeeze\(1\), or argmax"):
        nn.CrossEntropyLoss()(flamec.zeros(4, 3), flamec.zeros(4, 3, dtype=flamec.int64))
