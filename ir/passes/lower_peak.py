"""Lower the peak of a program's memory by computing values again, one part at a time.

In: the stages of a program. Out: ever other stages, each time with fewer bytes in use at the peak.

Where most bytes are in use, the values that wait for a later stage are either kept or computed
again from what is kept, or from what a kernel had inside and now stores: a minimum cut
(``keep_or_repeat``) between the price of a byte and the cost of the work. What it drops falls into
independent parts; each is computed again just before it is read, if the peak falls for it. The
price rises until nothing more is found. The stages before the peak are cut window by window: what
stands between two windows is kept, so that each window can be computed again by itself, late (Chen
et al., "Training deep nets with sublinear memory cost", 2016). No product is computed more than
twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.group_analysis import analyze
from flamec.ir.iteration_space import Incompatible
from flamec.ir.loop_nest import choose_nest
from flamec.ir.op import OpKind
from flamec.ir.passes.fusion_groups import Fusion
from flamec.ir.passes.keep_or_repeat import NEVER, Item, keep_or_repeat
from flamec.ir.passes.live_ranges import live_bytes
from flamec.ir.passes.plan_memory import LEAST_LENT
from flamec.ir.stages import Scene, Stage, part_of, read_roots
from flamec.ir.tasks import Task, TaskGraph

PRICES = (1.5, 6.0, 24.0, 96.0, 384.0)  # bytes of traffic that freeing one byte may cost
FAIR_PRICES = PRICES[1:2]
MOST_ROUNDS = 32
LEAST = 2000  # parts of the peak that are not worth a kernel
COPIED = 1 << 12  # bytes of an input that may be copied so that its old contents stay readable
EXPENSIVE, CHEAP = 0.5, 0.1  # work of an elementwise result, in its bytes
_PRODUCTS = (OpKind.CONTRACTION, OpKind.ATTENTION)
_PLAIN = (OpKind.ELEMENTWISE, OpKind.VIEW)  # a view that has memory is a copy in another order
_REPEATABLE = (
    *_PRODUCTS,
    *_PLAIN,
    OpKind.REDUCTION,
    OpKind.RANDOM,
    OpKind.GATHER,
    OpKind.SCAN,
)
TaskKey = tuple[int, Task]


@dataclass(frozen=True)
class Costs:
    """The product of each group and the start of a kernel, in bytes that move in that time.

    ``spare``: the work that may be done twice where no memory is asked for.
    """

    products: Sequence[float]
    kernel: float
    spare: float = 0.0


@dataclass
class _Part:
    """Values that are dropped together, the tasks that give them again, what that costs.

    ``stored``: values inside of a kernel from which they are computed, which it stores for that.
    """

    values: set[Value] = field(default_factory=set)
    stored: dict[Value, int] = field(default_factory=dict)  # and the kernel's group
    tasks: dict[int, set[Task]] = field(default_factory=dict)
    cost: float = 0.0
    gain: int = 0


class PeakSearch:
    """A program whose peak is lowered step by step.

    ``windows``: into how many the stages before the peak are divided.
    """

    def __init__(
        self,
        context: TaskGraph,
        fusion: Fusion,
        stages: tuple[Stage, ...],
        costs: Costs,
        windows: int,
    ) -> None:
        self.context = context
        self.groups = fusion.groups
        self.stages = stages
        self._costs = costs
        self._windows = windows
        results = {*context.outputs, *context.updates.values()}
        self.results: dict[Hashable, int] = large_results(context)
        self.size: dict[Hashable, int] = {}
        for stage in stages:
            self.size.update(stage.private)
            for value in stage.stores:
                if value not in results:
                    self.size[value] = value_bytes(value)
        self._private = {stage.group: tuple(stage.private.values()) for stage in stages}
        self.maker: dict[Value, int] = {}  # the group that stores a value
        self.shared: set[Value] = set()  # those that several groups fill
        for stage in stages:
            for value in stage.stores:
                if self.maker.setdefault(value, stage.group) != stage.group:
                    self.shared.add(value)
        self.made = [{v: t for t in group.tasks for v in t.results} for group in self.groups]
        self._alias: dict[Value, Value] = {}
        self._held: set[Hashable] = set()  # memory that second runs read
        self._done: set[Task] = set()  # products that are computed twice already
        self._cost_so_far = 0.0
        self._most: int | None = None  # bytes in use at the peak, if that is known
        self._lowers: dict[tuple[int, frozenset[Task], frozenset[Value]], bool] = {}

    # the chain ---------------------------------------------------------------------------
    def lower(self, most_work: float = NEVER) -> Iterator[float]:
        """Change ``stages`` so that the peak falls, again and again; the work done twice so far.

        With a bound ``most_work`` prices stay low.
        """
        for price in PRICES if most_work == NEVER else FAIR_PRICES:
            for _ in range(MOST_ROUNDS):
                before = self.stages
                yield from self._round(price, most_work)
                if self.stages is before:
                    break

    def peak(self) -> int:
        """The size of the arena, about: what kernels allow to be in place is not known of all,
        and whether results can lend all that they have."""
        if self._most is None:
            self._most = max(self.live(self.stages), default=0)
        return self._most - sum(self.results.values())

    def live(self, stages: Sequence[Stage]) -> list[int]:
        """The bytes in use in each stage, with results from when they are first touched."""
        accesses = [stage.access for stage in stages]
        return live_bytes(accesses, self.size, (), self.results)

    def _round(self, price: float, most_work: float) -> Iterator[float]:
        """Drop what the cuts at the present peak say, part by part, while the peak falls."""
        live = self.live(self.stages)
        if not live:
            return
        top = max(live)
        parts = self._parts(live.index(top), price)
        marker = self.stages[live.index(top)]
        worth = [p for p in parts if p.gain * LEAST > top and p.cost <= p.gain * price]
        for part in sorted(worth, key=lambda p: p.cost / p.gain):
            at = next((i for i, stage in enumerate(self.stages) if stage is marker), None)
            if at is None or not self._held.isdisjoint(part.values):
                continue
            if self._cost_so_far + part.cost > most_work:
                continue
            candidate = self._without(part, at)
            if candidate is None:
                continue
            stages, aliases = candidate
            lower = max(self.live(stages))
            if lower >= top:
                self._forget(part, aliases)
                continue
            top, self.stages = lower, stages
            self._most = lower
            self.maker.update(part.stored)
            self._alias.update(aliases)
            self._done.update(t for tasks in part.tasks.values() for t in tasks)
            self._held.update(m for s in stages if s.again for m in s.loads.values())
            self._cost_so_far += part.cost
            yield self._cost_so_far

    # the cut -----------------------------------------------------------------------------
    def _parts(self, at: int, price: float) -> list[_Part]:
        """What to drop at stage ``at`` if a byte is worth ``price`` bytes of traffic."""
        scene = Scene(self.stages, at)
        waiting = {
            value: position
            for value, position in scene.written.items()
            if value in self.size
            and value not in scene.here
            and value not in self._alias
            and value not in self._held
            and value in scene.later
            and all(stage.is_replaceable for stage in scene.later[value])
        }
        length = -(-at // self._windows) or 1
        windows: dict[int, list[Value]] = {}
        for value, position in waiting.items():
            windows.setdefault(position // length, []).append(value)
        parts: list[_Part] = []
        for required in windows.values():
            parts += self._cut(required, scene, price)
        return parts

    def _cut(self, required: Sequence[Value], scene: Scene, price: float) -> list[_Part]:
        """The same for some of the values; the others that wait are kept for nothing."""
        items: dict[Hashable, Item] = {}
        droppable = set(required)
        pending: list[Hashable] = list(required)
        while pending:
            key = pending.pop()
            if key in items:
                continue
            if isinstance(key, tuple):
                items[key] = self._task_item(key, scene, price)
            else:
                assert isinstance(key, Value)
                keep = self._keeping(key, key in droppable, scene, price)
                items[key] = self._value_item(key, keep, key in scene.written)
            if items[key].repeat < NEVER:
                pending.extend(items[key].needs)
        kept, again = keep_or_repeat(items.values(), required)
        return self._components(items, kept, again, droppable)

    def _keeping(self, value: Value, droppable: bool, scene: Scene, price: float) -> float:
        """The price of reading a value later instead of computing it again."""
        nbytes = value_bytes(value)
        if value in self._alias:
            if value not in scene.written_again:
                return NEVER
        elif value in self.maker and value not in scene.written:
            return NEVER
        name = self._alias.get(value, value)
        free = name not in self.size or (name in scene.later and not droppable)
        return nbytes if free else nbytes + price * nbytes

    def _value_item(self, value: Value, keep: float, written: bool) -> Item:
        group = self.maker.get(value)
        if group is None or value in self._alias or value in self.shared or not written:
            return Item(value, keep, NEVER)
        task = self.made[group].get(value)
        if task is None:
            return Item(value, keep, NEVER)
        again = 2 * value_bytes(value)
        if keep <= again:  # so what is needed for it is not looked at, nor what that needs
            return Item(value, keep, NEVER)
        return Item(value, keep, again, ((group, task),))

    def _task_item(self, key: TaskKey, scene: Scene, price: float) -> Item:
        group, task = key
        keep = NEVER
        if self._can_store(group, task) and group in scene.groups:
            (value,) = task.results
            keep = (2 + price) * value_bytes(value)
        needs: list[Hashable] = []
        for operand in task.operands:
            root = self.context.root(operand)
            if root not in self.context.roots:
                continue
            maker = self.made[group].get(root)
            if maker is not None and self.maker.get(root, group) == group:
                needs.append(root if root in self.maker else (group, maker))
            elif maker is not None and root not in self.maker:
                needs.append((group, maker))
            else:
                needs.append(root)
        return Item(key, keep, self.cost(group, task), tuple(dict.fromkeys(needs)))

    def _can_store(self, group: int, task: Task) -> bool:
        """Whether a kernel may store a result of ``task`` that so far only the kernel reads."""
        if task.kind not in (OpKind.ELEMENTWISE, OpKind.CONTRACTION) or len(task.results) > 1:
            return False
        if task.is_copy or task.after or self.groups[group].absorbed:
            return False
        (value,) = task.results
        return value not in self.maker and len(self.context.producers.get(value, ())) == 1

    def cost(self, group: int, task: Task) -> float:
        if task.is_copy or task.after or task.node is None or task.one_per_row:
            return NEVER
        kind = task.node.op.kind
        if kind not in _REPEATABLE:
            return NEVER
        if any(len(self.context.producers.get(v, ())) > 1 for v in task.results):
            return NEVER
        if kind in _PRODUCTS:
            return NEVER if task in self._done else self._costs.products[group]
        factor = EXPENSIVE if task.node.op.expensive or kind not in _PLAIN else CHEAP
        return factor * sum(map(value_bytes, task.results))

    def _components(
        self,
        items: Mapping[Hashable, Item],
        kept: set[Hashable],
        again: set[Hashable],
        required: set[Value],
    ) -> list[_Part]:
        """What is computed again, in parts of which none needs another."""
        import networkx  # when something is dropped, not when something is compiled

        related = networkx.Graph()
        related.add_nodes_from(key for key in items if key in again)  # in a fixed order
        related.add_edges_from((k, need) for k in again for need in items[k].needs if need in again)
        components = enumerate(networkx.connected_components(related))
        number = {key: i for i, component in components for key in component}
        parts: dict[int, _Part] = {}
        for key in items:
            if key not in again:
                continue
            part = parts.setdefault(number[key], _Part())
            part.cost += items[key].repeat
            if isinstance(key, tuple):
                part.tasks.setdefault(key[0], set()).add(key[1])
            else:
                assert isinstance(key, Value)
                part.values.add(key)
                part.gain += value_bytes(key) if key in required else 0
            for need in items[key].needs:
                if isinstance(need, tuple) and need in kept:
                    (value,) = need[1].results
                    part.stored[value] = need[0]
        for part in parts.values():
            stored = sum(map(value_bytes, part.stored))
            part.gain -= stored
            part.cost += 2 * stored
        for part in parts.values():
            part.cost += self._costs.kernel * len(part.tasks)
        return list(parts.values())

    # changing the program ------------------------------------------------------------------
    def _without(self, part: _Part, at: int) -> tuple[tuple[Stage, ...], dict[Value, Value]] | None:
        """The stages where ``part`` is computed again behind stage ``at``; None if that cannot be.

        The second names are given sizes.
        """
        aliases: dict[Value, Value] = {}
        before, behind = list(self.stages[: at + 1]), list(self.stages[at + 1 :])
        if not all(self._store(v, group, before) for v, group in part.stored.items()):
            self._forget(part, aliases)
            return None
        for group in sorted(part.tasks, reverse=True):
            tasks = tuple(sorted(part.tasks[group], key=lambda t: t.position))
            if not self._can_lower(group, tasks):
                self._forget(part, aliases)
                return None
            made = {v for task in tasks for v in task.results}
            wanted = [v for v in part.values if v in made and self.maker[v] == group]
            stores: dict[Value, Hashable] = {}
            for value in sorted(wanted, key=lambda v: self.made[group][v].position):
                readers = [i for i, stage in enumerate(behind) if stage.loads.get(value) is value]
                if not readers:
                    continue
                alias = Value(value.type, value.node, value.index, value.name)
                stores[value] = aliases[value] = alias
                self.size[alias] = self.size[value]
                for i in readers:
                    behind[i] = behind[i].reading(value, alias)
            if not stores:
                continue
            loads = {v: self._alias.get(v, v) for v in read_roots(tasks, self.context)}
            private = {object(): nbytes for nbytes in self._private[group]}
            self.size.update(private)
            stage = Stage(group, tasks, loads, stores, (), private, again=True, whole=False)
            first = next(
                i
                for i, reader in enumerate(behind)
                if any(memory in stores.values() for memory in reader.loads.values())
            )
            behind.insert(first, stage)
        stages = self._trimmed([*before, *behind], aliases)
        if stages is None or self._reads_unwritten(stages) or self._reads_overwritten(stages):
            self._forget(part, aliases)
            return None
        return stages, aliases

    def _store(self, value: Value, group: int, stages: list[Stage]) -> bool:
        """Let the first run of a group store a value; whether it can."""
        for i, stage in enumerate(stages):
            if stage.group == group and not stage.again:
                stores = {**stage.stores, value: value}
                makes = any(value in task.results for task in stage.tasks)
                if not makes or not self._can_lower(group, stage.tasks, stores):
                    return False
                stages[i] = replace(stage, stores=stores, whole=False)
                self.size[value] = value_bytes(value)
                return True
        return False

    def _forget(self, part: _Part, aliases: Mapping[Value, Value]) -> None:
        """A part is not computed again after all."""
        for value in (*(v for v in part.stored if v not in self.maker), *aliases.values()):
            self.size.pop(value, None)

    def _can_lower(self, group: int, tasks: Sequence[Task], stores: Iterable[Value] = ()) -> bool:
        stored = frozenset(stores)
        key = group, frozenset(tasks), stored
        if key not in self._lowers:
            self._lowers[key] = True
            try:
                for segment in part_of(self.groups[group], tasks).segments:
                    if segment[0].kind is not OpKind.ATTENTION:
                        made = stored.intersection(v for t in segment for v in t.results)
                        escapes = {*segment[-1].results, *made}
                        choose_nest(analyze(segment, self.context), escapes)
            except Incompatible:
                self._lowers[key] = False
        return self._lowers[key]

    def _trimmed(
        self, stages: list[Stage], aliases: Mapping[Value, Value]
    ) -> tuple[Stage, ...] | None:
        """Without first results that nobody reads any more, and without what led to them only."""
        unread = set(aliases)
        while unread:
            read = {memory for stage in stages for memory in stage.loads.values()}
            unread = {v for v in unread if v not in read}
            changed: set[Value] = set()
            kept: list[Stage] = []
            for stage in stages:
                dead = [] if stage.again else [v for v in stage.stores if v in unread]
                if not dead or any(t.kind is OpKind.ATTENTION for t in stage.tasks):
                    kept.append(stage)
                    continue
                shorter = stage.without(dead, self.context)
                loads = {} if shorter is None else shorter.loads
                changed.update(v for v in stage.loads if v not in loads and v in self.size)
                if shorter is None:
                    continue
                if not self._can_lower(stage.group, shorter.tasks):
                    return None
                kept.append(shorter)
            stages, unread = kept, changed
        return tuple(stages)

    def _reads_unwritten(self, stages: Sequence[Stage]) -> bool:
        """Whether a second run reads what is not there yet: another part of the cut gives it."""
        written: set[Hashable] = set()
        for stage in stages:
            if any(m in self.size and m not in written for m in stage.loads.values()):
                return True
            written.update(stage.stores.values())
        return False

    def _reads_overwritten(self, stages: Sequence[Stage]) -> bool:
        """Whether a second run reads a large input that has its new value by then."""
        writer: dict[Value, int] = {}
        for i, stage in enumerate(stages):
            for value in stage.stores:
                writer.setdefault(value, i)
        inputs = self.context.graph.inputs
        overwritten = {
            inputs[position]: writer[value]
            for position, value in self.context.updates.items()
            if value in writer and value_bytes(value) > COPIED
        }
        return any(
            overwritten.get(value, i) < i
            for i, stage in enumerate(stages)
            if stage.again
            for value in stage.loads
        )


def large_results(context: TaskGraph) -> dict[Hashable, int]:
    """The bytes of outputs that lend their memory before they are written."""
    sizes = {value: value_bytes(value) for value in context.outputs}
    return {value: nbytes for value, nbytes in sizes.items() if nbytes >= LEAST_LENT}
