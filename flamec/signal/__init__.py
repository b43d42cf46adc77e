"""``torch.signal``: windows."""

from flamec.signal import windows

__all__ = ["windows"]
