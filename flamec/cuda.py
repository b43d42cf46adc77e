"""GPUs by name: devices, memory, streams, events, random numbers; PyTorch's ``torch.cuda``.

Nothing of CUDA is loaded before the first use. Functions that take a ``device`` accept a number,
``"cuda:1"``, a ``flamec.device``, or None for the thread's current GPU; they raise RuntimeError
for one that is not there. Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flamec import gpu as gpus
from flamec import random
from flamec.amp import cuda as _amp
from flamec.amp import custom_bwd, custom_fwd
from flamec.functional.arguments import as_device
from flamec.ir.types import Device
from flamec.namespace import namespace
from flamec.runtime.cuda import stream as streams
from flamec.runtime.cuda.memory import OutOfMemoryError
from flamec.state import thread
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.runtime.cuda.device import CudaDevice
    from flamec.runtime.cuda.driver import DeviceProperties

__all__ = [
    "Event",
    "ExternalStream",
    "OutOfMemoryError",
    "Stream",
    "can_device_access_peer",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "device_of",
    "empty_cache",
    "get_arch_list",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "init",
    "initial_seed",
    "ipc_collect",
    "is_available",
    "is_bf16_supported",
    "is_initialized",
    "is_tf32_supported",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_cached",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_cached",
    "memory_reserved",
    "memory_stats",
    "memory_stats_as_nested_dict",
    "memory_summary",
    "reset_max_memory_allocated",
    "reset_max_memory_cached",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "synchronize",
]

amp = namespace(
    "flamec.cuda.amp",
    "Mixed precision on GPUs, by its older names.",
    custom_bwd=custom_bwd,
    custom_fwd=custom_fwd,
    **{name: getattr(_amp, name) for name in _amp.__all__},
)


# devices ---------------------------------------------------------------------------------
def is_available() -> bool:
    """Whether there is a GPU that this process can use; never raises."""
    return gpus.unavailable_reason() is None


def device_count() -> int:
    """The number of GPUs that this process can use."""
    return gpus.device_count()


def _device(name: str, device: Any) -> Device:
    found = as_device(name, "cuda" if device is None else device)
    if found.type != "cuda":
        raise ValueError(f"{name}(): expected a cuda device, but got {found}")
    return found


def _runtime(name: str, device: Any) -> CudaDevice:
    return gpus.gpu(_device(name, device)).runtime


def current_device() -> int:
    """The number of the GPU that ``"cuda"`` names in this thread."""
    return thread.cuda_device


def set_device(device: Any) -> None:
    """Let ``"cuda"`` name another GPU in this thread."""
    thread.cuda_device = _device("set_device", device).index


class device:
    """``with flamec.cuda.device(1):`` lets ``"cuda"`` name another GPU within the block."""

    def __init__(self, device: Any) -> None:
        self.index = _device("device", device).index
        self._before: list[int] = []

    def __enter__(self) -> device:
        self._before.append(thread.cuda_device)
        thread.cuda_device = self.index
        return self

    def __exit__(self, *_: object) -> None:
        thread.cuda_device = self._before.pop()


def get_device_properties(device: Any = None) -> DeviceProperties:
    """Name, memory, multiprocessors and other facts."""
    return _runtime("get_device_properties", device).properties


def get_device_name(device: Any = None) -> str:
    """The name that the vendor gave it."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability: major and minor number."""
    properties = get_device_properties(device)
    return properties.major, properties.minor


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Whether kernels on one GPU can read the memory of another."""
    from flamec.runtime.cuda.driver import can_access_peer

    name = "can_device_access_peer"
    return can_access_peer(_device(name, device).index, _device(name, peer_device).index)


def synchronize(device: Any = None) -> None:
    """Wait for all work on a GPU; errors of that work are raised here."""
    gpus.gpu(_device("synchronize", device)).synchronize()


def init() -> None:
    """Begin to use the current GPU; the first use does it, too."""
    _runtime("init", None)


def is_initialized() -> bool:
    """Whether a GPU is used."""
    return any("runtime" in found.__dict__ for found in list(gpus._gpus.values()))


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current GPU computes with bfloat16, by instructions of its own or by others."""
    return is_available() and (including_emulation or get_device_capability()[0] >= 8)


def is_tf32_supported() -> bool:
    """Whether the current GPU has matrix instructions for TF32."""
    return is_available() and get_device_capability()[0] >= 8


def get_arch_list() -> list[str]:
    """The architectures of the GPUs here: kernels are compiled for them when they are needed."""
    indices = range(device_count())
    return sorted({get_device_properties(index).target for index in indices})


def ipc_collect() -> None:
    """Nothing: no memory is shared with other processes."""


class device_of(device):
    """``with flamec.cuda.device_of(x):`` lets ``"cuda"`` name the GPU of a tensor within the block;
    one on the CPU changes nothing."""

    def __init__(self, obj: Tensor) -> None:
        self.index = obj.device.index if obj.is_cuda else thread.cuda_device
        self._before = []


# memory ----------------------------------------------------------------------------------
def memory_allocated(device: Any = None) -> int:
    """Memory in use by tensors and programs."""
    return _runtime("memory_allocated", device).pool.allocated_bytes


def max_memory_allocated(device: Any = None) -> int:
    """The most memory that was in use since ``reset_peak_memory_stats``."""
    return _runtime("max_memory_allocated", device).pool.max_allocated_bytes


def memory_reserved(device: Any = None) -> int:
    """Memory taken from the device, in use or kept for reuse."""
    return _runtime("memory_reserved", device).pool.reserved_bytes


def max_memory_reserved(device: Any = None) -> int:
    """The most memory taken from the device since ``reset_peak_memory_stats``."""
    return _runtime("max_memory_reserved", device).pool.max_reserved_bytes


def memory_stats(device: Any = None) -> dict[str, int]:
    """What the functions above give, and counts, by names that ``torch.cuda.memory_stats`` has.

    ``allocation.all.allocated`` counts requests; ``num_device_alloc`` and ``num_device_free`` those
    that went to the driver and the blocks that it got back; ``num_alloc_retries`` requests for
    which memory that was kept for reuse had to be released; ``num_ooms`` those that failed even so.
    """
    return _runtime("memory_stats", device).pool.statistics()


def reset_peak_memory_stats(device: Any = None) -> None:
    """Let the maxima start again from the present values."""
    _runtime("reset_peak_memory_stats", device).pool.reset_peaks()


reset_max_memory_allocated = reset_max_memory_cached = reset_peak_memory_stats
memory_cached, max_memory_cached = memory_reserved, max_memory_reserved  # their older names


def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    """``memory_stats`` with the parts of names as dictionaries in each other."""
    found: dict[str, Any] = {}
    for name, value in memory_stats(device).items():
        *outer, last = name.split(".")
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """``memory_stats`` as a table to print; ``abbreviated``: bytes alone."""
    lines = [f"Memory of cuda:{_device('memory_summary', device).index}"]
    for name, value in memory_stats(device).items():
        if "bytes" in name:
            lines.append(f"  {name:34s} {value / 2**20:14,.1f} MiB")
        elif not abbreviated:
            lines.append(f"  {name:34s} {value:14,d}")
    return "\n".join(lines)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total memory of a GPU, whoever uses it."""
    return _runtime("mem_get_info", device).context.memory_info()


def empty_cache() -> None:
    """Give memory that is kept for reuse back to the GPUs."""
    for found in list(gpus._gpus.values()):
        if "runtime" in found.__dict__:  # a GPU that was never used keeps nothing
            found.runtime.release_idle()


# streams and events ----------------------------------------------------------------------
class Stream(streams.Stream):
    """A queue of work on one GPU. ``cuda_stream``: the raw handle, for other libraries.

    ``priority``: lower numbers go first.
    """

    __slots__ = ()

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self._owned = False
        super().__init__(_device("Stream", device).index, priority)

    @property
    def device(self) -> Device:
        return Device("cuda", self.device_index)


class ExternalStream(Stream):
    """A stream that someone else made and keeps: ``stream_ptr`` is its raw handle."""

    __slots__ = ()

    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        self._owned = False
        index = _device("ExternalStream", device).index
        streams.Stream.__init__(self, index, handle=stream_ptr)


class Event(streams.Event):
    """A mark in a stream. ``enable_timing``: for ``elapsed_time``; ``blocking``: wait asleep."""

    __slots__ = ()


def current_stream(device: Any = None) -> streams.Stream:
    """The stream in which this thread works on a GPU."""
    return streams.current_stream(_device("current_stream", device).index)


def default_stream(device: Any = None) -> streams.Stream:
    """The stream in which threads work at first."""
    return streams.default_stream(_device("default_stream", device).index)


def set_stream(stream: streams.Stream) -> None:
    """Let this thread work in a stream."""
    streams.set_stream(stream)


class stream:
    """``with flamec.cuda.stream(s):`` works in ``s`` within the block; None changes nothing."""

    def __init__(self, stream: streams.Stream | None) -> None:
        self.stream = stream
        self._before: list[streams.Stream] = []

    def __enter__(self) -> stream:
        if self.stream is not None:
            self._before.append(streams.current_stream(self.stream.device_index))
            streams.set_stream(self.stream)
        return self

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            streams.set_stream(self._before.pop())


# random numbers --------------------------------------------------------------------------
def _generator(name: str, device: Any) -> random.Generator:
    return random.generator_of(_device(name, device))


def manual_seed(seed: int) -> None:
    """Seed the current GPU's default generator."""
    _generator("manual_seed", None).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the default generators of all GPUs."""
    for index in range(device_count()):
        _generator("manual_seed_all", index).manual_seed(seed)


def seed() -> None:
    """Seed the current GPU's default generator at random."""
    _generator("seed", None).seed()


def seed_all() -> None:
    """Seed the default generators of all GPUs with one random number."""
    if device_count():
        manual_seed_all(_generator("seed_all", 0).seed())


def initial_seed() -> int:
    """The seed of the current GPU's default generator."""
    return _generator("initial_seed", None).initial_seed()


def get_rng_state(device: Any = "cuda") -> Tensor:
    """A copy, on the CPU, of the state of a GPU's default generator."""
    return _generator("get_rng_state", device).get_state()


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Continue from a state that ``get_rng_state`` gave."""
    _generator("set_rng_state", device).set_state(new_state)


def get_rng_state_all() -> list[Tensor]:
    """The states of all GPUs' default generators."""
    return [get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(new_states: Iterable[Tensor]) -> None:
    """Continue from the states that ``get_rng_state_all`` gave."""
    for index, state in enumerate(new_states):
        set_rng_state(state, index)
