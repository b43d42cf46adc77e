"""Automatic mixed precision: ``autocast`` and ``GradScaler``."""

from flamec.amp.custom_functions import custom_bwd, custom_fwd
from flamec.amp.grad_scaler import GradScaler
from flamec.autocast_mode import autocast, is_autocast_available

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
