"""The schedule of each part of a kernel: given by the options, or by rule of thumb.

In: a part and options. Out: a ``Choice``, which names the part, so that options of a later run may
give another schedule. Schedules become plain data and come back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flamec.codegen.options import CodegenOptions, Schedule
from flamec.codegen.triton.attention_choice import (
    AttentionLaunch,
    attention_candidates,
    attention_fits,
    attention_key,
)
from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.part_key import PartKey, actual, part_key
from flamec.codegen.triton.product_choice import product_candidates, product_fits
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.tile_candidates import tile_candidates, tile_fits
from flamec.codegen.triton.tiling import Tile, propose
from flamec.ir.kernel import Part

_FORMS: dict[str, type[Tile] | type[ProductSchedule] | type[AttentionSchedule]] = {
    "rows": Tile,
    "product": ProductSchedule,
    "attention": AttentionSchedule,
}
_EXAMPLES: dict[str, Schedule] = {
    "rows": Tile(1, 1, False, False, 0, 1),
    "product": ProductSchedule(1, 1, 0, 1, 1),
    "attention": AttentionSchedule(16, 16, 1, 1),
}
Schedulable = Part | AttentionLaunch


class ScheduleWarning(UserWarning):
    """A schedule that the options give cannot be used."""


@dataclass(frozen=True)
class Choice:
    """The schedule that a part got, and what is needed to look for a better one."""

    name: PartKey
    schedule: Schedule
    part: Schedulable

    @property
    def key(self) -> str:
        """The part's key in ``CodegenOptions.schedules``."""
        return self.name.text


def choose_schedule(part: Schedulable, options: CodegenOptions) -> Choice:
    """The given schedule if there is one that fits, else the first of ``candidates``.

    ScheduleWarning for one that does not fit.
    """
    if isinstance(part, AttentionLaunch):
        name = attention_key(part, options)
    else:
        name = part_key(part, options)
    given = options.schedules.get(name.text)
    if given is not None:
        if fits(given, part, options):
            return Choice(name, given, part)
        warnings.warn(
            f"a schedule that was given does not fit its kernel and is not used: {given} for "
            f"{name.text} on {options.target}",
            ScheduleWarning,
            stacklevel=2,
        )
    if isinstance(part, AttentionLaunch):
        return Choice(name, attention_candidates(part, options, 1)[0], part)
    if part.program.contraction is not None:
        return Choice(name, product_candidates(part.program, options, 1)[0], part)
    return Choice(name, propose(actual(part), options), part)


def candidates(part: Schedulable, options: CodegenOptions, most: int) -> list[Schedule]:
    """Schedules to choose from: the one by rule of thumb, then the most promising ones."""
    if isinstance(part, AttentionLaunch):
        return [*attention_candidates(part, options, most)]
    if part.program.contraction is not None:
        return [*product_candidates(part.program, options, most)]
    return [*tile_candidates(actual(part), options, most)]


def fits(schedule: Schedule, part: Schedulable, options: CodegenOptions) -> bool:
    """Whether a part can be written with a schedule."""
    if isinstance(part, AttentionLaunch):
        return isinstance(schedule, AttentionSchedule) and attention_fits(schedule, part, options)
    if part.program.contraction is not None:
        return isinstance(schedule, ProductSchedule) and product_fits(
            schedule, part.program, options
        )
    return isinstance(schedule, Tile) and tile_fits(schedule, actual(part), options)


def schedule_data(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain data."""
    form = next(form for form, kind in _FORMS.items() if isinstance(schedule, kind))
    return {"form": form, **asdict(schedule)}


def schedule_from(data: Mapping[str, Any]) -> Schedule:
    """The inverse of ``schedule_data``; ValueError for anything else."""
    fields = {name: value for name, value in data.items() if name != "form"}
    try:
        schedule = _FORMS[data["form"]](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a schedule: {dict(data)}") from error
    wrong = [
        name
        for name, value in asdict(schedule).items()
        if not isinstance(value, int)
        or isinstance(value, bool) != isinstance(getattr(_EXAMPLES[data["form"]], name), bool)
    ]
    if wrong:
        raise ValueError(f"not a schedule, {', '.join(wrong)} of a wrong type: {dict(data)}")
    return schedule
