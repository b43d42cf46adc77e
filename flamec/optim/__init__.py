"""Optimizers and learning-rate schedules."""

from flamec.namespace import namespace
from flamec.optim import averaging, lr_scheduler
from flamec.optim.adadelta import Adadelta
from flamec.optim.adafactor import Adafactor
from flamec.optim.adagrad import Adagrad
from flamec.optim.adam import Adam, AdamW
from flamec.optim.adamax import Adamax
from flamec.optim.asgd import ASGD
from flamec.optim.lbfgs import LBFGS
from flamec.optim.lion import Lion
from flamec.optim.muon import Muon
from flamec.optim.nadam import NAdam
from flamec.optim.optimizer import Optimizer
from flamec.optim.radam import RAdam
from flamec.optim.rmsprop import RMSprop
from flamec.optim.rprop import Rprop
from flamec.optim.sgd import SGD
from flamec.optim.step_hooks import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

swa_utils = namespace(
    "flamec.optim.swa_utils",
    "Averages of a model's weights.",
    **{name: getattr(averaging, name) for name in averaging.__all__},
)

adamw = namespace("flamec.optim.adamw", "As in PyTorch.", AdamW=AdamW)

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "adamw",
    "lr_scheduler",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "swa_utils",
]
