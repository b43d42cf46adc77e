"""Methods with an underscore that PyTorch's users override or call in modules of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")


def _numbers(package: Any, *shape: int) -> Any:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return package.from_numpy(values)


def _state(module: Any) -> dict[str, Any]:
    return {name: value.tolist() for name, value in module.state_dict().items()}


def loading(p: Any) -> Any:
    """Old checkpoints: another name, a missing buffer, an entry that is not wanted any more."""
    seen: list[Any] = []

    class Frozen(p.nn.Module):
        _version = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = p.nn.Parameter(p.ones(2))
            self.register_buffer("count", p.zeros(1))
            self.inner = p.nn.Linear(2, 2)
            self.empty = p.nn.ModuleList()

        def _load_from_state_dict(
            self, state, prefix, meta, strict, missing, unexpected, errors
        ) -> None:
            if prefix + "gamma" in state:
                state[prefix + "weight"] = state.pop(prefix + "gamma")
            super()._load_from_state_dict(state, prefix, meta, strict, missing, unexpected, errors)
            missing[:] = [key for key in missing if not key.endswith("count")]
            seen.append((prefix, meta.get("assign_to_params_buffers")))

        def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination.pop(prefix + "count")

    net = p.nn.Sequential(p.nn.Linear(2, 2), Frozen())
    state = {k: _numbers(p, *v.shape) for k, v in net.state_dict().items()}
    state["1.gamma"] = state.pop("1.weight") * 3
    results: list[Any] = [list(state), str(net.load_state_dict(dict(state))), _state(net)]
    state["1.else"] = state["1.inner.else"] = state["1.empty.0"] = p.zeros(1)
    state["1.gamma"] = p.zeros(3)
    del state["0.bias"], state["1.inner.bias"]
    for strict in (True, False):
        try:
            results.append(str(net.load_state_dict(dict(state), strict=strict)))
        except RuntimeError as error:
            results.append(sorted(str(error).replace("torch.Size(", "").replace(")", "").split()))
    return results, seen


def old_hooks(p: Any) -> Any:
    class Attention(p.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = p.nn.Linear(2, 6, bias=False)
            self._register_load_state_dict_pre_hook(self.join)
            self._register_load_state_dict_pre_hook(lambda m, s, *_: None, with_module=True)
            self._register_state_dict_hook(lambda m, s, prefix, meta: {**s, prefix + "more": s})

        def join(self, state, prefix, *_) -> None:
            if prefix + "q.weight" in state:
                parts = [state.pop(f"{prefix}{name}.weight") for name in "qkv"]
                state[prefix + "qkv.weight"] = p.cat(parts)

    net = Attention()
    split = {f"{n}.weight": _numbers(p, 2, 2) + i for i, n in enumerate("qkv")}
    result = str(net.load_state_dict(split)), net.qkv.weight.tolist(), [*net.state_dict()]
    bare = p.nn.Linear(1, 1)
    bare._register_state_dict_hook(lambda *_: {})
    assert bare.state_dict() == {}
    net.register_state_dict_post_hook(lambda *_: {})
    with pytest.raises(RuntimeError, match="post-hook must return None"):
        net.state_dict()
    return result


def conversion(p: Any) -> Any:
    class Cell(p.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frequencies = [p.ones(2)]

        def _apply(self, fn, recurse=True):
            super()._apply(fn, recurse)
            self.frequencies = [fn(f) for f in self.frequencies]
            return self

    net = p.nn.Sequential(p.nn.Linear(2, 2), Cell())
    dtypes = [str(net.double()[1].frequencies[0].dtype), str(net.half()[1].frequencies[0].dtype)]
    return [d.split(".")[1] for d in dtypes], str(net[0].weight.dtype).split(".")[1]


def subclasses(p: Any) -> Any:
    class Standardized(p.nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            return self._conv_forward(x, w, self.bias)

    class Norm(p.nn.BatchNorm1d):
        def _check_input_dim(self, input) -> None:
            if input.dim() != 4:
                raise ValueError("four dimensions, please")

        def forward(self, input):
            self._check_input_dim(input)
            return super().forward(input)

    conv = Standardized(2, 4, 3, padding=(1, 2), padding_mode="reflect", groups=2)
    with p.no_grad():
        conv.weight.copy_(_numbers(p, 4, 1, 3, 3))
        conv.bias.fill_(0.5)
    y = conv(_numbers(p, 2, 2, 5, 5))
    with pytest.raises(ValueError, match="four dimensions, please"):
        Norm(4)(y[0])
    y = Norm(4)(y)
    return np.round(y.detach().numpy(), 4).tolist(), list(conv._reversed_padding_repeated_twice)


@pytest.mark.parametrize("program", [loading, old_hooks, conversion, subclasses])
def test_inner_methods(program: Callable[[Any], Any]) -> None:
    mine, wanted = program(flamec), program(torch)
    if program is subclasses:
        np.testing.assert_allclose(mine[0], wanted[0], atol=2e-4)
        mine, wanted = mine[1], wanted[1]
    assert mine == wanted
