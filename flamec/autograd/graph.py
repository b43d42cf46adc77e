"""PyTorch's names for what surrounds the tape: hooks on what it saves."""

from flamec.autograd.saved_tensors import save_on_cpu, saved_tensors_hooks

__all__ = ["save_on_cpu", "saved_tensors_hooks"]
