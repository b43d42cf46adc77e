"""Automatic mixed precision: ``autocast`` and ``GradScaler``."""

from flamec.amp.grad_scaler import GradScaler
from flamec.autocast_mode import autocast, is_autocast_available

__all__ = ["GradScaler", "autocast", "is_autocast_available"]
