"""NVIDIA's driver through ``cuda.bindings``: initialisation, errors, contexts, properties.

In: device numbers and the result tuples of driver calls. Out: values, or errors that carry
the driver's name for what went wrong. Invariants: nothing is loaded before the first use; a
device has one context, its primary one, which other libraries share; a process that was
forked after CUDA was initialised gets an error instead of a crash.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

_INSTALL_HINT = "install NVIDIA's Python bindings: pip install cuda-bindings"
_FORKED = (
    "CUDA was initialised before this process was forked, and does not work in the child; start "
    "the process with the 'spawn' method, or use the GPU only in the child"
)
# After one of these nothing works in the context any more.
_LOST = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "ASSERT",
        "ECC_UNCORRECTABLE",
        "NVLINK_UNCORRECTABLE",
        "CONTAINED",
    )
)


class CudaUnavailableError(RuntimeError):
    """This process cannot use CUDA; the message says why."""


class CudaError(RuntimeError):
    """A driver call failed.

    Attributes: ``name`` (such as ``"CUDA_ERROR_INVALID_VALUE"``), ``code``, ``call``, and
    ``context_lost``: whether the process has to be restarted to use the device again.
    """

    def __init__(self, name: str, code: int, description: str, call: str) -> None:
        self.name = name
        self.code = code
        self.call = call
        self.context_lost = name in _LOST
        text = f"{call} failed: {name} ({description})"
        if self.context_lost:
            text += (
                "; a kernel that ran before, not necessarily this call, is the cause, and this "
                "process cannot use the device any more"
            )
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """Facts about a device; sizes in bytes. Names follow PyTorch where it has the fact."""

    name: str
    uuid: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    max_threads_per_multi_processor: int
    regs_per_multiprocessor: int
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    L2_cache_size: int
    warp_size: int
    pci_bus_id: str
    memory_pools: bool

    @property
    def capability(self) -> int:
        """The compute capability as one number: 90 for 9.0."""
        return 10 * self.major + self.minor

    @property
    def target(self) -> str:
        """The architecture that kernels are compiled for, such as ``"sm_90"``."""
        return f"sm_{self.capability}"


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.active: CudaContext | None = None


thread_state = _ThreadState()
_lock = threading.RLock()
_driver: Any = None
_devices = 0
_reason: str | None = None  # why CUDA is unavailable, once that is known
_forked = False


def driver() -> Any:
    """The initialised module ``cuda.bindings.driver``; CudaUnavailableError if there is none."""
    if _driver is None or _forked:
        reason = unavailable_reason()
        if reason is not None:
            raise CudaUnavailableError(reason)
    return _driver


def unavailable_reason() -> str | None:
    """Why this process cannot use CUDA, or None if it can. Loads and initialises the driver."""
    global _driver, _devices, _reason
    if _forked:
        return _FORKED
    if _driver is not None or _reason is not None:
        return _reason
    with _lock:
        if _driver is None and _reason is None:
            module, _devices, _reason = _initialise()
            if module is not None:
                os.register_at_fork(after_in_child=_note_fork)
                _driver = module
    return _reason


def is_available() -> bool:
    """Whether there is a device that this process can use; never raises."""
    return unavailable_reason() is None


def device_count() -> int:
    """How many devices this process can use; 0 where CUDA is unavailable."""
    return _devices if is_available() else 0


def cuda_version() -> str | None:
    """The newest CUDA that the driver runs, such as ``"12.8"``; None where CUDA is unavailable."""
    if not is_available():
        return None
    number = check(driver().cuDriverGetVersion(), "cuDriverGetVersion")
    return f"{number // 1000}.{number % 1000 // 10}"


def _initialise() -> tuple[Any, int, str | None]:
    """The driver module, the number of devices, and the reason if there is none to use."""
    try:
        from cuda.bindings import driver as module
    except ImportError as error:
        return (
            None,
            0,
            f"the package cuda-bindings could not be imported ({error}); {_INSTALL_HINT}",
        )
    try:
        status = module.cuInit(0)[0]
    except RuntimeError as error:  # the bindings found no libcuda to load
        return None, 0, f"no NVIDIA driver was found ({str(error).rstrip('.')})"
    if status != 0:
        return None, 0, f"NVIDIA's driver could not be initialised: {_describe(module, status)}"
    status, count = module.cuDeviceGetCount()
    if status != 0:
        return None, 0, f"the devices could not be counted: {_describe(module, status)}"
    if count == 0:
        return None, 0, "NVIDIA's driver is there, but no device is visible to this process"
    return module, count, None


def _note_fork() -> None:
    global _forked
    _forked = True
    thread_state.active = None


# errors ---------------------------------------------------------------------------------


def check(result: tuple[Any, ...], call: str) -> Any:
    """What a driver call returned besides its status: nothing, one value or a tuple.

    CudaError, naming ``call``, if the status is not success.
    """
    if result[0] != 0:
        fail(result[0], call)
    if len(result) == 2:
        return result[1]
    return result[1:] or None


def fail(status: Any, call: str) -> NoReturn:
    """Raise the CudaError for a status that is not success."""
    _, name = _driver.cuGetErrorName(status)
    _, description = _driver.cuGetErrorString(status)
    raise CudaError(_text(name), int(status), _text(description), call)


def _describe(module: Any, status: Any) -> str:
    _, name = module.cuGetErrorName(status)
    return _text(name)


def _text(value: bytes | None) -> str:
    return "unknown" if value is None else value.decode()


def can_release(context: CudaContext) -> bool:
    """Whether a destructor may give resources of the context back.

    A forked child does not own them; while the interpreter shuts down, and after the context
    was lost, the driver reclaims them.
    """
    return not (_forked or context.lost or sys.is_finalizing())


def release(context: CudaContext, call: str, *arguments: Any) -> None:
    """Give a resource back from a destructor by a call of the driver, if ``can_release``."""
    if not can_release(context):
        return
    context.activate()
    status = getattr(driver(), call)(*arguments)[0]
    if status != 0:
        try:
            fail(status, f"releasing a resource of cuda:{context.index}")
        except CudaError as error:
            context.lost = error.context_lost
            raise


# contexts -------------------------------------------------------------------------------


class CudaContext:
    """The primary context of one device; get it from ``context(index)``.

    ``device`` and ``handle`` are the driver's objects. ``lost``: an error made it unusable.
    ``alone``: no other device has one. Where it is, and ``thread_state.active``, nothing has to be
    done to activate it.
    """

    def __init__(self, index: int) -> None:
        cu = driver()
        self.index = index
        self.alone = _devices == 1
        self.lost = False
        self.device = check(cu.cuDeviceGet(index), "cuDeviceGet")
        self.handle = check(cu.cuDevicePrimaryCtxRetain(self.device), "cuDevicePrimaryCtxRetain")
        self._set_current = cu.cuCtxSetCurrent

    def __repr__(self) -> str:
        return f"CudaContext(cuda:{self.index})"

    def activate(self) -> None:
        """Make this the calling thread's context.

        With several devices another library may have changed it, so it is set every time.
        """
        if thread_state.active is self and self.alone:
            return
        if _forked:
            raise CudaUnavailableError(_FORKED)
        check(self._set_current(self.handle), "cuCtxSetCurrent")
        thread_state.active = self

    def synchronize(self) -> None:
        """Wait until the device has finished all work of this process."""
        self.activate()
        check(driver().cuCtxSynchronize(), "cuCtxSynchronize")

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the device, whoever uses them."""
        self.activate()
        free, total = check(driver().cuMemGetInfo(), "cuMemGetInfo")
        return int(free), int(total)

    @cached_property
    def properties(self) -> DeviceProperties:
        """The device's facts, read once."""
        cu = driver()
        attributes = cu.CUdevice_attribute

        def attribute(name: str) -> int:
            key = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(check(cu.cuDeviceGetAttribute(key, self.device), "cuDeviceGetAttribute"))

        name = check(cu.cuDeviceGetName(128, self.device), "cuDeviceGetName")
        uuid = bytes(check(cu.cuDeviceGetUuid(self.device), "cuDeviceGetUuid").bytes).hex()
        bus = check(cu.cuDeviceGetPCIBusId(32, self.device), "cuDeviceGetPCIBusId")
        return DeviceProperties(
            name=name.split(b"\0")[0].decode(),
            uuid=f"GPU-{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}",
            major=attribute("COMPUTE_CAPABILITY_MAJOR"),
            minor=attribute("COMPUTE_CAPABILITY_MINOR"),
            total_memory=int(check(cu.cuDeviceTotalMem(self.device), "cuDeviceTotalMem")),
            multi_processor_count=attribute("MULTIPROCESSOR_COUNT"),
            max_threads_per_multi_processor=attribute("MAX_THREADS_PER_MULTIPROCESSOR"),
            regs_per_multiprocessor=attribute("MAX_REGISTERS_PER_MULTIPROCESSOR"),
            shared_memory_per_block_optin=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            shared_memory_per_multiprocessor=attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
            L2_cache_size=attribute("L2_CACHE_SIZE"),
            warp_size=attribute("WARP_SIZE"),
            pci_bus_id=bus.split(b"\0")[0].decode(),
            memory_pools=bool(attribute("MEMORY_POOLS_SUPPORTED")),
        )


def context(index: int = 0) -> CudaContext:
    """The context of a device.

    CudaUnavailableError without CUDA, ValueError for a device that is not there.
    """
    count = device_count()
    if not 0 <= index < count:
        driver()  # says why there is none
        raise ValueError(
            f"cuda:{index} was asked for, but the devices are "
            + (", ".join(f"cuda:{i}" for i in range(count)))
        )
    known = _contexts.get(index)
    if known is None:
        with _lock:
            known = _contexts.setdefault(index, CudaContext(index))
    return known


_contexts: dict[int, CudaContext] = {}


def can_access_peer(index: int, peer: int) -> bool:
    """Whether kernels on one device can read the memory of another."""
    status = driver().cuDeviceCanAccessPeer(context(index).device, context(peer).device)
    return bool(check(status, "cuDeviceCanAccessPeer"))
