"""The distribution of angles that is the normal distribution's like on a circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import Constraints, Distribution, as_parameters
from flamec.special import i0e, i1e
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["VonMises"]

_ROUNDS = 24  # each accepts 2 of 3 proposals or more, so all refuse once in 1e11 draws


class VonMises(Distribution):
    """Angles around ``loc``, in radians from -pi to pi: exp(concentration cos(x - loc)), divided by
    its integral.

    ``mean`` and ``variance`` are those of directions on a circle.
    """

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real,
        "concentration": constraints.positive,
    }

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.loc, self.concentration = as_parameters(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return 1 - i1e(self.concentration) / i0e(self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        k = self.concentration
        return k * (flamec.cos(value - self.loc) - 1) - math.log(2 * math.pi) - i0e(k).log()

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        """D. J. Best and N. I. Fisher, "Efficient simulation of the von Mises distribution",
        Applied Statistics 28 (1979), in float64."""
        with no_grad():
            shape = self._extended_shape(sample_shape)
            k = self.concentration.expand(shape).double()
            tau = 1 + (1 + 4 * k.square()).sqrt()
            rho = (tau - (2 * tau).sqrt()) / (2 * k)
            r = flamec.where(k < 1e-5, 1 / k + k, (1 + rho.square()) / (2 * rho))
            u = flamec.rand(3, _ROUNDS, *shape, dtype=flamec.float64, device=k.device)
            z = (math.pi * u[0]).cos()
            f = (1 + r * z) / (r + z)
            c = k * (r - f)
            fits = (c * (2 - c) - u[1] > 0) | ((c / u[1]).log() + 1 - c >= 0)
            first = fits.to(flamec.uint8).argmax(0, keepdim=True)
            angle = ((u[2] - 0.5).sign() * f.clamp(-1.0, 1.0).acos()).gather(0, first).squeeze(0)
            turned = (angle + math.pi + self.loc.double()) % (2 * math.pi) - math.pi
            return turned.to(self.loc.dtype)
