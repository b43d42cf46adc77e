"""Bytes and devices: caches, memory, compiled programs. Never sees a graph.

In: an ``ExecutionPlan`` and settings given as arguments. Out: programs that run. The
runtime reads no environment variable; ``flamec.config`` does and passes values on.
"""
