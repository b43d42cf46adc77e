"""PyTorch's names for what surrounds the tape: hooks on what it saves, on several gradients."""

from flamec.autograd.multi_grad_hook import register_multi_grad_hook
from flamec.autograd.saved_tensors import (
    disable_saved_tensors_hooks,
    save_on_cpu,
    saved_tensors_hooks,
)

__all__ = [
    "disable_saved_tensors_hooks",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]
