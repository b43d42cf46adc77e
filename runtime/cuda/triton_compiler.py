"""Triton: from the text of a ``@triton.jit`` function to machine code.

In: a ``KernelSource`` and a target. Out: a ``KernelBinary``. This is the only file that knows
Triton's Python internals (3.6 and later); it needs neither a GPU nor torch, and loads Triton
only to compile. Invariant: the result depends on nothing but the source, the target and
Triton's version, which are what ``kernel_key`` hashes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flamec.ir.plan import KernelSource
from flamec.runtime.cuda.kernel_binary import TEXT_STAGES, KernelBinary, Parameter
from flamec.runtime.cuda.tensor_map import TFLOAT32, TensorMapLayout
from flamec.runtime.kernel_cache import KernelCache

SOURCE_KIND = "py"
BINARY_KIND = "kernel"
OLDEST_TRITON = (3, 6)

_FORMAT = "2"  # of what is kept in the cache
_ALIGNMENT = 16
_DEFAULT_OPTIONS = {
    "enable_fp_fusion": True,  # Triton's own default depends on its version
    "enable_reflect_ftz": False,  # functions of libdevice give subnormal results, not zeros
}
_CONSTANT = "constexpr"
_SCALARS = {
    "i1": ("int", 1),
    "i8": ("int", 1),
    "u8": ("int", 1),
    "i16": ("int", 2),
    "u16": ("int", 2),
    "i32": ("int", 4),
    "u32": ("int", 4),
    "i64": ("int", 8),
    "u64": ("int", 8),
    "fp32": ("float", 4),
    "fp64": ("float", 8),
}
_DESCRIPTOR = re.compile(r"tensordesc<(\w+)\[([\d, ]+)\]>\Z")
_ENTRY = re.compile(r"\.visible \.entry \w+\(([^)]*)\)")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
_MESSAGE_LINES = 40


class TritonError(RuntimeError):
    """Triton could not compile a kernel, or is missing.

    Attributes: ``message``, ``source_path`` (the kernel's text).
    """

    def __init__(self, message: str, source_path: Path | None = None) -> None:
        self.message = message
        self.source_path = source_path
        kept = f"\nthe source is in {source_path}" if source_path else ""
        super().__init__(message + kept)


@cache
def triton_version() -> str:
    """The installed version, without importing Triton.

    TritonError if it is missing or too old.
    """
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        raise TritonError(
            "GPU programs need the package triton, which is not installed: pip install triton"
        ) from None
    if _release(version) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise TritonError(f"flamec needs triton {oldest} or later; {version} is installed")
    return version


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def kernel_key(source: KernelSource, target: str) -> str:
    """The cache key of what a kernel becomes for a target such as ``"sm_90"``."""
    facts = (_FORMAT, triton_version(), target, source.to_json())
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def cached_kernel(source: KernelSource, target: str, cache: KernelCache) -> KernelBinary | None:
    """The kernel from the cache, or None; Triton is not imported."""
    content = cache.read(kernel_key(source, target), BINARY_KIND)
    return None if content is None else KernelBinary.from_bytes(content)


def compile_kernel(
    source: KernelSource, target: str, cache: KernelCache, texts: bool = False
) -> tuple[KernelBinary, bool]:
    """The kernel from the cache or compiled here, and whether it was compiled.

    ``texts``: with the text of the stages before machine code. TritonError if Triton fails.
    """
    content, compiled = cache.load(
        kernel_key(source, target),
        BINARY_KIND,
        lambda: build_kernel(source, target, cache).to_bytes(),
        {"kernel": source.function, "target": target, "triton": triton_version()},
        use=Path.read_bytes,
    )
    return KernelBinary.from_bytes(content, texts), compiled


def build_kernel(source: KernelSource, target: str, cache: KernelCache) -> KernelBinary:
    """Compile with Triton, whatever the cache has of the kernel.

    The kernel's text is written into the cache, because Triton reads it from a file.
    TritonError if Triton fails, ValueError for a source that contradicts itself.
    The lines of the kernel's text are what profilers show, so its file stays in the cache.
    """
    version = triton_version()
    _check_source(source)
    text = source.text.encode()
    key = hashlib.sha256(text).hexdigest()
    capability = _capability(target)

    def run(path: Path) -> tuple[Any, Path]:
        try:
            return _run_triton(source, capability, path), path
        except TritonError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not path.exists():
                raise  # evicted before Triton had read it
            message = f"triton {version} failed on {_message(source, target, error)}"
            raise TritonError(message, path) from error

    facts = {"kernel": source.function}
    (compiled, path), _ = cache.load(key, SOURCE_KIND, lambda: text, facts, use=run)
    metadata = compiled.metadata
    maps = _tensor_maps(source, metadata.tensordesc_meta or ())
    parameters = _flat_parameters(source, has_maps=bool(maps))
    machine_code = compiled.asm["cubin"]
    registers, stack_bytes = _resources(machine_code)
    return KernelBinary(
        name=metadata.name,
        target=target,
        machine_code=machine_code,
        threads=32 * metadata.num_warps,
        shared_bytes=metadata.shared,
        registers=registers,
        stack_bytes=stack_bytes,
        parameters=_with_hidden(parameters, compiled.asm["ptx"], metadata, path),
        tensor_maps=maps,
        scratch_bytes=metadata.global_scratch_size,
        cluster=metadata.num_ctas,
        cooperative=metadata.launch_cooperative_grid,
        dependent_launch=metadata.launch_pdl,
        compiler=f"triton {version}",
        texts={stage: compiled.asm[stage] for stage in TEXT_STAGES},
    )


def disassemble(binary: KernelBinary) -> str:
    """The machine code as text (SASS), by the disassembler that Triton brings."""
    triton_version()
    from triton.tools.disasm import get_sass

    return str(get_sass(binary.machine_code))


# calling Triton -------------------------------------------------------------------------

_triton_lock = threading.Lock()  # its folder is a setting of the whole process


def _run_triton(source: KernelSource, capability: int, path: Path) -> Any:
    """Triton's compiled kernel, kept out of Triton's own cache."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if triton.knobs.runtime.interpret:
        raise TritonError("TRITON_INTERPRET is set, so kernels cannot be compiled")
    function = getattr(_import_file(path), source.function)
    names = [name for name, _ in source.parameters]
    if list(function.arg_names) != names:
        raise ValueError(f"the function's parameters are {function.arg_names}, not {names}")
    ast = ASTSource(
        function,
        dict(source.parameters),
        {(names.index(name),): value for name, value in source.constants.items()},
        {(names.index(name),): [["tt.divisibility", _ALIGNMENT]] for name in source.aligned},
    )
    gpu = GPUTarget("cuda", capability, 32)
    options = {**_DEFAULT_OPTIONS, **source.options}
    with (
        _triton_lock,
        tempfile.TemporaryDirectory(prefix="flamec-triton-") as folder,
        triton.knobs.cache.scope(),
    ):
        triton.knobs.cache.dir = folder
        return triton.compile(ast, target=gpu, options=options)


def _import_file(path: Path) -> ModuleType:
    """Run a kernel's text as a module, without leaving compiled Python in the cache."""
    module = ModuleType(f"flamec_kernel_{path.stem}")
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def _resources(machine_code: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread, from the tool that Triton brings."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(prefix="flamec-", suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _RESOURCES.search(done.stdout)
    if found is None:
        raise TritonError(f"cuobjdump did not say how many registers are used:\n{done.stdout}")
    return int(found[1]), int(found[2])


def _tensor_maps(
    source: KernelSource, found: Sequence[Mapping[str, Any]]
) -> tuple[TensorMapLayout, ...]:
    """A layout for each descriptor, in their order."""
    names = [name for name, kind in source.parameters if _DESCRIPTOR.match(kind)]
    return tuple(
        _tensor_map(facts, name in source.rounded)
        for name, facts in zip(names, found, strict=bool(found))
    )


def _tensor_map(facts: Mapping[str, Any], rounded: bool) -> TensorMapLayout:
    from triton.backends.nvidia.driver import TMA_DTYPE_DEVICE_TO_HOST

    return TensorMapLayout(
        data_type=TFLOAT32 if rounded else TMA_DTYPE_DEVICE_TO_HOST[facts["elem_type"]],
        element_bytes=facts["elem_size"],
        box=tuple(facts["block_size"]),
        swizzle=facts["swizzle"],
        packed_pairs=facts["fp4_padded"],
    )


def _message(source: KernelSource, target: str, error: Exception) -> str:
    lines = f"kernel {source.function} for {target}: {error}".splitlines()
    if len(lines) > _MESSAGE_LINES:
        lines[_MESSAGE_LINES:] = [f"... {len(lines) - _MESSAGE_LINES} more lines"]
    return "\n".join(lines)


# parameters -----------------------------------------------------------------------------


def _capability(target: str) -> int:
    found = re.fullmatch(r"sm_(\d{2,3})", target)
    if found is None:
        raise ValueError(f"a target has the form 'sm_90', not {target!r}")
    return int(found[1])


def _check_source(source: KernelSource) -> None:
    kinds = dict(source.parameters)
    constants = {name for name, kind in source.parameters if kind == _CONSTANT}
    if constants != set(source.constants):
        raise ValueError(
            f"kernel {source.function}: the constants are {sorted(constants)}, values were given "
            f"for {sorted(source.constants)}"
        )
    for name in source.aligned:
        if not kinds.get(name, "").startswith(("*", "i", "u")):
            raise ValueError(
                f"kernel {source.function}: {name!r} is not a pointer or an integer that could "
                f"be a multiple of {_ALIGNMENT}"
            )


def _flat_parameters(source: KernelSource, has_maps: bool) -> list[Parameter]:
    """The parameters of the machine code that come from the source's arguments."""
    flat: list[Parameter] = []
    arguments = [(name, kind) for name, kind in source.parameters if kind != _CONSTANT]
    for argument, (name, kind) in enumerate(arguments):
        descriptor = _DESCRIPTOR.match(kind)
        if descriptor:
            rank = descriptor[2].count(",") + 1
            flat += _descriptor_parameters(argument, rank, has_maps)
        elif kind.startswith("*"):
            flat.append(Parameter("pointer", 8, argument))
        elif kind in _SCALARS:
            flat.append(Parameter(*_SCALARS[kind], argument))
        else:
            raise ValueError(f"kernel {source.function}: parameter {name} has the type {kind!r}")
    return flat


def _descriptor_parameters(argument: int, rank: int, has_map: bool) -> list[Parameter]:
    """What a tensor descriptor becomes: a map or a pointer, then its sizes and strides.

    The flags are for NaN outside the array and, from Triton 3.7 on, for rounding to tf32.
    """

    def each(component: str, size: int) -> list[Parameter]:
        return [Parameter("int", size, argument, component, i) for i in range(rank)]

    tail = each("shape", 4) + each("stride", 8)
    if has_map:
        return [Parameter("tensor_map", 128, argument, "base"), *tail]
    head = [Parameter("pointer", 8, argument, "base"), *each("shape", 8), *each("stride", 8)]
    flags = 1 if _release(triton_version()) < (3, 7) else 2
    return [*head, *(Parameter("int", 1, argument, "flag") for _ in range(flags)), *tail]


def _with_hidden(
    parameters: Sequence[Parameter], ptx: str, metadata: Any, path: Path
) -> tuple[Parameter, ...]:
    """Add the pointers that Triton appends: its scratch memory, and the profiler's.

    TritonError if the compiled code shows another order of parameters.
    """
    if metadata.profile_scratch_size:
        raise TritonError("the kernel was compiled for Triton's profiler", path)
    found = _ENTRY.search(ptx)
    sizes = [_parameter_size(line) for line in found[1].split(",")] if found else []
    expected = [p.size for p in parameters]
    hidden = sizes[len(expected) :]
    if sizes[: len(expected)] != expected or any(size != 8 for size in hidden):
        raise TritonError(
            f"this version of Triton lays parameters out in an unknown way: sizes {sizes}, "
            f"where {expected} and then pointers were expected",
            path,
        )
    kinds = ("scratch", *("null" for _ in hidden[1:]))[: len(hidden)]
    return (*parameters, *(Parameter(kind, 8, -1) for kind in kinds))


def _parameter_size(declaration: str) -> int:
    """Bytes of a PTX parameter: ``.param .u32 name`` or ``.param .align 64 .b8 name[128]``."""
    array = re.search(r"\[(\d+)\]", declaration)
    if array:
        return int(array[1])
    bits = re.search(r"\.param \.[a-z]+(\d+)", declaration)
    return int(bits[1]) // 8 if bits else 0
