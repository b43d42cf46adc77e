"""What fusion is asked and what it gives, as data.

In: ``FusionOptions``. Out: a ``Fusion``: groups of tasks, each of which becomes one kernel, in
execution order, the values that must be stored, and the decisions that led there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flamec.ir.graph import Value
from flamec.ir.op import OpKind
from flamec.ir.passes.absorb_prologues import Absorbed
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """``enabled=False`` makes a group of every task.

    ``elementwise_epilogues``: a product shares its kernel with elementwise operations only, as
    many as there are, because the blocks of a GPU hold no whole rows of it; and with folds over
    its rows that no other kernel does on the way.
    ``recompute_expensive``: memory is so slow that functions such as exp are computed again
    rather than stored. ``prologues``: products may compute their operands where they load them.
    ``blocks``: what a device wants to work on side by side; folds whose results are used over the
    same long rows again stay apart if there are fewer rows. ``bundled_scalars``: operations on
    scalars that go with independent writers; the norm of all gradients is hundreds.
    """

    enabled: bool = True
    elementwise_epilogues: bool = False
    recompute_expensive: bool = False
    prologues: bool = False
    blocks: int = 1
    bundled_scalars: int = 1 << 16


@dataclass(frozen=True, slots=True)
class FusionDecision:
    """Whether a producer was merged with a consumer, and the reason."""

    producer: str
    consumer: str
    made: bool
    reason: str


@dataclass(frozen=True)
class FusionGroup:
    """Tasks that become one kernel.

    ``segments`` are the sets of tasks that share loops: one, or several side by side, the first
    of which may be scalars that the others need (``shared_scalars``).
    ``anchor`` is the product, reduction, scan or scatter that gives the loops their shape,
    ``prologue`` what leads to it, ``epilogue`` the rest. ``absorbed`` are the tasks that compute
    an operand (by its position) of a product where that loads it; they have loops of their own.
    """

    segments: tuple[tuple[Task, ...], ...]
    absorbed: Absorbed = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        sets = (*self.absorbed.values(), *self.segments)
        return tuple(dict.fromkeys(task for segment in sets for task in segment))

    @property
    def anchor(self) -> Task | None:
        order = (OpKind.CONTRACTION, OpKind.SCATTER, OpKind.SCAN, OpKind.REDUCTION)
        found = [t for kind in order for t in self.tasks if t.kind is kind]
        return found[0] if found else None

    @property
    def prologue(self) -> tuple[Task, ...]:
        anchor = self.anchor
        return tuple(t for t in self.tasks if anchor and t.position < anchor.position)

    @property
    def epilogue(self) -> tuple[Task, ...]:
        anchor = self.anchor
        return tuple(t for t in self.tasks if not anchor or t.position > anchor.position)


@dataclass(frozen=True)
class Fusion:
    """The result: groups in execution order; ``escapes`` are the values that must be stored.
    ``signatures``: those of the tasks."""

    groups: tuple[FusionGroup, ...]
    decisions: tuple[FusionDecision, ...]
    escapes: set[Value]
    signatures: TaskSignatures

    def stores(self) -> list[set[Value]]:
        """For each group the escapes that it stores: of several that compute one, the first."""
        done: set[Task] = set()
        found = []
        for group in self.groups:
            fresh = [task for task in group.tasks if task not in done]
            found.append({v for task in fresh for v in task.results if v in self.escapes})
            done.update(fresh)
        return found
