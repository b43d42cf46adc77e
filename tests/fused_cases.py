"""A call of each composite that eager mode fuses, for the tests of fused programs.

A case is the composite's name, and a function from operands to a result: ``x`` makes random
floats of a shape, positive ones with ``positive``, integers below a bound with ``below``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import flamec
from flamec import random
from flamec.distributions.implicit_gradients import _share_slope
from flamec.functional import (
    along_dimension,
    creation,
    poisson,
    sampling,
    searching,
    statistics,
    true_places,
    uniqueness,
)
from flamec.functional.incomplete_gamma import gamma_slope
from flamec.nn import functional as F


class Operands:
    """Random operands on a device, the same for the same seed; ``floats`` require grad."""

    def __init__(self, device: Any, seed: int = 0, recorded: bool = True) -> None:
        self.device = device
        self.random = np.random.default_rng(seed)
        self.recorded = recorded
        self.floats: list[flamec.Tensor] = []

    def __call__(self, *shape: int, positive: bool = False, recorded: bool = True) -> Any:
        values = self.random.standard_normal(shape)
        if positive:
            values = np.abs(values) + 0.1
        tensor = flamec.tensor(values, device=self.device)
        if recorded and self.recorded:
            tensor.requires_grad_()
            self.floats.append(tensor)
        return tensor

    def below(self, bound: int, *shape: int) -> Any:
        return flamec.tensor(self.random.integers(0, bound, shape), device=self.device)

    def signs(self, *shape: int) -> Any:
        values = np.where(self.random.standard_normal(shape) < 0, -1.0, 1.0)
        return flamec.tensor(values, device=self.device)


@dataclass(frozen=True)
class Case:
    name: str
    call: Callable[[Operands], Any]


def _histogram(x: Operands) -> Any:
    values = x(40, recorded=False)
    return searching._histogram(values, values.min(), values.max(), 7)


def _under_mask(x: Operands, elements: bool) -> Any:
    number, before = true_places._numbered(x.below(2, 21) == 1, 8)
    count = int(before[-1].item())
    if not elements:
        return true_places._put_places(number, before, count, 8)
    return true_places._put_elements(x(21), number, before, count, 8)


def _along_dimensions() -> list[Case]:
    along = along_dimension
    return [
        Case("gathered_along", lambda x: along.gathered_along(x(4, 6), x.below(6, 4, 3), 1)),
        Case(
            "put_along",
            lambda x: along.put_along(x(4, 6), x(4, 3), x.below(6, 4, 3), "put", 1, "add", True),
        ),
        Case("selected_slices", lambda x: along.selected_slices(x(4, 6), x.below(6, 5), 1)),
        Case(
            "put_slices",
            lambda x: along.put_slices(x(4, 6), x(4, 5), x.below(6, 5), "add", 1, "add", True),
        ),
        Case("numbered", lambda x: true_places._numbered(x.below(2, 21) == 1, 8)),
        Case("put_places", lambda x: _under_mask(x, False)),
        Case("unravelled", lambda x: true_places._unravelled(x.below(60, 7), (3, 4, 5))),
        Case("rows", lambda x: true_places._rows(x.below(60, 7), (3, 4, 5))),
        Case("put_elements", lambda x: _under_mask(x, True)),
        Case("histogram", _histogram),
        Case("extremes", lambda x: statistics._extremes(x.below(9, 30))),
        Case("counted", lambda x: statistics._counted(x.below(9, 30), 9)),
    ]


def _beta_slope(x: Operands) -> Any:
    p = x(5, 7).sigmoid()
    return _share_slope(x(5, 7, positive=True), x(5, 7, positive=True), p.log(), (1 - p).log())


def _special() -> list[Case]:
    names = [
        "airy_ai", "bessel_j0", "bessel_j1", "entr", "erfcx", "i0", "i0e", "i1", "i1e", "log_ndtr",
        "modified_bessel_i0", "modified_bessel_i1", "spherical_bessel_j0",
    ]  # fmt: skip
    right = [
        "bessel_y0", "bessel_y1", "modified_bessel_k0", "modified_bessel_k1",
        "scaled_modified_bessel_k0", "scaled_modified_bessel_k1",
    ]  # fmt: skip
    special = flamec.special
    return [
        *(
            Case(n, lambda x, n=n: getattr(special, n)(x(5, 7, positive=n in ("entr", *right)) * 4))
            for n in (*names, *right)
        ),
        Case("ndtr", lambda x: special.ndtr(x(5, 7))),
        Case("ndtri", lambda x: special.ndtri(x(5, 7).sigmoid())),
        Case("xlog1py", lambda x: special.xlog1py(x(5, 7), x(7, positive=True))),
        Case(
            "zeta",
            lambda x: special.zeta(x(5, 7, positive=True) + 1, x(7, positive=True)),
        ),
        *(
            Case(n, lambda x, f=f: f(x(5, 7, positive=True), x(5, 7, positive=True)))
            for n, f in (
                ("igamma", flamec.igamma),
                ("igammac", flamec.igammac),
                ("gammainc", special.gammainc),
                ("gammaincc", special.gammaincc),
            )
        ),
    ]


def _elementwise() -> list[Case]:
    plain = [
        "gelu", "silu", "softplus", "logsigmoid", "mish", "relu", "hardtanh", "relu6",
        "leaky_relu", "hardshrink", "softshrink", "hardsigmoid", "hardswish", "elu", "celu",
        "selu", "softsign", "tanhshrink",
    ]  # fmt: skip
    cases = [Case(n, lambda x, n=n: getattr(F, n)(x(5, 7))) for n in plain]
    tensor = ["sign", "square", "sinc", "nan_to_num", "frac", "round"]
    cases += [Case(n, lambda x, n=n: getattr(x(5, 7), n)()) for n in tensor]
    return [
        *cases,
        Case("gelu", lambda x: F.gelu(x(3, 5, 2), approximate="tanh")),
        Case("softplus", lambda x: F.softplus(x(4), beta=2.0, threshold=1.0)),
        Case("glu", lambda x: F.glu(x(4, 6))),
        Case("prelu", lambda x: F.prelu(x(4, 3, 5), x(3))),
        Case("rrelu", lambda x: F.rrelu(x(4, 3), training=True)),
        Case("threshold", lambda x: F.threshold(x(5, 7), 0.1, 20.0)),
        Case("of_higher_order", lambda x: x(5, 7).polygamma(3)),
        *_special(),
        Case("gamma_slope", lambda x: gamma_slope(x(5, 7, positive=True), x(5, 7))),
        Case("share_slope", _beta_slope),
        Case("frexp", lambda x: flamec.frexp(x(5, 7))[0]),
        Case("logit", lambda x: flamec.logit(x(5, 7), eps=0.2)),
        Case("fmax", lambda x: flamec.fmax(x(5, 7), x(7))),
        Case("fmin", lambda x: flamec.fmin(x(5, 7), x(5, 1))),
        Case("clamp", lambda x: x(5, 7).clamp(-0.5, 0.5)),
        Case("with_factor", lambda x: flamec.add(x(5, 7), x(5, 1), alpha=0.5)),
        Case("with_factor", lambda x: flamec.sub(x(7), x(5, 7), alpha=x().detach())),
        Case("lerp", lambda x: flamec.lerp(x(5, 7), x(5, 7), 0.3)),
        Case("addcmul", lambda x: flamec.addcmul(x(5, 7), x(5, 1), x(7), value=0.5)),
        Case("addcdiv", lambda x: flamec.addcdiv(x(5, 7), x(5, 1), x(7, positive=True))),
        Case("hypot", lambda x: flamec.hypot(x(5, 7), x(5, 7))),
        Case("ldexp", lambda x: flamec.ldexp(x(5, 7), x(5, 7))),
        Case("xlogy", lambda x: flamec.xlogy(x(5, 7), x(5, 7, positive=True))),
        Case("logaddexp", lambda x: flamec.logaddexp(x(5, 7), x(5, 7))),
        Case("logaddexp2", lambda x: flamec.logaddexp2(x(5, 7), x(5, 7))),
        Case("isclose", lambda x: flamec.isclose(x(5, 7), x(5, 7), rtol=0.5)),
    ]


def _folding() -> list[Case]:
    return [
        Case("softmax", lambda x: F.softmax(x(4, 6), -1)),
        Case("softmax", lambda x: F.softmax(x(4, 6, 3), 1)),
        Case("softmin", lambda x: F.softmin(x(4, 6), 0)),
        Case("log_softmax", lambda x: F.log_softmax(x(4, 6), 1)),
        Case("gumbel_softmax", lambda x: F.gumbel_softmax(x(4, 6), tau=0.7)),
        Case("layer_norm", lambda x: F.layer_norm(x(4, 6), (6,), x(6), x(6))),
        Case("layer_norm", lambda x: F.layer_norm(x(4, 3, 5), (3, 5))),
        Case("rms_norm", lambda x: F.rms_norm(x(4, 6), (6,), x(6))),
        Case("group_norm", lambda x: F.group_norm(x(2, 6, 3, 3), 2, x(6), x(6))),
        Case("batch_norm", lambda x: _batch_norm(x)),
        Case("instance_norm", lambda x: F.instance_norm(x(2, 3, 5, 4), weight=x(3), bias=x(3))),
        Case("local_response_norm", lambda x: F.local_response_norm(x(2, 5, 3), 3)),
        Case("normalize", lambda x: F.normalize(x(4, 6))),
        Case("cosine_similarity", lambda x: F.cosine_similarity(x(4, 6), x(4, 6))),
        Case("pairwise_distance", lambda x: F.pairwise_distance(x(4, 6), x(4, 6))),
        Case("var", lambda x: x(4, 6).var(1)),
        Case("std", lambda x: x(4, 6).std()),
        Case("var_mean", lambda x: flamec.var_mean(x(4, 6), 0)),
        Case("std_mean", lambda x: flamec.std_mean(x(4, 6), 0, keepdim=True)),
        Case("logsumexp", lambda x: flamec.logsumexp(x(4, 6), (0, 1))),
        Case("norm", lambda x: flamec.norm(x(4, 6), dim=1)),
        Case("dist", lambda x: flamec.dist(x(4, 6), x(4, 6), 3)),
        Case("cov", lambda x: flamec.cov(x(4, 6))),
        Case("corrcoef", lambda x: flamec.corrcoef(x(4, 6))),
        Case("nansum", lambda x: x(4, 6).nansum(1)),
        Case("mean", lambda x: x(4, 6).mean(0)),
        Case("mean", lambda x: x(4, 6).mean()),
        Case("nanmean", lambda x: x(4, 6).nanmean()),
        Case("bisected", lambda x: searching._bisected(x(9).sort()[0], x(4, 6), 4, "not less")),
        Case("count_nonzero", lambda x: flamec.count_nonzero(x(4, 6), 1)),
        Case("aminmax", lambda x: flamec.aminmax(x(4, 6), dim=1)),
        Case("max", lambda x: x(4, 6).max(1)),
        Case("min", lambda x: x(4, 6).min(0)),
        Case("by_recurrence", lambda x: flamec.logcumsumexp(x(4, 6), 1)),
        Case("diff", lambda x: flamec.diff(x(4, 6))),
        Case("trapezoid", lambda x: flamec.trapezoid(x(4, 6), dx=0.5)),
        Case("cumulative_trapezoid", lambda x: flamec.cumulative_trapezoid(x(4, 6), x(6))),
    ]


def _batch_norm(x: Operands) -> Any:
    mean, variance = x(3, recorded=False), x(3, positive=True, recorded=False)
    result = F.batch_norm(x(4, 3, 5), mean, variance, x(3), x(3), training=True, momentum=0.3)
    return result, mean.clone(), variance.clone()


def _losses() -> list[Case]:
    return [
        Case("mse_loss", lambda x: F.mse_loss(x(4, 6), x(4, 6))),
        Case("l1_loss", lambda x: F.l1_loss(x(4, 6), x(4, 6), reduction="none")),
        Case("smooth_l1_loss", lambda x: F.smooth_l1_loss(x(4, 6), x(4, 6), beta=0.5)),
        Case("huber_loss", lambda x: F.huber_loss(x(4, 6), x(4, 6), reduction="sum")),
        Case(
            "binary_cross_entropy_with_logits",
            lambda x: F.binary_cross_entropy_with_logits(x(4, 6), x(4, 6)),
        ),
        Case(
            "binary_cross_entropy",
            lambda x: F.binary_cross_entropy(x(4, 6).sigmoid(), x(4, 6).sigmoid()),
        ),
        Case("kl_div", lambda x: F.kl_div(x(4, 6), x(4, 6, positive=True), reduction="batchmean")),
        Case("poisson_nll_loss", lambda x: F.poisson_nll_loss(x(4, 6), x(4, 6, positive=True))),
        Case("nll_loss", lambda x: F.nll_loss(x(4, 6), x.below(6, 4), x(6, recorded=False))),
        Case("cross_entropy", lambda x: F.cross_entropy(x(4, 6), x.below(6, 4))),
        Case(
            "cross_entropy",
            lambda x: F.cross_entropy(
                x(4, 6, 2), x.below(6, 4, 2), label_smoothing=0.1, ignore_index=2
            ),
        ),
        Case("cross_entropy", lambda x: F.cross_entropy(x(4, 6), x(4, 6).softmax(1))),
        Case("hinge_embedding_loss", lambda x: F.hinge_embedding_loss(x(4, 6), x.signs(4, 6))),
        Case("margin_ranking_loss", lambda x: F.margin_ranking_loss(x(6), x(6), x.signs(6))),
        Case(
            "cosine_embedding_loss",
            lambda x: F.cosine_embedding_loss(x(4, 6), x(4, 6), x.signs(4)),
        ),
        Case("soft_margin_loss", lambda x: F.soft_margin_loss(x(4, 6), x.signs(4, 6))),
        Case(
            "multilabel_soft_margin_loss",
            lambda x: F.multilabel_soft_margin_loss(x(4, 6), x(4, 6).detach().sigmoid()),
        ),
        Case("multi_margin_loss", lambda x: F.multi_margin_loss(x(4, 6), x.below(6, 4))),
        Case(
            "multilabel_margin_loss", lambda x: F.multilabel_margin_loss(x(4, 6), x.below(6, 4, 6))
        ),
        Case("triplet_margin_loss", lambda x: F.triplet_margin_loss(x(4, 6), x(4, 6), x(4, 6))),
    ]


def _normal(device: Any) -> Any:
    return random.normal_numbers((40, 6), flamec.float64, flamec.device(device))


def _log_normal(x: Operands) -> Any:
    type = flamec.zeros(40, 6, dtype=flamec.float64, device=x.device)._type
    return sampling._values_of(type, True, flamec.float64, None, "log_normal", 0.5, 1.0)


def _drawing() -> list[Case]:
    return [
        Case("uniform_like", lambda x: random.uniform_like(x(40, 6, recorded=False))),
        Case("normal_like", lambda x: random.normal_like(x(40, 6, recorded=False))),
        Case(
            "integers_like",
            lambda x: random._integers_like(x.below(2, 40, 6), x.below(9) + 1, x.below(9)),
        ),
        Case(
            "numbers",
            lambda x: poisson._numbers(x(4, 6, positive=True, recorded=False) * 8, 2, None),
        ),
        Case("drawn_values", _log_normal),
        Case("between", lambda x: creation._between(x(recorded=False), x(recorded=False), 21)),
        Case(
            "drawn",
            lambda x: random.normal_numbers((40, 6), flamec.float64, flamec.device(x.device)),
        ),
        Case(
            "drawn_integers",
            lambda x: flamec.randint(3, 9, (40, 6), device=flamec.device(x.device)),
        ),
        Case("nextafter", lambda x: flamec.nextafter(x(40, 6, recorded=False), x.signs(6))),
        Case("converted", lambda x: x(40, 6) * x(6).to(flamec.bfloat16)),
        Case("dropout", lambda x: F.dropout(x(40, 6), 0.3)),
        Case("alpha_dropout", lambda x: F.alpha_dropout(x(40, 6), 0.3, training=True)),
        Case("dropout1d", lambda x: F.dropout1d(x(4, 6, 3), 0.3)),
        Case("dropout2d", lambda x: F.dropout2d(x(4, 6, 3, 2), 0.3)),
        Case("dropout3d", lambda x: F.dropout3d(x(4, 6, 3, 2, 2), 0.3)),
        Case(
            "feature_alpha_dropout",
            lambda x: F.feature_alpha_dropout(x(4, 6, 3), 0.3, training=True),
        ),
    ]


def _products() -> list[Case]:
    return [
        Case("linear", lambda x: F.linear(x(4, 6), x(5, 6), x(5))),
        Case("linear", lambda x: F.linear(x(2, 3, 6), x(5, 6))),
        Case("embedding", lambda x: F.embedding(x.below(7, 3, 4), x(7, 5), padding_idx=2)),
        Case("bilinear", lambda x: F.bilinear(x(4, 3), x(4, 2), x(5, 3, 2), x(5))),
        Case("addmm", lambda x: flamec.addmm(x(5), x(4, 3), x(3, 5), beta=0.5, alpha=2)),
        Case("addmv", lambda x: flamec.addmv(x(4), x(4, 3), x(3))),
        Case("addr", lambda x: flamec.addr(x(4, 3), x(4), x(3))),
        Case("baddbmm", lambda x: flamec.baddbmm(x(2, 4, 5), x(2, 4, 3), x(2, 3, 5))),
        Case("addbmm", lambda x: flamec.addbmm(x(4, 5), x(2, 4, 3), x(2, 3, 5))),
        Case("cdist", lambda x: flamec.cdist(x(4, 3), x(5, 3))),
        Case(
            "scaled_dot_product_attention",
            lambda x: F.scaled_dot_product_attention(
                x(2, 4, 3), x(2, 5, 3), x(2, 5, 3), is_causal=True
            ),
        ),
        Case("conv1d", lambda x: F.conv1d(x(2, 3, 9), x(4, 3, 3), x(4), padding=1)),
        Case("conv2d", lambda x: F.conv2d(x(2, 3, 7, 6), x(4, 3, 3, 3), x(4), stride=2)),
        Case("conv3d", lambda x: F.conv3d(x(1, 2, 4, 5, 4), x(3, 2, 2, 2, 2), x(3))),
        Case("conv_transpose1d", lambda x: F.conv_transpose1d(x(2, 3, 5), x(3, 4, 3), x(4))),
        Case("conv_transpose2d", lambda x: F.conv_transpose2d(x(2, 3, 4, 5), x(3, 2, 3, 3), x(2))),
        Case("conv_transpose3d", lambda x: F.conv_transpose3d(x(1, 2, 3, 2, 3), x(2, 2, 2, 2, 2))),
    ]


def _windows() -> list[Case]:
    return [
        Case("max_pool1d", lambda x: F.max_pool1d(x(2, 3, 8), 2)),
        Case("max_pool2d", lambda x: F.max_pool2d(x(2, 3, 8, 7), 3, 2, 1)),
        Case("max_pool2d", lambda x: F.max_pool2d(x(2, 3, 8, 8), 2, return_indices=True)),
        Case("max_pool3d", lambda x: F.max_pool3d(x(1, 2, 4, 4, 4), 2)),
        Case("avg_pool1d", lambda x: F.avg_pool1d(x(2, 3, 8), 2)),
        Case("avg_pool2d", lambda x: F.avg_pool2d(x(2, 3, 8, 7), 3, 2, 1)),
        Case("avg_pool3d", lambda x: F.avg_pool3d(x(1, 2, 4, 4, 4), 2)),
        Case("lp_pool1d", lambda x: F.lp_pool1d(x(2, 3, 8, positive=True), 2, 2)),
        Case("lp_pool2d", lambda x: F.lp_pool2d(x(2, 3, 8, 8, positive=True), 2, 2)),
        Case("lp_pool3d", lambda x: F.lp_pool3d(x(1, 2, 4, 4, 4, positive=True), 2, 2)),
        Case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x(2, 3, 8), 4)),
        Case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x(2, 3, 8, 6), 1)),
        Case("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x(1, 2, 4, 4, 4), 2)),
        Case("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x(2, 3, 8), 4)),
        Case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x(2, 3, 8, 6), 2)),
        Case("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x(1, 2, 4, 4, 4), 2)),
        Case("max_unpool1d", lambda x: F.max_unpool1d(x(2, 3, 4), _evens(x, 2, 3, 4), 2)),
        Case("max_unpool2d", lambda x: F.max_unpool2d(x(2, 3, 2, 2), _evens(x, 2, 3, 2, 2), 2)),
        Case(
            "max_unpool3d",
            lambda x: F.max_unpool3d(x(1, 2, 2, 2, 2), _evens(x, 1, 2, 2, 2, 2), 2),
        ),
        Case(
            "interpolate",
            lambda x: F.interpolate(x(2, 3, 4, 5), scale_factor=2, mode="bilinear"),
        ),
        Case("interpolate", lambda x: F.interpolate(x(2, 3, 4, 5), size=(7, 9), mode="nearest")),
        Case(
            "grid_sample",
            lambda x: F.grid_sample(x(2, 3, 5, 4), x(2, 3, 3, 2), align_corners=False),
        ),
    ]


def _evens(x: Operands, *shape: int) -> Any:
    inner = int(np.prod(shape[2:]))
    places = np.broadcast_to((2 * np.arange(inner)).reshape(shape[2:]), shape)
    return flamec.tensor(np.ascontiguousarray(places), device=x.device)


def _moving() -> list[Case]:
    """Elements in other places, found by index or by position."""
    return [
        Case("gather", lambda x: x(4, 6).gather(1, x.below(6, 3, 5))),
        Case("take_along_dim", lambda x: x(4, 6).take_along_dim(x.below(4, 1, 6), 0)),
        Case("index_select", lambda x: x(4, 6).index_select(1, x.below(6, 5))),
        Case("along", lambda x: x(4, 6, 3)[:, x.below(6, 5)]),
        Case("read", lambda x: x(4, 6, 3)[:, x.below(6, 5), x.below(3, 5)]),
        Case("scatter", lambda x: x(4, 6).scatter(1, x.below(6, 4, 1), 0.5)),
        Case("scatter_add", lambda x: x(4, 6).scatter_add(0, x.below(4, 3, 5), x(4, 6))),
        Case(
            "scatter_reduce",
            lambda x: x(4, 6).scatter_reduce(0, x.below(4, 3, 6), x(3, 6), "mean"),
        ),
        Case("index_add", lambda x: x(4, 6).index_add(1, x.below(6, 3), x(4, 3), alpha=0.5)),
        Case("index_copy", lambda x: x(4, 6).index_copy(0, x.below(4, 1), x(1, 6))),
        Case("index_fill", lambda x: x(4, 6).index_fill(1, x.below(6, 2), 0.5)),
        Case("index_reduce", lambda x: x(4, 6).index_reduce(0, x.below(4, 3), x(3, 6), "amax")),
        Case("in_order", lambda x: x(4, 6).masked_scatter(x.below(2, 4, 6) == 1, x(24))),
        Case("flip", lambda x: x(4, 6, 3).flip(0, 2)),
        Case("rot90", lambda x: flamec.rot90(x(4, 6, 3))),
        Case("roll", lambda x: x(4, 6).roll((5, -1), (1, 0))),
        Case("roll", lambda x: x(4, 6).roll(7)),
        Case("diag", lambda x: flamec.diag(x(4, 6), 2)),
        Case("diag_embed", lambda x: flamec.diag_embed(x(4, 6), 1)),
        Case("diagonal_scatter", lambda x: flamec.diagonal_scatter(x(4, 6), x(4), 1)),
        Case("tril", lambda x: x(2, 4, 6).tril(3)),
        Case("triu", lambda x: x(4, 6).triu(-1)),
        Case("each_repeated", lambda x: x(4, 6).repeat_interleave(3, 1)),
        Case("narrow_copy", lambda x: flamec.narrow_copy(x(4, 6), 1, 2, 3)),
        Case("kthvalue", lambda x: x(4, 6).kthvalue(3, 0)),
        Case("median", lambda x: x(4, 6).median(1)),
        Case("nanmedian", lambda x: x(4, 6).nanmedian()),
        Case("mode", lambda x: x(4, 6).mode(1)),
        Case("quantiles", lambda x: flamec.quantile(x(4, 6), 0.3, 1)),
        Case("quantiles", lambda x: flamec.nanquantile(x(4, 6), x(3, positive=True) / 9)),
        Case("isin", lambda x: flamec.isin(x.below(9, 4, 6), x.below(9, 5))),
        Case("is_new", lambda x: uniqueness._is_new(x.below(3, 20))),
        Case("lengths", lambda x: uniqueness._lengths(x.below(20, 9), 20)),
        Case("new_in_order", lambda x: uniqueness._new_in_order(x.below(3, 20))),
        Case("new_in_lines", lambda x: uniqueness._new_in_lines(x.below(3, 20))),
        Case("parts", _parts_of_a_line),
        Case("crossed", lambda x: flamec.linalg.cross(x(4, 3), x(4, 3), dim=1)),
        Case("gradient", lambda x: flamec.gradient(x(4, 6), spacing=0.5)),
        Case("trace", lambda x: flamec.trace(x(4, 6))),
        Case("renorm", lambda x: flamec.renorm(x(4, 6), 2, 0, 0.5)),
        Case("float_power", lambda x: flamec.float_power(x(4, 6, positive=True), x(6))),
        Case("vecdot", lambda x: flamec.linalg.vecdot(x(4, 6), x(4, 6))),
        Case("vander", lambda x: flamec.linalg.vander(x(4), N=5)),
        Case("vector_norm", lambda x: flamec.linalg.vector_norm(x(4, 6), 3)),
        Case("matrix_norm", lambda x: flamec.linalg.matrix_norm(x(4, 6))),
    ]


def _parts_of_a_line(x: Operands) -> Any:
    line, places, lines, counts = uniqueness._new_in_order(x.below(4, 20))
    return uniqueness._parts(line, lines, counts, int(counts.sum()), places, True, True)


CASES = [
    *_elementwise(), *_folding(), *_losses(), *_drawing(), *_along_dimensions(),
    *_products(), *_windows(), *_moving(),
]  # fmt: skip
