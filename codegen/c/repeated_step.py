"""Kernels of equal structure as one C function.

In: the text of a step whose buffers are in a table ``at``, and the kernels that it stands for. Out:
the function of each: the text itself where it is the only one, else a call of what they share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from flamec.codegen.c.rendering import render
from flamec.ir.kernel import Kernel

NAME, COMMENT = "NAME", "COMMENT"  # in the text, where those of a kernel will be
_TITLE = f"/* {COMMENT} */\nstatic int64_t {NAME}(FlamecCall *call) {{\n"
_PLACE = re.compile(r"\bat\[(\d+)\]")


@dataclass
class RepeatedStep:
    """``uses``: name, comment and buffers of each kernel. ``kernel``, the first, is kept alive
    because its parts are what others are recognized by."""

    kernel: Kernel
    text: str
    uses: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def shared(self) -> str:
        """The name of the function that several share."""
        return self.uses[0][0].replace("step_", "steps_")

    def function(self, use: int, own: bool = True) -> str:
        """The C function of a kernel, and before the first the one that they share.

        ``own``: whether each kernel has one; else the first has the shared one alone.
        """
        name, comment, buffers = self.uses[use]
        if len(self.uses) == 1:
            text = _PLACE.sub(lambda place: str(buffers[int(place[1])]), self.text)
            return self._titled(text, comment, f"static int64_t {name}(FlamecCall *call)")
        text = ""
        if own:
            places = ", ".join(map(str, buffers)) or "0"
            holes = {"name": name, "comment": comment, "shared": self.shared, "places": places}
            text = render("repeated.c.j2", holes)
        if use:
            return text
        same = f"What {len(self.uses)} kernels do, each with buffers of its own."
        head = f"int64_t {self.shared}(FlamecCall *call, const int32_t *at)"
        head = f"static __attribute__((noinline, noclone)) {head}"
        return self._titled(self.text, same, head) + text

    def _titled(self, text: str, comment: str, head: str) -> str:
        assert text.startswith(_TITLE)
        return f"/* {comment} */\n{head} {{\n{text.removeprefix(_TITLE)}"
