"""The kernels that steer conditional nodes of a graph, and copy and fill in their bodies.

In: a context, numbers of bytes and steps. Out: launches of the kernels in ``control.ptx``, which
the driver compiles, and what tells them where things lie. A graph's conditional node is run as
the value of its *handle* says, which only a kernel can set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from flamec.runtime.cuda.driver import CudaContext, CudaError, check, driver
from flamec.runtime.cuda.kernel_binary import KernelBinary, Parameter
from flamec.runtime.cuda.module import KernelLaunch, load_kernel
from flamec.runtime.cuda.pointers import Pointer

HANDLE = 0  # the argument of ``flamec_choose`` and ``flamec_advance``
MOST_MOVES = 64  # rows of the table in ``flamec_advance``
ANY_NUMBER = (1 << 63) - 1  # of steps

_OLDEST = 12080  # CUDA whose drivers know nodes of two bodies
_THREADS = 512
_GROUPS = 4  # of a block of ``flamec_advance``
_GROUP_BYTES = 8192  # that a group copies at its leisure: four times 16 bytes a thread
_BLOCKS_PER_PROCESSOR = 2
_BEFORE_FIRST, _REVERSE, _COPY_ONLY = 1, 2, 4
_CHOOSE = ("handle", "predicate")
_FILL = ("target", "bytes", "value")
_ADVANCE = (
    "handle",
    "counter",
    "ticket",
    "most",
    "count",
    "predicate",
    "made",
    "goes",
    "error",
    "flags",
    "moves",
    "share",
)
_ROW = ("source", "target", "bytes", "source_stride", "target_stride")


@cache
def _text(name: str) -> bytes:
    """The text of one kernel: what is not needed is not compiled."""
    text = files("flamec.runtime.cuda").joinpath("control.ptx").read_text()
    begin = ".visible .entry "
    head, *kernels = text.split(begin)
    (kernel,) = (k for k in kernels if k.split()[0] == name)
    return f"{head}{begin}{kernel}\0".encode()


def _launch(context: CudaContext, name: str, arguments: int, threads: int) -> KernelLaunch:
    parameters = tuple(Parameter("pointer", 8, i) for i in range(arguments))
    binary = KernelBinary(
        name=name,
        target=context.properties.target,
        machine_code=_text(name),
        threads=threads,
        shared_bytes=0,
        registers=0,
        stack_bytes=0,
        parameters=parameters,
    )
    return KernelLaunch(load_kernel(context, binary))


def reason_against(context: CudaContext) -> str | None:
    """Why the driver cannot run conditional nodes or these kernels, None if it can."""
    if int(check(driver().cuDriverGetVersion(), "cuDriverGetVersion")) < _OLDEST:
        return "which takes a driver of CUDA 12.8 or newer"
    try:
        choose(context)
    except CudaError as error:  # such as a driver without its compiler
        return f"and the driver does not take the kernels for that: {error}"
    return None


def choose(context: CudaContext) -> KernelLaunch:
    """Gives a node the bool at an address (``predicate_of``)."""
    return _launch(context, "flamec_choose", len(_CHOOSE), 1)


def predicate_of(launch: KernelLaunch) -> Pointer:
    """What tells ``choose`` where its bool is."""
    return Pointer(launch, launch.slot(_CHOOSE.index("predicate")), 0, 0, "predicate")


def fill(context: CudaContext, nbytes: int, byte: int) -> tuple[KernelLaunch, Pointer]:
    """Sets bytes, and what tells it where."""
    launch = _launch(context, "flamec_fill", len(_FILL), _THREADS)
    launch.set_arguments(0, nbytes, byte * 0x0101010101010101)
    launch.grid = (_blocks(context, -(-nbytes // (_THREADS * 16 * 4))), 1, 1)
    return launch, Pointer(launch, launch.slot(0), 0, 0, "filled")


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes that a loop copies between two steps: from and to places (a buffer and an offset).

    With a stride, the source is the element of the step that comes, the target that of the step
    that ends.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    bytes: int
    source_stride: int = 0
    target_stride: int = 0


class Advance:
    """The launches between two steps of a loop, or before the first (``first``).

    ``launches`` are all of them; the last one counts the step and gives the handle to the node.
    ``uses``: the buffers whose addresses they are to be told, with what tells them.
    """

    def __init__(
        self,
        context: CudaContext,
        moves: Sequence[Move],
        most: int,
        *,
        first: bool = False,
        reverse: bool = False,
    ) -> None:
        self.launches: list[KernelLaunch] = []
        self.uses: list[tuple[int, KernelLaunch, Pointer]] = []
        flags = _BEFORE_FIRST * first | _REVERSE * reverse
        parts = [moves[i : i + MOST_MOVES] for i in range(0, len(moves), MOST_MOVES)] or [()]
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            self._add(context, part, most, flags if last else flags | _COPY_ONLY)

    def _add(self, context: CudaContext, moves: Sequence[Move], most: int, flags: int) -> None:
        count = len(_ADVANCE) + len(_ROW) * MOST_MOVES
        launch = _launch(context, "flamec_advance", count, _THREADS)
        self.launches.append(launch)
        launch.set_number(_ADVANCE.index("most"), most)
        launch.set_number(_ADVANCE.index("flags"), flags)
        launch.set_number(_ADVANCE.index("moves"), len(moves))
        for row, move in enumerate(moves):
            at = len(_ADVANCE) + len(_ROW) * row
            for name, (buffer, offset) in (("source", move.source), ("target", move.target)):
                self._tell(launch, at + _ROW.index(name), buffer, offset, name)
            for name in ("bytes", "source_stride", "target_stride"):
                launch.set_number(at + _ROW.index(name), getattr(move, name))
        groups = len(moves) * -(-max((m.bytes for m in moves), default=0) // _GROUP_BYTES)
        blocks = _blocks(context, -(-groups // _GROUPS))
        launch.grid = (blocks, 1, 1)
        of_a_row = max(1, _GROUPS * blocks // max(1, len(moves)))
        launch.set_number(_ADVANCE.index("share"), of_a_row.bit_length() - 1)

    def tell(self, name: str, buffer: int, offset: int = 0) -> None:
        """Where something lies: ``counter``, ``ticket``, ``count``, ``predicate``, ``made``,
        ``goes`` or ``error``, see ``control.ptx``."""
        for launch in self.launches:
            self._tell(launch, _ADVANCE.index(name), buffer, offset, name)

    def _tell(
        self, launch: KernelLaunch, argument: int, buffer: int, offset: int, name: str
    ) -> None:
        pointer = Pointer(launch, launch.slot(argument), offset, 0, name)
        self.uses.append((buffer, launch, pointer))


def copy(context: CudaContext, nbytes: int) -> tuple[KernelLaunch, Pointer, Pointer]:
    """Copies bytes, and what tells it from where and to where."""
    advance = Advance(context, [Move((0, 0), (1, 0), nbytes)], 0, first=True)
    (launch,) = advance.launches
    launch.set_number(_ADVANCE.index("flags"), _BEFORE_FIRST | _COPY_ONLY)
    source, target = (pointer for _, _, pointer in advance.uses)
    return launch, source, target


def _blocks(context: CudaContext, wanted: int) -> int:
    most = _BLOCKS_PER_PROCESSOR * context.properties.multi_processor_count
    return max(1, min(wanted, most))
