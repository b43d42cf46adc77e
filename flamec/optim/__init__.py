"""Optimizers and learning-rate schedules."""

from flamec.optim import lr_scheduler
from flamec.optim.adam import Adam, AdamW
from flamec.optim.optimizer import Optimizer
from flamec.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
