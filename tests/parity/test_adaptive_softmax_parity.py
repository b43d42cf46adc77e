"""nn.AdaptiveLogSoftmaxWithLoss against PyTorch: values, gradients, state, errors; compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn

RNG = np.random.default_rng(5)
X = RNG.standard_normal((9, 16))
TARGETS = np.array([0, 3, 4, 7, 11, 8, 19, 2, 4])


def pair(head_bias: bool = False, cutoffs: Any = (4, 8, 12)) -> tuple[Any, Any]:
    """PyTorch's module and ours with its state, in float64."""
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        16, 20, list(cutoffs), div_value=2.0, head_bias=head_bias, dtype=torch.float64
    )
    ours = nn.AdaptiveLogSoftmaxWithLoss(
        16, 20, list(cutoffs), div_value=2.0, head_bias=head_bias, dtype=flamec.float64
    )
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({name: flamec.tensor(value.numpy()) for name, value in state.items()})
    return theirs, ours


def compare_step(theirs: Any, ours: Any, call: Any, x: np.ndarray, targets: np.ndarray) -> None:
    theirs.zero_grad()
    ours.zero_grad()
    wanted_x = torch.tensor(x, requires_grad=True)
    wanted = theirs(wanted_x, torch.tensor(targets))
    (wanted.loss + (wanted.output**2).sum()).backward()
    found_x = flamec.tensor(x).requires_grad_()
    output, loss = call(found_x, flamec.tensor(targets))
    (loss + (output**2).sum()).backward()
    assert tuple(output.shape) == tuple(wanted.output.shape) and loss.shape == ()
    for mine, other in ((output, wanted.output), (loss, wanted.loss)):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(found_x.grad.numpy(), wanted_x.grad.numpy(), rtol=1e-10, atol=1e-14)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if other.grad is not None:
            np.testing.assert_allclose(
                mine.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-14, err_msg=name
            )


@pytest.mark.parametrize("head_bias", [False, True])
def test_targets_in_every_cluster(head_bias: bool) -> None:
    theirs, ours = pair(head_bias)
    compare_step(theirs, ours, ours, X, TARGETS)


def test_targets_in_some_clusters_and_one_row() -> None:
    theirs, ours = pair()
    compare_step(theirs, ours, ours, X[:3], np.array([1, 13, 0]))
    compare_step(theirs, ours, ours, X[:2], np.array([1, 3]))
    compare_step(theirs, ours, ours, X[:1], np.array([9]))
    compare_step(theirs, ours, ours, X[0], np.array(17))


def test_a_compiled_step_with_other_targets() -> None:
    theirs, ours = pair(True)
    compiled = flamec.compile(lambda x, targets: tuple(ours(x, targets)))
    for targets in (TARGETS, np.roll(TARGETS, 2), TARGETS[::-1].copy(), TARGETS % 9):
        compare_step(theirs, ours, compiled, X, targets)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_log_probabilities_and_predictions(mode: str) -> None:
    theirs, ours = pair(True)
    log_prob, predict = ours.log_prob, ours.predict
    if mode == "compiled":
        log_prob = flamec.compile(lambda x: ours.log_prob(x))
        predict = flamec.compile(lambda x: ours.predict(x))
    for scale in (1.0, 5.0, -5.0):
        x = X * scale
        wanted = theirs.log_prob(torch.tensor(x)).detach().numpy()
        found = log_prob(flamec.tensor(x)).detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(np.exp(found).sum(1), 1.0, rtol=1e-12)
        classes = theirs.predict(torch.tensor(x)).numpy()
        assert predict(flamec.tensor(x)).numpy().tolist() == classes.tolist()
        assert classes.tolist() == wanted.argmax(1).tolist()


def test_predictions_within_the_shortlist_only() -> None:
    theirs, ours = pair(True)
    for module in (theirs, ours):
        module.head.bias.data[: module.shortlist_size] = 100.0
    found = ours.predict(flamec.tensor(X)).numpy().tolist()
    assert found == theirs.predict(torch.tensor(X)).numpy().tolist() and max(found) < 4


def test_new_values_of_all_weights() -> None:
    _, ours = pair()
    before = [p.detach().numpy().copy() for p in ours.parameters()]
    ours.reset_parameters()
    for old, new in zip(before, ours.parameters(), strict=True):
        assert (old != new.detach().numpy()).any()


def test_bad_arguments() -> None:
    for cutoffs in ([], [4, 4], [8, 4], [0, 4], [4, 20], [2.5]):
        for module in (torch.nn, nn):
            with pytest.raises(ValueError, match="cutoffs should be a sequence"):
                module.AdaptiveLogSoftmaxWithLoss(16, 20, cutoffs)
    theirs, ours = pair()
    for x, targets, message in (
        (X, TARGETS[:3], "same size in the batch"),
        (X[0], TARGETS[:1], None),
        (X, np.array(3), "0D target tensor expects 1D input"),
        (X[None], TARGETS, None),
        (X, TARGETS[None], "multi-target not supported"),
        (X, TARGETS + 1, r"Target values should be in \[0, 19\].*\[1, 20\]"),
        (X, TARGETS - 1, r"Target values should be in \[0, 19\].*\[-1, 18\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            theirs(torch.tensor(x), torch.tensor(targets))
        with pytest.raises(RuntimeError, match=message):
            ours(flamec.tensor(x), flamec.tensor(targets))
