"""LogisticNormal: shares of normal numbers.

J. Aitchison and S. M. Shen, "Logistic-normal distributions: some properties and uses", 1980.
"""

from __future__ import annotations

from typing import Any, ClassVar

from flamec.distributions import constraints
from flamec.distributions.combined import TransformedDistribution
from flamec.distributions.continuous import Normal
from flamec.distributions.distribution import Constraints
from flamec.distributions.transforms import StickBreakingTransform
from flamec.tensor import Tensor

__all__ = ["LogisticNormal"]


class LogisticNormal(TransformedDistribution):
    """Shares, by ``StickBreakingTransform``, of normal numbers."""

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        base = Normal(loc, scale, validate_args)
        wide = base if base.batch_shape else base.expand([1])
        super().__init__(wide, StickBreakingTransform(), validate_args)

    @property
    def loc(self) -> Tensor:
        """The means of the normal numbers."""
        loc: Tensor = self._normal.loc
        return loc

    @property
    def scale(self) -> Tensor:
        """Their standard deviations."""
        scale: Tensor = self._normal.scale
        return scale

    @property
    def _normal(self) -> Any:
        base: Any = self.base_dist
        return base.base_dist
