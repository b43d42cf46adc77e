"""The same work in JAX, on the memory of PyTorch's tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.bandwidth_rows import Row


def jax_call(jax: Any, row: Row, tensors: Sequence[Any]) -> Callable[[], Any] | None:
    """A jitted call of a row's work, or None for what is not written in JAX here."""
    numpy, nn = jax.numpy, jax.nn

    def chain(x: Any, a: Any, b: Any, y: Any, z: Any) -> Any:
        return nn.gelu(x * a + b, approximate=False) * nn.sigmoid(y) + z

    def layer_norm(x: Any, w: Any, b: Any) -> Any:
        wide = x.astype(numpy.float32)
        mean = wide.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(wide.var(-1, keepdims=True) + 1e-5)
        return ((wide - mean) * scale * w + b).astype(x.dtype)

    def rms_norm(x: Any, w: Any) -> Any:
        wide = x.astype(numpy.float32)
        scale = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-7)
        return (wide * scale * w).astype(x.dtype)

    def cross_entropy(x: Any, target: Any) -> Any:
        logarithms = nn.log_softmax(x.astype(numpy.float32), axis=1)
        return -numpy.take_along_axis(logarithms, target[:, None], 1).mean()

    axis = 0 if "axis 0" in row.name else 1
    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("gelu", "forward"): chain,
        ("softmax", "forward"): lambda x: nn.softmax(x, -1),
        ("layer_norm", "forward"): layer_norm,
        ("rms_norm", "forward"): rms_norm,
        ("sum", "forward"): lambda x: x.sum(axis),
        ("cross_entropy", "both"): lambda x, t: jax.value_and_grad(cross_entropy)(x, t)[1],
        ("transposed", "forward"): lambda x: x.T.copy(),
    }
    function = functions.get((row.name.split()[0], row.part))
    if function is None:
        return None
    arrays = [jax.dlpack.from_dlpack(tensor.detach()) for tensor in tensors]
    jitted = jax.jit(function)
    return lambda: jitted(*arrays)
