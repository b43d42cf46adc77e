"""Pruning by masks, under PyTorch's names: ``flamec.nn.utils.prune``.

A pruned parameter ``weight`` is the parameter ``weight_orig`` times the buffer ``weight_mask`` of
ones and zeros. The product is an ordinary attribute ``weight``, computed anew before each call of
the module. Pruning again prunes what is left, by what the product was at the last call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import flamec
from flamec.nn.module import Module
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "BasePruningMethod", "CustomFromMask", "Identity", "L1Unstructured", "LnStructured",
    "RandomStructured", "RandomUnstructured", "custom_from_mask", "global_unstructured", "identity",
    "is_pruned", "l1_unstructured", "ln_structured", "random_structured", "random_unstructured",
    "remove",
]  # fmt: skip


def _count(amount: int | float, size: int) -> int:
    """How many of ``size`` an amount is: a whole number, or a share between 0 and 1."""
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    if amount < 0 or (isinstance(amount, float) and amount > 1.0):
        raise ValueError(
            f"amount={amount} should either be a float in the range [0, 1] or a non-negative "
            "integer"
        )
    if isinstance(amount, int) and amount > size:
        raise ValueError(
            f"amount={amount} should be smaller than the number of parameters to prune={size}"
        )
    return amount if isinstance(amount, int) else round(amount * size)


class BasePruningMethod:
    """A way to choose what is pruned; an instance is the hook that computes the product.

    A subclass has ``PRUNING_TYPE`` and ``compute_mask(t, default_mask)``. Of a tensor that is
    pruned already, ``"unstructured"`` is given the elements that are left as a vector,
    ``"structured"`` the slices along ``self.dim`` that are left, ``"global"`` everything.
    """

    PRUNING_TYPE = "unstructured"
    _tensor_name: str

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Ones where ``t`` is to be kept, of the shape of ``default_mask``."""
        raise NotImplementedError(f"{type(self).__name__} has no compute_mask")

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    def apply_mask(self, module: Module) -> Tensor:
        """The parameter times its mask."""
        original = getattr(module, self._tensor_name + "_orig")
        mask = getattr(module, self._tensor_name + "_mask")
        return mask.to(original.dtype) * original

    @classmethod
    def apply(
        cls,
        module: Module,
        name: str,
        *args: Any,
        importance_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> BasePruningMethod:
        """Prune the parameter ``name``; ``importance_scores`` are looked at instead of it."""
        method = cls(*args, **kwargs)
        method._tensor_name = name
        earlier, present = _hook_of(module, name), getattr(module, name)
        scores = present if importance_scores is None else importance_scores
        if scores.shape != present.shape:
            raise ValueError("importance_scores should have the same shape as parameter " + name)
        if earlier is None:
            mask = flamec.ones_like(present, requires_grad=False)
            del module._parameters[name]
            module.register_parameter(name + "_orig", present)
        else:
            mask = getattr(module, name + "_mask").clone()
            _remove_hook(module, earlier)
        with no_grad():
            mask = method._further(scores.detach(), mask)
        module.register_buffer(name + "_mask", mask)
        setattr(module, name, method.apply_mask(module))
        module.register_forward_pre_hook(method)
        return method

    def _further(self, t: Tensor, mask: Tensor) -> Tensor:
        """A mask with what is pruned now, too."""
        if self.PRUNING_TYPE == "unstructured":
            left = mask == 1
            mask = mask.clone()
            mask[left] = self.compute_mask(t[left], mask[left])
            return mask
        if self.PRUNING_TYPE == "structured":
            dim = getattr(self, "dim", 0) % t.ndim
            others = [d for d in range(t.ndim) if d != dim]
            left = mask.sum(others).nonzero().squeeze(1)
            kept = self.compute_mask(t.index_select(dim, left), mask.index_select(dim, left))
            return mask.index_copy(dim, left, kept)
        return self.compute_mask(t, mask)

    def prune(
        self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None
    ) -> Tensor:
        """A pruned copy of a tensor that is no module's."""
        mask = flamec.ones_like(t) if default_mask is None else default_mask
        scores = t if importance_scores is None else importance_scores
        return t * self.compute_mask(scores, mask)

    def remove(self, module: Module) -> None:
        """Make the product the parameter again; what is pruned stays zero."""
        name = self._tensor_name
        original: Any = module._parameters[name + "_orig"]
        with no_grad():
            original.data = self.apply_mask(module).data
        delattr(module, name)
        del module._parameters[name + "_orig"], module._buffers[name + "_mask"]
        setattr(module, name, original)


def _hooks(module: Module) -> Iterable[tuple[int, BasePruningMethod]]:
    for number, (hook, _) in list(module._forward_pre_hooks.items()):
        if isinstance(hook, BasePruningMethod):
            yield number, hook


def _hook_of(module: Module, name: str) -> BasePruningMethod | None:
    return next((hook for _, hook in _hooks(module) if hook._tensor_name == name), None)


def _remove_hook(module: Module, method: BasePruningMethod) -> None:
    for number, hook in _hooks(module):
        if hook is method:
            del module._forward_pre_hooks[number]


class Identity(BasePruningMethod):
    """Nothing is pruned, but the parameter has a mask."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


class _ByScore(BasePruningMethod):
    """The elements with the least scores go."""

    def __init__(self, amount: int | float) -> None:
        _count(amount, 1 << 62)
        self.amount = amount

    def _scores(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = _count(self.amount, t.numel())
        mask = default_mask.clone()
        if count:
            least = self._scores(t).flatten().topk(count, largest=False).indices
            mask.view(-1)[least] = 0
        return mask


class L1Unstructured(_ByScore):
    """The elements of the least magnitude go."""

    def _scores(self, t: Tensor) -> Tensor:
        return t.abs()


class RandomUnstructured(_ByScore):
    """Elements chosen at random go."""

    def _scores(self, t: Tensor) -> Tensor:
        return flamec.rand_like(t)


class _Structured(BasePruningMethod):
    """The slices along ``dim`` with the least scores go."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: int | float, dim: int = -1) -> None:
        _count(amount, 1 << 62)
        self.amount, self.dim = amount, dim

    def _scores(self, slices: Tensor) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        dim = self.dim % t.ndim
        count = _count(self.amount, t.shape[dim])
        if not count:
            return default_mask
        scores = self._scores(t.movedim(dim, 0).flatten(1))
        least = scores.topk(count, largest=False).indices
        return default_mask.index_fill(dim, least, 0)


class LnStructured(_Structured):
    """The slices with the least ``n``-norm go."""

    def __init__(self, amount: int | float, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def _scores(self, slices: Tensor) -> Tensor:
        return flamec.norm(slices, p=self.n, dim=1)


class RandomStructured(_Structured):
    """Slices chosen at random go."""

    def _scores(self, slices: Tensor) -> Tensor:
        return flamec.rand(slices.shape[0], device=slices.device)


class CustomFromMask(BasePruningMethod):
    """What the given mask has as 0 goes."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask * self.mask.to(default_mask.dtype)


def identity(module: Module, name: str) -> Module:
    """Give a parameter a mask of ones."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: int | float) -> Module:
    """Prune elements chosen at random: a number of them, or a share of those that are left."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(
    module: Module, name: str, amount: int | float, importance_scores: Tensor | None = None
) -> Module:
    """Prune the elements of the least magnitude: a number, or a share of those that are left."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Module, name: str, amount: int | float, dim: int) -> Module:
    """Prune slices along ``dim`` chosen at random."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Module,
    name: str,
    amount: int | float,
    n: Any,
    dim: int,
    importance_scores: Tensor | None = None,
) -> Module:
    """Prune the slices along ``dim`` with the least ``n``-norm."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune where ``mask`` is 0."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[BasePruningMethod],
    importance_scores: dict[tuple[Module, str], Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Prune the elements of several parameters as if they were one vector."""
    chosen, scores = list(parameters), importance_scores or {}
    vectors, masks = [], []
    for module, name in chosen:
        pruned = _hook_of(module, name) is not None
        present = getattr(module, name).detach()
        vectors.append(scores.get((module, name), present).detach().flatten())
        mask = getattr(module, name + "_mask") if pruned else flamec.ones_like(present)
        masks.append(mask.flatten())
    with no_grad():
        mask = pruning_method(**kwargs)._further(flamec.cat(vectors), flamec.cat(masks))
    parts = mask.split([len(v) for v in vectors])
    for (module, name), part in zip(chosen, parts, strict=True):
        custom_from_mask(module, name, part.view(getattr(module, name).shape))


def remove(module: Module, name: str) -> Module:
    """Make a pruned parameter an ordinary one again; what is pruned stays zero."""
    method = _hook_of(module, name)
    if method is None:
        raise ValueError(
            f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed"
        )
    method.remove(module)
    _remove_hook(module, method)
    return module


def is_pruned(module: Module) -> bool:
    """Whether a parameter of the module or of a module in it is pruned."""
    return any(True for part in module.modules() for _ in _hooks(part))
