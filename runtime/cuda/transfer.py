"""Copies and fills in a stream, at once or as steps of a captured graph.

In: addresses, byte counts and a stream. Invariants: every transfer is ordered in its stream;
a function that takes a host address returns after pageable host memory may change or be read
again, while memory from ``pinned_pool`` must be kept until the stream is done.
"""

from __future__ import annotations

from typing import Any

from flamec.runtime.cuda.driver import check, driver, fail
from flamec.runtime.cuda.stream import Stream

_FILLS = {width: f"cuMemsetD{8 * width}Async" for width in (1, 2, 4)}


def copy_to_device(to: int, host: int, nbytes: int, stream: Stream) -> None:
    """Copy host memory to the device."""
    if nbytes:
        stream.context.activate()
        check(driver().cuMemcpyHtoDAsync(to, host, nbytes, stream.raw), "cuMemcpyHtoDAsync")


def copy_to_host(host: int, source: int, nbytes: int, stream: Stream) -> None:
    """Copy device memory to the host and wait until it is there."""
    if nbytes:
        start_copy_to_host(host, source, nbytes, stream)
        stream.synchronize()


def start_copy_to_host(host: int, source: int, nbytes: int, stream: Stream) -> None:
    """Copy device memory to pinned host memory; it is there when the stream is done."""
    if nbytes:
        stream.context.activate()
        check(driver().cuMemcpyDtoHAsync(host, source, nbytes, stream.raw), "cuMemcpyDtoHAsync")


def copy_on_device(to: int, source: int, nbytes: int, stream: Stream) -> None:
    """Copy within one device; the two ranges must not overlap."""
    if nbytes:
        stream.context.activate()
        check(driver().cuMemcpyDtoDAsync(to, source, nbytes, stream.raw), "cuMemcpyDtoDAsync")


def copy_between_devices(
    to: int, to_stream: Stream, source: int, source_stream: Stream, nbytes: int
) -> None:
    """Copy from one device to another, after the work in both streams."""
    if not nbytes:
        return
    to_stream.wait_stream(source_stream)
    to_stream.context.activate()
    result = driver().cuMemcpyPeerAsync(
        to,
        to_stream.context.handle,
        source,
        source_stream.context.handle,
        nbytes,
        to_stream.raw,
    )
    check(result, "cuMemcpyPeerAsync")
    source_stream.wait_stream(to_stream)  # the source may be given back in its own stream


def fill_bytes(to: int, value: int, nbytes: int, stream: Stream) -> None:
    """Set every byte to ``value`` (0 to 255)."""
    if nbytes:
        stream.context.activate()
        check(driver().cuMemsetD8Async(to, value, nbytes, stream.raw), "cuMemsetD8Async")


def fill_words(to: int, value: int, width: int, nbytes: int, stream: Stream) -> None:
    """Set every word of ``width`` bytes (1, 2 or 4) to ``value``."""
    if nbytes:
        stream.context.activate()
        call = _FILLS[width]
        (status,) = getattr(driver(), call)(to, value, nbytes // width, stream.raw)
        if status != 0:
            fail(status, call)


class Fill:
    """``fill_bytes`` as a step; ``to`` may change between calls."""

    __slots__ = ("nbytes", "to", "value")

    def __init__(self, nbytes: int, value: int = 0, to: int = 0) -> None:
        self.nbytes = nbytes
        self.value = value
        self.to = to

    def __call__(self, stream: Stream) -> None:
        fill_bytes(self.to, self.value, self.nbytes, stream)

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        """Make a graph's node for this step do what the step does now."""
        cu = driver()
        node_params = cu.CUDA_MEMSET_NODE_PARAMS()
        node_params.dst = self.to
        node_params.value = self.value
        node_params.elementSize = 1
        node_params.width = self.nbytes
        node_params.height = 1
        result = cu.cuGraphExecMemsetNodeSetParams(graph, node, node_params, stream.context.handle)
        check(result, "cuGraphExecMemsetNodeSetParams")


class Copy:
    """``copy_on_device`` as a step; ``to`` and ``source`` may change between calls."""

    __slots__ = ("nbytes", "source", "to")

    def __init__(self, nbytes: int, to: int = 0, source: int = 0) -> None:
        self.nbytes = nbytes
        self.to = to
        self.source = source

    def __call__(self, stream: Stream) -> None:
        copy_on_device(self.to, self.source, self.nbytes, stream)

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        """Make a graph's node for this step do what the step does now."""
        cu = driver()
        device = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
        node_params = cu.CUDA_MEMCPY3D()
        node_params.srcMemoryType = device
        node_params.srcDevice = self.source
        node_params.dstMemoryType = device
        node_params.dstDevice = self.to
        node_params.WidthInBytes = self.nbytes
        node_params.Height = 1
        node_params.Depth = 1
        result = cu.cuGraphExecMemcpyNodeSetParams(graph, node, node_params, stream.context.handle)
        check(result, "cuGraphExecMemcpyNodeSetParams")
