"""A compiled kernel as data: machine code and what is needed to launch it.

In: what a compiler made. Out: ``KernelBinary``, and one byte string that holds all of it, for
the cache. Invariant: nothing here depends on Triton or on a device, so a second process
launches cached kernels without either compiler.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flamec.runtime.cuda.tensor_map import TensorMapLayout

_MAGIC = b"flamec kernel 1\n"
TEXT_STAGES = ("ttir", "ttgir", "llir", "ptx")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the machine code, in launch order.

    ``kind``: ``"pointer"``, ``"int"``, ``"float"`` (``size`` bytes each), ``"tensor_map"``
    (128 bytes), ``"scratch"`` (a pointer to memory for the kernel itself) or ``"null"`` (a
    pointer that stays null). ``argument`` is the position of the source's argument that it
    comes from (constants are not arguments; -1 for scratch and null). A tensor
    descriptor becomes several parameters: ``component`` says which part one is: ``"base"``
    (the map, or the pointer where the target has none), ``"shape"`` or ``"stride"`` (of
    dimension ``dimension``) or ``"flag"`` (which stays 0); it is empty for ordinary arguments.
    """

    kind: str
    size: int
    argument: int
    component: str = ""
    dimension: int = 0


@dataclass(frozen=True, slots=True)
class KernelBinary:
    """Machine code for one target, with what a launch and a report need.

    ``threads`` of a block, ``shared_bytes`` of dynamic shared memory, ``cluster`` blocks that
    form a cluster. ``registers`` and ``stack_bytes`` are of one thread; a stack that is not
    empty usually means spilled registers. ``tensor_maps`` has an entry for each parameter of
    that kind, in their order. ``scratch_bytes`` of global memory are needed for each block.
    ``texts`` holds the stages before machine code, by name.
    """

    name: str
    target: str
    machine_code: bytes
    threads: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    parameters: tuple[Parameter, ...]
    tensor_maps: tuple[TensorMapLayout, ...] = ()
    scratch_bytes: int = 0
    cluster: int = 1
    cooperative: bool = False
    dependent_launch: bool = False
    compiler: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """All of it as one byte string."""
        facts = asdict(self)
        texts = facts.pop("texts")
        facts.pop("machine_code")
        packed = {stage: zlib.compress(text.encode(), 6) for stage, text in texts.items()}
        facts["code_size"] = len(self.machine_code)
        facts["text_sizes"] = {stage: len(content) for stage, content in packed.items()}
        header = json.dumps(facts, separators=(",", ":")).encode()
        return b"".join(
            (_MAGIC, len(header).to_bytes(8, "little"), header, self.machine_code, *packed.values())
        )

    @staticmethod
    def from_bytes(content: bytes, texts: bool = False) -> KernelBinary:
        """The inverse of ``to_bytes``; the texts are left out unless asked for.

        ValueError for anything else than what ``to_bytes`` makes.
        """
        start = len(_MAGIC) + 8
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not a compiled kernel")
        end = start + int.from_bytes(content[len(_MAGIC) : start], "little")
        facts: dict[str, Any] = json.loads(content[start:end])
        size = facts.pop("code_size")
        text_sizes = facts.pop("text_sizes")
        machine_code = content[end : end + size]
        position = end + size
        if position + sum(text_sizes.values()) != len(content):
            raise ValueError("a compiled kernel was cut short")
        unpacked: dict[str, str] = {}
        for stage, length in text_sizes.items() if texts else ():
            unpacked[stage] = zlib.decompress(content[position : position + length]).decode()
            position += length
        facts["parameters"] = tuple(Parameter(**p) for p in facts["parameters"])
        facts["tensor_maps"] = tuple(
            TensorMapLayout(**{**layout, "box": tuple(layout["box"])})
            for layout in facts["tensor_maps"]
        )
        return KernelBinary(machine_code=machine_code, texts=unpacked, **facts)
