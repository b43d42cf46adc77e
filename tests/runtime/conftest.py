"""Shared by the runtime's tests: a compiler, a cache in a temporary folder, a CPU device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vector_harness import BUILDS, VectorLibrary

from flamec.config import default_options
from flamec.ir.passes.plan_memory import plan_memory
from flamec.runtime.cpu.compiler import Compiler, NoCompilerError, find_compiler
from flamec.runtime.cpu.device import CpuDevice
from flamec.runtime.kernel_cache import KernelCache


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    try:
        return find_compiler()
    except NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the tests of one run share, so that common parts compile once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_device(compiler: Compiler, shared_folder: Path) -> Callable[[int], CpuDevice]:
    """A device with the given number of threads."""
    return lambda threads: CpuDevice(compiler, KernelCache(shared_folder), plan_memory, threads)


@pytest.fixture(scope="session", params=list(BUILDS))
def vectors(request: pytest.FixtureRequest, compiler: Compiler) -> VectorLibrary:
    """The vector header's functions, built for one kind of register once for all processes."""
    cache = KernelCache(default_options().cache_folder)
    return VectorLibrary(compiler, BUILDS[request.param], cache)
