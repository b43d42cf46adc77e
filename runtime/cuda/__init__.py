"""NVIDIA GPUs: driver access, memory, streams, kernels, graphs, Triton compilation.

Nothing here is imported by ``import flamec``; ``cuda.bindings`` and ``triton`` are loaded
when a GPU is first used and when a kernel is first compiled.
"""
