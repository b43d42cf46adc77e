"""Kernels on a device: load machine code, prepare launches, launch.

In: ``KernelBinary`` and a context. Out: ``LoadedKernel``, and ``KernelLaunch``, whose
parameter memory is laid out once and only written to afterwards. Invariants: machine code is
loaded once for each context and stays for the life of the process; a launch belongs to one
thread at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from flamec.runtime.cuda.driver import CudaContext, CudaError, check, driver, fail
from flamec.runtime.cuda.kernel_binary import KernelBinary, Parameter
from flamec.runtime.cuda.memory import OUT_OF_MEMORY, OutOfMemoryError, device_pool
from flamec.runtime.cuda.stream import Stream
from flamec.runtime.cuda.tensor_map import TensorMap

_SHARED_WITHOUT_ASKING = 48 << 10
_PORTABLE_CLUSTER = 8
_SLOT = 8  # bytes; no parameter but a tensor map is larger
_UNUSED_MAP = (ctypes.c_uint8 * 128)()  # where a launch needs the bytes of a map and no map


class LoadedKernel:
    """A kernel in one context. ``registers`` are of one thread."""

    def __init__(self, context: CudaContext, binary: KernelBinary) -> None:
        cu = driver()
        limit = context.properties.shared_memory_per_block_optin
        if binary.shared_bytes > limit:
            raise ValueError(
                f"kernel {binary.name} needs {binary.shared_bytes} bytes of shared memory, and "
                f"cuda:{context.index} ({context.properties.name}) has {limit} for a block"
            )
        context.activate()
        self.context = context
        self.binary = binary
        self.module = check(cu.cuModuleLoadData(binary.machine_code), "cuModuleLoadData")
        try:
            self._prepare()
        except BaseException:
            cu.cuModuleUnload(self.module)
            raise

    def _prepare(self) -> None:
        cu, binary = driver(), self.binary
        name = binary.name.encode()
        self.function = check(cu.cuModuleGetFunction(self.module, name), "cuModuleGetFunction")
        attribute = cu.CUfunction_attribute
        own = self._attribute(attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)  # not asked for
        if binary.shared_bytes and own + binary.shared_bytes > _SHARED_WITHOUT_ASKING:
            key = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            result = cu.cuFuncSetAttribute(self.function, key, binary.shared_bytes)
            check(result, f"allowing {binary.shared_bytes} bytes of shared memory")
            # else a multiprocessor may keep so much of it for the cache that only one block fits
            key = attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
            whole = int(cu.CUshared_carveout.CU_SHAREDMEM_CARVEOUT_MAX_SHARED)
            check(cu.cuFuncSetAttribute(self.function, key, whole), "preferring shared memory")
        if binary.cluster > _PORTABLE_CLUSTER:
            key = attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            check(cu.cuFuncSetAttribute(self.function, key, 1), "allowing a large cluster")
        # Asking for an attribute also loads the code, which must not happen during a capture.
        self.registers = self._attribute(attribute.CU_FUNC_ATTRIBUTE_NUM_REGS)

    def _attribute(self, key: Any) -> int:
        return int(check(driver().cuFuncGetAttribute(key, self.function), "cuFuncGetAttribute"))

    def unload(self) -> None:
        """Give the memory of the code back; no launch may follow, none may be under way."""
        self.context.activate()
        check(driver().cuModuleUnload(self.module), "cuModuleUnload")

    def launch(self, grid: Sequence[int] = (1, 1, 1)) -> KernelLaunch:
        """A launch to be filled with arguments."""
        return KernelLaunch(self, grid)


_loaded: dict[tuple[int, bytes], LoadedKernel] = {}
_lock = threading.Lock()


def load_kernel(context: CudaContext, binary: KernelBinary) -> LoadedKernel:
    """Load machine code, or take what the context has of it.

    OutOfMemoryError if the device has no room for it even after idle memory was released.
    """
    identity = hashlib.sha256(binary.machine_code + binary.name.encode()).digest()
    with _lock:
        kernel = _loaded.get((context.index, identity))
        if kernel is None:
            kernel = _loaded[context.index, identity] = _with_room(context, binary)
        return kernel


def _with_room(context: CudaContext, binary: KernelBinary) -> LoadedKernel:
    """Load; where the device has no room, once more after idle memory was given back to it."""
    try:
        return LoadedKernel(context, binary)
    except CudaError as error:
        if error.code != OUT_OF_MEMORY:
            raise
    pool = device_pool(context.index)
    pool.release_idle()
    try:
        return LoadedKernel(context, binary)
    except CudaError as error:
        if error.code != OUT_OF_MEMORY:
            raise
        raise OutOfMemoryError(pool, len(binary.machine_code)) from error


class KernelLaunch:
    """One kernel with a grid and arguments; calling it puts it into a stream.

    Write arguments by their position in the kernel's source (constants left out), then call,
    as often as needed. ``grid`` counts blocks, or clusters where the kernel has them.
    ``values`` is the parameter memory: one 8-byte slot for each parameter, ``slot`` says which;
    callers in a hurry write addresses and integers there.
    """

    __slots__ = (
        "_arguments",
        "_before",
        "_config",
        "_doubles",
        "_fixed",
        "_floats",
        "_function",
        "_grid",
        "_maps",
        "_node_params",
        "_pointers",
        "_pointers_address",
        "_submit",
        "kernel",
        "values",
    )

    def __init__(self, kernel: LoadedKernel, grid: Sequence[int] = (1, 1, 1)) -> None:
        binary = kernel.binary
        slots = max(len(binary.parameters), 1)
        self.kernel = kernel
        self.values = (ctypes.c_uint64 * slots)()
        self._floats = (ctypes.c_float * (2 * slots)).from_buffer(self.values)
        self._doubles = (ctypes.c_double * slots).from_buffer(self.values)
        first = ctypes.addressof(self.values)
        self._pointers = (ctypes.c_void_p * slots)(*(first + _SLOT * i for i in range(slots)))
        self._pointers_address = ctypes.addressof(self._pointers)
        self._maps: dict[int, TensorMap] = {}
        self._arguments = _positions(binary.parameters)
        self._function = kernel.function
        self._fixed = (binary.threads, 1, 1, binary.shared_bytes)
        self._submit = driver().cuLaunchKernel
        self.grid = grid
        self._config = _launch_config(binary)
        self._node_params: Any = None

    @property
    def grid(self) -> tuple[int, ...]:
        return self._grid

    @grid.setter
    def grid(self, grid: Sequence[int]) -> None:
        self._grid = tuple(grid)
        self._before = (self._function, *self._grid, *self._fixed)

    @property
    def argument_count(self) -> int:
        return len(self._arguments)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of device memory that ``set_scratch`` must give for the present grid."""
        binary = self.kernel.binary
        return binary.scratch_bytes * binary.cluster * math.prod(self.grid)

    def set_scratch(self, address: int) -> None:
        """The memory for the kernel itself, used by one launch at a time."""
        for slot, parameter in enumerate(self.kernel.binary.parameters):
            if parameter.kind == "scratch":
                self.values[slot] = address

    def slot(self, argument: int) -> int:
        """The position in ``values`` of an argument that is an address or a number."""
        return self._arguments[argument][0]

    def set_number(self, argument: int, value: int | float) -> None:
        """The value of an integer, floating-point or pointer argument of any size."""
        slot = self._arguments[argument][0]
        parameter = self.kernel.binary.parameters[slot]
        if parameter.kind != "float":
            self.values[slot] = int(value)  # two's complement: the low bytes are right
        elif parameter.size == 4:
            self._floats[2 * slot] = value
        else:
            self._doubles[slot] = value

    def set_arguments(self, *values: int | float) -> None:
        """Addresses and numbers for all arguments at once; TypeError for a wrong number."""
        if len(values) != len(self._arguments):
            raise TypeError(
                f"kernel {self.kernel.binary.name} takes {len(self._arguments)} arguments, "
                f"{len(values)} were given"
            )
        for argument, value in enumerate(values):
            self.set_number(argument, value)

    def set_array(
        self, argument: int, address: int, shape: Sequence[int], strides: Sequence[int]
    ) -> None:
        """The array for a tensor-descriptor argument; sizes and strides count elements.

        ValueError if the copy engine cannot read such an array (see ``TensorMap``).
        """
        binary = self.kernel.binary
        for slot in self._arguments[argument]:
            parameter = binary.parameters[slot]
            if parameter.component == "shape":
                self.values[slot] = shape[parameter.dimension]
            elif parameter.component == "stride":
                self.values[slot] = strides[parameter.dimension]
            elif parameter.kind == "pointer":
                self.values[slot] = address
            elif parameter.kind == "tensor_map":
                number = sum(p.kind == "tensor_map" for p in binary.parameters[:slot])
                tensor_map = TensorMap(binary.tensor_maps[number], address, shape, strides)
                self._maps[argument] = tensor_map
                self._pointers[slot] = tensor_map.host_address

    def set_empty_array(self, argument: int) -> None:
        """A tensor-descriptor argument that the kernel will not use, because it has no elements."""
        for slot in self._arguments[argument]:
            self.values[slot] = 0
            if self.kernel.binary.parameters[slot].kind == "tensor_map":
                self._pointers[slot] = ctypes.addressof(_UNUSED_MAP)

    def mover(self, argument: int) -> Callable[[int], None]:
        """Sets another address for an array of the form that ``set_array`` was given."""
        tensor_map = self._maps.get(argument)
        if tensor_map is None:
            return partial(self.values.__setitem__, self._arguments[argument][0])
        return tensor_map.move

    def __call__(self, stream: Stream) -> None:
        """Launch; errors of the kernel itself appear later, where the stream is waited for."""
        stream.context.activate()
        if self._config is not None:
            status = self._submit_with_config(stream)
        else:
            (status,) = self._submit(*self._before, stream.raw, self._pointers_address, 0)
        if status != 0:
            self.fail(status)

    def fail(self, status: Any) -> NoReturn:
        """Raise the error for what the driver said of a launch."""
        fail(status, f"launching {self.kernel.binary.name} with grid {self.grid}")

    @property
    def plain(self) -> tuple[Any, tuple[Any, ...], int] | None:
        """The driver's function and its arguments before and behind the stream, but for a last 0;
        None for launches that are configured otherwise."""
        if self._config is not None:
            return None
        return self._submit, self._before, self._pointers_address

    def _submit_with_config(self, stream: Stream) -> Any:
        config = self._config
        config.gridDimX = self.grid[0] * self.kernel.binary.cluster
        config.gridDimY = self.grid[1]
        config.gridDimZ = self.grid[2]
        config.hStream = stream.raw
        return driver().cuLaunchKernelEx(config, self._function, self._pointers_address, 0)[0]

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        """Make a graph's node for this launch do what the launch does now."""
        cu = driver()
        node_params = self._node_params
        if node_params is None:
            node_params = self._node_params = cu.CUDA_KERNEL_NODE_PARAMS()
            node_params.func = self._function
            node_params.blockDimX, node_params.blockDimY, node_params.blockDimZ, shared = (
                self._fixed
            )
            node_params.sharedMemBytes = shared
            node_params.kernelParams = self._pointers_address
        node_params.gridDimX = self.grid[0] * self.kernel.binary.cluster
        node_params.gridDimY = self.grid[1]
        node_params.gridDimZ = self.grid[2]
        result = cu.cuGraphExecKernelNodeSetParams(graph, node, node_params)
        check(result, f"updating {self.kernel.binary.name} in a graph")


def _positions(parameters: Sequence[Parameter]) -> list[list[int]]:
    """For each argument of the source the positions of the parameters made from it."""
    count = max((p.argument for p in parameters), default=-1) + 1
    positions: list[list[int]] = [[] for _ in range(count)]
    for position, parameter in enumerate(parameters):
        if parameter.argument >= 0:
            positions[parameter.argument].append(position)
    return positions


def _launch_config(binary: KernelBinary) -> Any:
    """What an extended launch needs; None for kernels that do without."""
    if binary.cluster == 1 and not binary.cooperative and not binary.dependent_launch:
        return None
    cu = driver()
    attributes = []

    def attribute(name: str) -> Any:
        added = cu.CUlaunchAttribute()
        added.id = getattr(cu.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
        attributes.append(added)
        return added.value

    if binary.cluster > 1:
        size = attribute("CLUSTER_DIMENSION").clusterDim
        size.x, size.y, size.z = binary.cluster, 1, 1
        spread = cu.CUclusterSchedulingPolicy.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
        policy = attribute("CLUSTER_SCHEDULING_POLICY_PREFERENCE")
        policy.clusterSchedulingPolicyPreference = spread
    if binary.cooperative:
        attribute("COOPERATIVE").cooperative = 1
    if binary.dependent_launch:
        attribute("PROGRAMMATIC_STREAM_SERIALIZATION").programmaticStreamSerializationAllowed = 1
    config = cu.CUlaunchConfig()
    config.blockDimX, config.blockDimY, config.blockDimZ = binary.threads, 1, 1
    config.sharedMemBytes = binary.shared_bytes
    config.attrs = attributes
    config.numAttrs = len(attributes)
    return config
