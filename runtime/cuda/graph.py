"""CUDA graphs: record a list of steps once, then launch it as one thing.

In: steps, which are called with a stream (kernel launches, fills, copies). Out: a ``Graph``
that repeats them, and in which single steps can be given other arguments. Invariants: each
step is one node, in the order given; a capture that failed leaves no trace on the device and
says which step was the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from flamec.runtime.cuda.driver import CudaContext, CudaError, check, driver, release
from flamec.runtime.cuda.stream import Stream


class CaptureError(RuntimeError):
    """Steps could not be recorded; ``reason`` is one line that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"a CUDA graph could not be captured: {reason}")


class Step(Protocol):
    """Work that can be put into a stream and into a graph."""

    def __call__(self, stream: Stream) -> None:
        """Put the work into the stream."""

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        """Make the node of an executable graph do what the step does now."""


class Graph:
    """Recorded steps, made ready to run; get one from ``capture``.

    ``steps[i]`` is node ``nodes[i]``. Launches of one graph run one after another, in
    whichever streams they are.
    """

    def __init__(
        self, context: CudaContext, steps: Sequence[Step], nodes: Sequence[Any], handle: Any
    ) -> None:
        cu = driver()
        self.context = context
        self.steps = tuple(steps)
        self.nodes = tuple(nodes)
        self._handle = handle
        self._executable: Any = None
        self._launch = cu.cuGraphLaunch
        self._executable = check(cu.cuGraphInstantiate(handle, 0), "cuGraphInstantiate")

    def __del__(self) -> None:
        if self._executable is not None:
            release(self.context, "cuGraphExecDestroy", self._executable)
        release(self.context, "cuGraphDestroy", self._handle)

    def launch(self, stream: Stream) -> None:
        """Put all steps into the stream."""
        self.context.activate()
        (status,) = self._launch(self._executable, stream.raw)
        if status != 0:
            check((status,), f"launching a graph of {len(self.steps)} steps")

    def upload(self, stream: Stream) -> None:
        """Prepare the device, so that the first launch costs no more than later ones."""
        self.context.activate()
        check(driver().cuGraphUpload(self._executable, stream.raw), "cuGraphUpload")

    def update(self, step: int, stream: Stream) -> None:
        """Take over the present arguments of a step, for launches from now on."""
        self.steps[step].update_node(self._executable, self.nodes[step], stream)


def capture(context: CudaContext, steps: Sequence[Step]) -> Graph:
    """Record steps. CaptureError if the driver refuses or a step cannot be recorded.

    Nothing runs. Other work on the device goes on, in this thread, too (a collection may give
    memory back); memory that the steps use must exist and outlive the graph.
    """
    cu = driver()
    stream = Stream(context.index)
    mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    try:
        check(cu.cuStreamBeginCapture(stream.raw, mode), "cuStreamBeginCapture")
    except CudaError as error:
        raise CaptureError(str(error)) from error
    try:
        nodes = [_record(step, position, stream) for position, step in enumerate(steps)]
    except BaseException:
        _abandon(stream)
        raise
    try:
        handle = check(cu.cuStreamEndCapture(stream.raw), "cuStreamEndCapture")
        return Graph(context, steps, nodes, handle)
    except CudaError as error:
        raise CaptureError(str(error)) from error


def _record(step: Step, position: int, stream: Stream) -> Any:
    """Record one step; the node that it became."""
    before = _newest_nodes(stream, position)
    try:
        step(stream)
    except CudaError as error:
        raise CaptureError(f"step {position}: {error}") from error
    after = _newest_nodes(stream, position)
    if len(after) != 1 or (before and int(after[0]) == int(before[0])):
        raise CaptureError(f"step {position} ({step!r}) put no work into the stream")
    return after[0]


def _newest_nodes(stream: Stream, position: int) -> Sequence[Any]:
    """The nodes that the stream's next operation will depend on."""
    cu = driver()
    result = cu.cuStreamGetCaptureInfo(stream.raw)
    if result[0] != 0:
        check(result, "cuStreamGetCaptureInfo")
    status, dependencies = result[1], result[4]  # CUDA 13 has edge data behind these
    if status != cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE:
        raise CaptureError(f"step {position} ended the capture ({status!r})")
    return dependencies or ()


def _abandon(stream: Stream) -> None:
    """End a capture that failed: the driver then says so again, and may give a graph."""
    cu = driver()
    status, handle = cu.cuStreamEndCapture(stream.raw)
    if status == 0:
        cu.cuGraphDestroy(handle)
