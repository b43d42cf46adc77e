"""Files of tensors: safetensors with the structure as JSON, and PyTorch's archives, read only."""

from flamec.saving.files import load, save

__all__ = ["load", "save"]
