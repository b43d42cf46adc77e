"""CUDA graphs: record a list of steps once, then launch it as one thing.

In: steps, which are called with a stream (kernel launches, fills, copies), and branches and loops
with steps of their own. Out: a ``Graph`` that repeats them, and in which single steps can be given
other arguments. Invariants: each step is one node, which follows the one before, or those that it
is said to follow, a branch or loop a conditional node behind the launch that decides; a capture
that failed leaves no trace on the device and says which step was the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flamec.runtime.cuda.conditional import ConditionalNode, ControlStep
from flamec.runtime.cuda.control_kernels import HANDLE
from flamec.runtime.cuda.driver import CudaContext, CudaError, check, driver, release
from flamec.runtime.cuda.step_order import Order
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


@dataclass
class _Recorded:
    """The node of each step, and the handles that launches give a value, of this graph alone."""

    nodes: dict[Step, Any] = field(default_factory=dict)
    handles: dict[Step, int] = field(default_factory=dict)


class Graph:
    """Recorded steps, made ready to run; get one from ``capture``.

    ``nodes`` has the node of each step, those of branches and loops, too. Launches of one graph run
    one after another, in whichever streams they are.
    """

    def __init__(self, context: CudaContext, recorded: _Recorded, handle: Any) -> None:
        cu = driver()
        self.context = context
        self.nodes = recorded.nodes
        self._handles = recorded.handles
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
            check((status,), f"launching a graph of {len(self.nodes)} steps")

    def upload(self, stream: Stream) -> None:
        """Prepare the device, so that the first launch costs no more than later ones."""
        self.context.activate()
        check(driver().cuGraphUpload(self._executable, stream.raw), "cuGraphUpload")

    def update(self, step: Step, stream: Stream) -> None:
        """Take over the present arguments of a step, for launches from now on."""
        handle = self._handles.get(step)
        if handle is not None:
            step.set_number(HANDLE, handle)  # type: ignore[attr-defined] # only launches have one
        step.update_node(self._executable, self.nodes[step], stream)


def capture(
    context: CudaContext, steps: Sequence[Step | ConditionalNode], order: Order = ()
) -> Graph:
    """Record steps. CaptureError if the driver refuses or a step cannot be recorded.

    ``order``: for each step the earlier ones that it follows; if empty, the one before. Nothing
    runs. Other work on the device goes on, in this thread, too (a collection may give
    memory back); memory that the steps use must exist and outlive the graph.
    """
    cu = driver()
    stream, recorded = Stream(context.index), _Recorded()
    try:
        check(cu.cuStreamBeginCapture(stream.raw, _relaxed()), "cuStreamBeginCapture")
    except CudaError as error:
        raise CaptureError(str(error)) from error
    try:
        _record(steps, stream, recorded, order)
    except BaseException:
        _abandon(stream)
        raise
    try:
        handle = check(cu.cuStreamEndCapture(stream.raw), "cuStreamEndCapture")
        return Graph(context, recorded, handle)
    except CudaError as error:
        raise CaptureError(str(error)) from error


def _relaxed() -> Any:
    return driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


def _record(
    steps: Sequence[Step | ConditionalNode],
    stream: Stream,
    recorded: _Recorded,
    order: Order = (),
) -> None:
    for position, step in enumerate(steps):
        try:
            if order:  # there are launches alone
                earlier: list[Any] = [steps[before] for before in order[position]]
                _follow(stream, [recorded.nodes[one] for one in earlier])
            node = step.node if isinstance(step, ControlStep) else step
            if node is None:
                raise CaptureError(f"step {position} is run by the host")
            if isinstance(node, ConditionalNode):
                _record_conditional(node, position, stream, recorded)
            else:
                recorded.nodes[node] = _record_one(node, position, stream)
        except CudaError as error:
            raise CaptureError(f"step {position}: {error}") from error


def _record_one(step: Step, position: int, stream: Stream) -> Any:
    """Record one step; the node that it became."""
    _, before = _newest_nodes(stream, position)
    step(stream)
    _, after = _newest_nodes(stream, position)
    if len(after) != 1 or (before and int(after[0]) == int(before[0])):
        raise CaptureError(f"step {position} ({step!r}) put no work into the stream")
    return after[0]


def _record_conditional(
    node: ConditionalNode, position: int, stream: Stream, recorded: _Recorded
) -> None:
    """Record a branch or loop with all that is inside."""
    cu, context = driver(), stream.context
    graph, _ = _newest_nodes(stream, position)
    create = cu.cuGraphConditionalHandleCreate
    handle = check(create(graph, context.handle, 0, 0), "cuGraphConditionalHandleCreate")
    for launch in node.setters:
        recorded.handles[launch] = int(handle)
        launch.set_number(HANDLE, int(handle))
    _record(node.before, stream, recorded)
    parameters = cu.CUgraphNodeParams()
    parameters.type = cu.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
    kinds, conditional = cu.CUgraphConditionalNodeType, parameters.conditional
    kind = kinds.CU_GRAPH_COND_TYPE_WHILE if node.repeats else kinds.CU_GRAPH_COND_TYPE_IF
    conditional.handle, conditional.type = handle, kind
    conditional.size, conditional.ctx = len(node.bodies), context.handle
    _, before = _newest_nodes(stream, position)
    before = list(before)
    added = _with_edges("cuGraphAddNode", graph, before, None, len(before), parameters)
    _follow(stream, [added])
    for body, steps in zip(conditional.phGraph_out, node.bodies, strict=True):
        inner = Stream(context.index)
        begin = cu.cuStreamBeginCaptureToGraph
        check(begin(inner.raw, body, [], None, 0, _relaxed()), "cuStreamBeginCaptureToGraph")
        try:
            _record(steps, inner, recorded)
        finally:  # the graph belongs to the node
            ended = cu.cuStreamEndCapture(inner.raw)
        check(ended, "cuStreamEndCapture")


def _follow(stream: Stream, nodes: Sequence[Any]) -> None:
    """Let the stream's next operation depend on these nodes alone."""
    flags = driver().CUstreamUpdateCaptureDependencies_flags.CU_STREAM_SET_CAPTURE_DEPENDENCIES
    update = "cuStreamUpdateCaptureDependencies"
    _with_edges(update, stream.raw, list(nodes), None, len(nodes), int(flags))


def _with_edges(name: str, *arguments: Any) -> Any:
    """A call whose form with data of edges has a name of its own before CUDA 13."""
    call = getattr(driver(), f"{name}_v2", None) or getattr(driver(), name)
    return check(call(*arguments), name)


def _newest_nodes(stream: Stream, position: int) -> tuple[Any, Sequence[Any]]:
    """The graph, and the nodes that the stream's next operation will depend on."""
    cu = driver()
    result = cu.cuStreamGetCaptureInfo(stream.raw)
    if result[0] != 0:
        check(result, "cuStreamGetCaptureInfo")
    status, dependencies = result[1], result[4]  # CUDA 13 has edge data behind these
    if status != cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE:
        raise CaptureError(f"step {position} ended the capture ({status!r})")
    return result[3], dependencies or ()


def _abandon(stream: Stream) -> None:
    """End a capture that failed: the driver then says so again, and may give a graph."""
    cu = driver()
    status, handle = cu.cuStreamEndCapture(stream.raw)
    if status == 0:
        cu.cuGraphDestroy(handle)
