"""Probability distributions with PyTorch's names: draws, densities, moments, divergences."""

from flamec.distributions import constraints, transforms
from flamec.distributions.circular import VonMises
from flamec.distributions.combined import *  # noqa: F403
from flamec.distributions.combined import __all__ as _combined
from flamec.distributions.continuous import *  # noqa: F403
from flamec.distributions.continuous import __all__ as _continuous
from flamec.distributions.counts import Binomial, NegativeBinomial
from flamec.distributions.discrete import *  # noqa: F403
from flamec.distributions.discrete import __all__ as _discrete
from flamec.distributions.distribution import Distribution
from flamec.distributions.gamma import *  # noqa: F403
from flamec.distributions.gamma import __all__ as _gammas
from flamec.distributions.kl import kl_divergence, register_kl
from flamec.distributions.logistic_normal import LogisticNormal
from flamec.distributions.low_rank import LowRankMultivariateNormal
from flamec.distributions.multivariate import MultivariateNormal
from flamec.distributions.positive import *  # noqa: F403
from flamec.distributions.positive import __all__ as _positive
from flamec.distributions.relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from flamec.distributions.transforms import *  # noqa: F403
from flamec.distributions.transforms import __all__ as _transforms
from flamec.namespace import file_namespaces

_FILES = {  # those that are no file here, too
    "bernoulli": "Bernoulli",
    "beta": "Beta",
    "binomial": "Binomial",
    "categorical": "Categorical",
    "cauchy": "Cauchy",
    "chi2": "Chi2",
    "dirichlet": "Dirichlet",
    "exponential": "Exponential",
    "fishersnedecor": "FisherSnedecor",
    "geometric": "Geometric",
    "gumbel": "Gumbel",
    "half_cauchy": "HalfCauchy",
    "half_normal": "HalfNormal",
    "independent": "Independent",
    "inverse_gamma": "InverseGamma",
    "kumaraswamy": "Kumaraswamy",
    "laplace": "Laplace",
    "log_normal": "LogNormal",
    "lowrank_multivariate_normal": "LowRankMultivariateNormal",
    "mixture_same_family": "MixtureSameFamily",
    "multinomial": "Multinomial",
    "multivariate_normal": "MultivariateNormal",
    "negative_binomial": "NegativeBinomial",
    "normal": "Normal",
    "one_hot_categorical": "OneHotCategorical OneHotCategoricalStraightThrough",
    "pareto": "Pareto",
    "poisson": "Poisson",
    "relaxed_bernoulli": "RelaxedBernoulli",
    "relaxed_categorical": "RelaxedOneHotCategorical",
    "studentT": "StudentT",
    "transformed_distribution": "TransformedDistribution",
    "uniform": "Uniform",
    "von_mises": "VonMises",
    "weibull": "Weibull",
}
globals().update(file_namespaces("flamec.distributions", _FILES, globals()))

__all__ = [
    "Binomial",
    "Distribution",
    "LogisticNormal",
    "LowRankMultivariateNormal",
    "MultivariateNormal",
    "NegativeBinomial",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "VonMises",
    "constraints",
    "kl_divergence",
    "register_kl",
    "transforms",
    *_combined,
    *_continuous,
    *_discrete,
    *_gammas,
    *_positive,
    *_transforms,
]
