"""The check of a traced call: everything that the trace assumed, as one generated function.

In: a ``Captured`` trace. Out: a ``Check``. No assumption is left out: grad mode,
autocast, default dtype, structure, types, memory shared between tensors, sizes, Python state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from flamec.autograd.hooks import hooks_of_leaf
from flamec.capture import Captured, captured_sources
from flamec.changed_arguments import container_paths
from flamec.float32_precision import settings_of
from flamec.guard_code import Check, CheckBuilder
from flamec.guarded_layouts import add_layouts
from flamec.ir.types import TensorType
from flamec.roots import overlaps_itself
from flamec.separate_memory import add_separate_memory
from flamec.sources import InputSource
from flamec.state import process, thread
from flamec.structures import access_paths, flatten
from flamec.tape import tape_value
from flamec.tensor import Storage, Tensor
from flamec.traced_hooks import Hooks

MANY = 8  # arguments whose memory is not compared in pairs


def build_check(captured: Captured) -> Check:
    """The generated check of everything that a trace assumed."""
    b = CheckBuilder()
    b.add(f"thread.grad_enabled is {captured.modes.grad_mode}", "grad mode")
    b.add(f"process.default_dtype is {b.name(process.default_dtype)}", "default dtype")
    b.add("process.anomaly is None", "anomaly mode is off")
    for kind in settings_of(captured.graph):
        precision = getattr(process.float32_precision, kind)
        b.add(f"process.float32_precision.{kind} == {precision!r}", f"precision of float32 {kind}")
    if captured.trace.reads_cuda_device:
        b.add(f"thread.cuda_device == {thread.cuda_device}", "the GPU that 'cuda' names")
    if captured.trace.reads_default_device:
        device = b.name(captured.modes.default_device)
        b.add(f"thread.default_device == {device}", "default device")
    b.add(f"thread.autocast is {b.name(captured.modes.autocast)}", "autocast state")
    positional, keyword = captured.structure.children
    expressions = [
        *b.add_structure(positional, "args", known=True),
        *b.add_structure(keyword, "kwargs", known=True),
    ]
    b.leaves, labels = expressions, list(expressions)
    for held in captured.held:
        expressions += b.add_structure(held.structure, held.place.text(b.name), False)
        paths = access_paths(held.structure, held.place.name)
        labels += [path for path, part in paths if part.kind is None]
    sizes: dict[str, str] = {}
    values: list[str] = []
    storages: list[tuple[int, str]] = []
    given = zip(expressions, labels, captured.arguments, strict=True)
    for position, (path, label, leaf) in enumerate(given):
        if isinstance(leaf, Tensor):
            variable = f"a{position}"
            shape = captured.argument_types[position].shape
            b.add_tensor(variable, path, label, leaf, shape, sizes)
            b.add(
                f"{variable}._requires_grad is {leaf._requires_grad}",
                f"{label}.requires_grad is {leaf._requires_grad}",
            )
            if not leaf._requires_grad:
                _add_history(b, variable, label, leaf)
            storages.append((position, variable))
            values.append(variable)
        else:
            values.append(path)
            if position in captured.number_arguments:
                b.add(f"type({path}) is {b.name(type(leaf))}", f"{path} is a {type(leaf).__name__}")
            else:
                b.add_constant(path, leaf)
    _add_equal_containers(b, captured)
    if captured.container_count:
        values += _add_containers(b, captured)
    for place in captured.host.lists.places:
        for path in container_paths(captured.structure):
            b.add(f"{path} is not {place.text(b.name)}", f"{path} is not {place.name}")
    _add_gradients(b, captured, storages)
    _add_aliasing(b, captured, storages, labels)
    for size in captured.host.sizes.found:
        b.add_host_size(size)
    late = captured.late_guards
    for guard in [g for g in captured.shape_guards if g not in late]:
        asked = f" (asked at {guard.location})" if guard.location else ""
        b.add(f"({guard})", f"{guard}{asked}")
    for guard in captured.guards:
        b.add_guard(guard)
    add_layouts(b, captured)
    add_separate_memory(b, captured)
    for condition in captured.host.conditions.values():
        b.add_host_condition(condition)
    _add_captured(b, captured)
    ordered = ", ".join(_size_text(s, sizes) for s in captured.given_symbols)
    result = f"(({_tuple(values)}), ({ordered}{',' if ordered else ''}))"
    return b.build(result)


def _add_equal_containers(b: CheckBuilder, captured: Captured) -> None:
    """Of a container that is among the arguments several times the function had one copy."""
    firsts = captured.first_containers
    if len(set(firsts)) == len(firsts):
        return
    paths = container_paths(captured.structure)
    for path, first in zip(paths, firsts, strict=True):
        if path != paths[first]:
            b.add(f"{path} is {paths[first]}", f"{paths[first]} and {path} are one container")


def _add_containers(b: CheckBuilder, captured: Captured) -> list[str]:
    """The containers among the arguments; what is changed is none of the others."""
    paths = container_paths(captured.structure)
    for change in captured.host.refills:
        position = change.position - len(captured.arguments)
        changed = paths[position]
        for path, first in zip(paths, captured.first_containers, strict=True):
            if first != captured.first_containers[position]:
                b.add(f"{changed} is not {path}", f"{changed} and {path} are two containers")
    return paths


class CapturedStorages:
    """The storages of captured tensors, which may get others: ``tensor.data = …``.

    ``present`` are those of the last ``refresh()``; arguments' storages are left out.
    """

    def __init__(self, captured: Captured, arguments: set[Storage]) -> None:
        sources = [s for _, s in captured_sources(captured)]
        self._sources = [
            s for s in sources if s.tensor is not None and s.tensor._storage not in arguments
        ]
        self._fixed = [
            s.storage for s in sources if s.storage is not None and s.storage not in arguments
        ]
        self.present: set[Storage] = self._now()

    def _now(self) -> set[Storage]:
        tensors = (s.tensor for s in self._sources)
        return {*self._fixed, *(t._storage for t in tensors if t is not None)}

    def refresh(self) -> None:
        """Let ``present`` be what the tensors have now."""
        now = self._now()
        if now != self.present:
            self.present.clear()
            self.present.update(now)

    def hold(self) -> bool:
        """Whether they are those of the last ``refresh`` and no two tensors share one."""
        now = self._now()
        return now == self.present and len(now) == len(self._fixed) + len(self._sources)


class CapturedTypes:
    """The types of captured tensors, and which of them must not overlap themselves."""

    def __init__(self) -> None:
        self.types: list[tuple[InputSource, TensorType]] = []
        self.written: list[InputSource] = []

    def hold(self) -> bool:
        """Whether all is as it was."""
        for source, type in self.types:
            tensor = source.tensor
            if tensor is None or (tensor._type is not type and tensor._type != type):
                return False
        return not any(s.tensor is not None and overlaps_itself(s.tensor) for s in self.written)


class TensorHooks:
    """The hooks of captured leaves as they were traced.

    ``changes``: what ``process.hook_changes`` was when the tensors had them last.
    """

    def __init__(self, found: Mapping[Tensor, Hooks]) -> None:
        self._found = dict(found)
        self.changes = process.hook_changes

    def hold(self) -> bool:
        """Whether the tensors have these hooks; to be asked after some tensor's changed."""
        changes = process.hook_changes
        if any(hooks_of_leaf(t) != hooks for t, hooks in self._found.items()):
            return False
        self.changes = changes
        return True


def _tuple(values: list[str]) -> str:
    return ", ".join(values) + ("," if values else "")


def _size_text(symbol: str, sizes: Mapping[str, str]) -> str:
    return sizes.get(symbol, symbol)


def _add_history(b: CheckBuilder, variable: str, path: str, leaf: Tensor) -> None:
    if leaf.requires_grad:
        b.add(f"{variable}.requires_grad", f"{path} requires grad")
    else:
        b.add(
            f"({variable}._value is {variable}._storage.value is None"
            f" or not {variable}.requires_grad)",
            f"{path} does not require grad",
        )


def _add_aliasing(
    b: CheckBuilder, captured: Captured, storages: list[tuple[int, str]], labels: Sequence[str]
) -> None:
    """``labels``: what the leaves behind those of the arguments are called."""
    leaves = captured.arguments
    count = captured.structure.leaf_count
    names = [f"argument {i}" for i in range(count)] + list(labels[count:])
    based = {s.position for s in captured.sources if s.kind == "base"}
    written = {captured.sources[i].position for i in captured.graph.updates} - based
    overlaps = b.name(overlaps_itself)
    apart = len({leaves[p]._storage for p, _ in storages}) == len(storages) > MANY
    if apart:
        found = ", ".join(f"{variable}._storage" for _, variable in storages)
        b.add(f"len({{{found}}}) == {len(storages)}", "no two arguments share memory")
    for i, (position, variable) in enumerate(storages):
        for other, earlier in storages[:i] if not apart else ():
            same = leaves[position]._storage is leaves[other]._storage
            if not same or position not in captured.apart:
                b.add(
                    f"{variable}._storage is {'' if same else 'not '}{earlier}._storage",
                    f"{_both(names, other, position)} {'share' if same else 'do not share'} memory",
                )
            if same:
                one = leaves[position] is leaves[other]
                b.add(
                    f"{variable} is {'' if one else 'not '}{earlier}",
                    f"{_both(names, other, position)} are {'one' if one else 'two'} tensors",
                )
        leaf = leaves[position]
        shares = any(
            leaf._storage is leaves[o]._storage and leaf is not leaves[o] for o, _ in storages
        )
        if position in based or (shares and position not in captured.apart):
            steps = b.name(leaves[position]._steps)
            base = b.name(leaves[position]._storage.base_type)
            b.add(
                f"{variable}._steps == {steps} and {variable}._storage.base_type == {base}",
                f"{names[position]} views its memory the same way",
            )
        if position in written:
            b.add(f"not {overlaps}({variable})", f"no elements of {names[position]} overlap")
    aliased = {id(t._storage) for _, t in captured.aliases}
    fixed = CapturedStorages(captured, {leaves[p]._storage for p, _ in storages})
    if fixed.present:
        b.refreshes.append(fixed.refresh)
        b.add(f"{b.name(fixed)}.hold()", "captured tensors share no memory", captured=True)
        held = b.name(fixed.present)
        for position, variable in storages:
            if id(leaves[position]._storage) not in aliased:
                b.add(
                    f"{variable}._storage not in {held}",
                    f"{names[position]} shares no memory with captured tensors",
                )
    for position, tensor in captured.aliases:
        b.add(
            f"a{position}._storage is {b.name(tensor)}._storage",
            f"{names[position]} is the captured tensor",
        )


def _both(names: Sequence[str], first: int, second: int) -> str:
    """Two leaves: "arguments 0 and 1", "argument 0 and net.hidden"."""
    one, two = names[first], names[second]
    if two.startswith("argument "):
        return f"arguments {first} and {second}"
    return f"{one} and {two}"


def _captured_label(tensor: Tensor) -> str:
    return getattr(tensor, "_name", "") or "tensor"


def _add_gradients(b: CheckBuilder, captured: Captured, storages: list[tuple[int, str]]) -> None:
    """Whose gradients the function reads and writes, and what they are at first."""
    gradients = captured.trace.gradients
    fixed = _known_otherwise(captured)

    def begins(owner: str, gradient: Tensor | None, label: str) -> None:
        if gradient is None:
            b.add(f"{owner}._grad is None", f"{label} is None")
        else:
            b.add(f"{owner}._grad is {b.name(gradient)}", f"{label} is the same tensor")

    for position, gradient in gradients.argument_reads.items():
        begins(f"a{position}", gradient, f"grad of argument {position}")
    for tensor, gradient in gradients.reads.items():
        owner, label = b.name(tensor), f"grad of captured {_captured_label(tensor)}"
        if gradient is None or id(gradient) in fixed:
            begins(owner, gradient, label)
            continue
        present, type = f"{owner}._grad", b.name(gradient._type)
        for captured_only in (False, True):
            b.add(f"{present} is not None", f"{label} is there", captured=captured_only)
        b.add(f"({present}._type is {type} or {present}._type == {type})", f"type of {label}")
        b.add(
            f"{present}._requires_grad is False and {present}._value is None"
            f" and {present}._storage.value is None",
            f"{label} has no history",
        )
    for position, tensor in gradients.named.items():
        b.add(f"a{position} is {b.name(tensor)}", f"argument {position} is the captured tensor")
    written = {e.target: None for e in captured.grads if isinstance(e.target, Tensor)}
    for tensor in {**gradients.reads, **written}:
        for position, variable in storages:
            if tensor in written and not captured.arguments[position]._requires_grad:
                continue  # then it is not the same tensor, as its requires_grad is guarded
            text = f"{variable} is not {b.name(tensor)}"
            b.add(text, f"argument {position} is not captured {_captured_label(tensor)}")


def _known_otherwise(captured: Captured) -> set[int]:
    """The gradients, by id, that a program needs as the very tensors that were traced.

    Others may take their place: nothing that the function read leads to them but ``.grad`` of
    one tensor, and it neither returned nor kept them.
    """
    trace = captured.trace
    found = [g for g in trace.gradients.reads.values() if g is not None]
    if not found:
        return set()
    ids = [id(g) for g in found]
    fixed = {i for i in ids if ids.count(i) > 1}
    fixed |= {id(g) for g in found if g._requires_grad or tape_value(g) is not None}
    fixed |= {id(g) for g in found if overlaps_itself(g)}
    effects = [e.result for e in captured.grads]
    fixed |= {id(r.value) for r in (*captured.results, *effects)}
    fixed |= {id(s.held) for s in captured.sources}
    fixed |= {id(t) for _, t in captured.aliases}
    fixed |= {id(t) for t in (*trace.sharing, *trace.requires_grad_reads, *trace.hooks.reads)}
    fixed |= {id(source.tensor) for source in trace.sharing.values()}
    for guard in captured.guards:
        held = guard.expected
        is_collection = isinstance(held, (deque, set, frozenset))
        fixed |= {id(leaf) for leaf in (held if is_collection else flatten(held)[0])}
    bases = {id(s.storage) for s in captured.sources if s.storage is not None}
    return fixed | {id(g) for g in found if id(g._storage) in bases}


def _add_captured(b: CheckBuilder, captured: Captured) -> None:
    trace = captured.trace
    types = CapturedTypes()
    for position, source in enumerate(captured.sources):
        tensor = source.tensor
        if source.kind == "captured" and tensor is not None:
            name = b.name(tensor) if source.owner is None else f"{b.name(source.owner)}._grad"
            label = source.name or "tensor"
            types.types.append((source, tensor._type))
            meaning = partial("captured {} is {}".format, label, tensor._type)
            b.add(f"{name}._type == {b.name(tensor._type)}", meaning, captured=True, merged=True)
            if not tensor._requires_grad and tensor._type.dtype.is_floating_point:
                _add_history(b, name, f"captured {label}", tensor)
            if position in captured.graph.updates:
                types.written.append(source)
                text = f"not {b.name(overlaps_itself)}({name})"
                b.add(text, f"no elements of captured {label} overlap", captured=True, merged=True)
            b.add(
                f"{name}._requires_grad is {tensor._requires_grad}",
                f"captured {label}.requires_grad",
            )
    if types.types:
        b.add(f"{b.name(types)}.hold()", "types of captured tensors", captured=True)
    for tensor, source in trace.sharing.items():
        held = source.storage if source.tensor is None else source.tensor
        owner = b.name(held) if source.tensor is None else f"{b.name(held)}._storage"
        text = f"{b.name(tensor)}._storage is {owner}"
        b.add(text, f"captured {_captured_label(tensor)} shares memory with another")
        for viewed in (tensor, source.tensor):
            if viewed is not None:
                text = f"{b.name(viewed)}._steps == {b.name(viewed._steps)}"
                b.add(text, f"captured {_captured_label(viewed)} views its memory the same way")
    for tensor, flag in trace.requires_grad_reads.items():
        b.add(f"{b.name(tensor)}._requires_grad is {flag}", "requires_grad of a captured tensor")
    if trace.calls_modules:
        from flamec.nn.hooks import GLOBAL

        b.add(f"{b.name(GLOBAL)}.changes == {GLOBAL.changes}", "hooks of all modules")
    if trace.steps_optimizers:
        changes = process.step_hook_changes
        b.add(f"process.step_hook_changes == {changes}", "hooks of optimizers' steps")
    if trace.hooks.reads:
        hooks = b.name(TensorHooks(trace.hooks.reads))
        text = f"(process.hook_changes == {hooks}.changes or {hooks}.hold())"
        b.add(text, "hooks of captured tensors")
    for position, found in trace.hooks.argument_reads.items():
        text = f"{b.name(hooks_of_leaf)}(a{position}) == {b.name(found)}"
        b.add(text, f"hooks of argument {position}")
    for container, key, condition, expected in trace.conditions:
        b.add(
            f"bool({b.name(condition)}({b.name(container)}[{key!r}])) is {expected}",
            f"the condition on {key!r} is {expected}",
        )
