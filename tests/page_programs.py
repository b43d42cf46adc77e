"""Data for pages: a graph as large as one likes, made without compiling anything."""

from __future__ import annotations

from typing import Any


def large_page(blocks: int, size: int, boxed: bool = True) -> dict[str, Any]:
    """A chain of ``blocks`` modules with ``size`` operations each, every fourth read twice.

    ``boxed``: operations are inside of modules, two to each part of a block.
    """
    nodes: list[dict[str, Any]] = [
        {"op": "input", "name": "x", "module": ["inputs"], "inputs": [], "outputs": ["float32[8]"]}
    ]
    for block in range(blocks):
        for place in range(size):
            number = len(nodes)
            module = ["Model", str(block), f"part{place // 25}"] if boxed else []
            nodes.append(
                {
                    "op": ("add", "mul", "exp", "dot_general")[place % 4],
                    "module": module,
                    "inputs": [number - 1, *([max(0, number - 9)] if place % 4 == 0 else [])],
                    "outputs": ["float32[8]"],
                    "attributes": {},
                    "bytes": 64,
                    "flops": 8,
                    "kernels": [block],
                    "line": {
                        "file": "model.py",
                        "path": "/model.py",
                        "line": 10 + place,
                        "function": "forward",
                        "text": f"x = layer_{place}(x)",
                    },
                }
            )
    for node in nodes:
        node.setdefault("kernels", [])
        node.setdefault("bytes", 0)
        node.setdefault("flops", 0)
    kernels = [
        {
            "name": f"kernel_{block}",
            "kind": "pointwise",
            "operations": "add, mul",
            "read": 32,
            "written": 32,
            "flops": 8 * size,
            "lines": ["model.py:10: x = layer_0(x)"],
            "modules": [f"Model.{block}"],
            "nodes": list(range(1 + block * size, 1 + (block + 1) * size)),
            "text": f"kernel kernel_{block}",
            "functions": [],
        }
        for block in range(blocks)
    ]
    program = {
        "title": "program",
        "name": "large",
        "nodes": nodes,
        "kernels": kernels,
        "functions": {},
        "passes": [],
        "memory": {"peak": 0, "blocks": [], "steps": blocks, "inputs": 0, "outputs": 0},
    }
    return {
        "function": "model.py:large",
        "inputs": "",
        "sizes": {},
        "programs": [program],
        "stages": {
            name: [{"title": name, "language": "ir", "text": name}] * 2
            for name in ("trace", "optimized", "kernel")
        },
        "profile": [],
    }
