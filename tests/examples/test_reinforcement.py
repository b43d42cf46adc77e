"""The examples that balance a pole: the cart is Newton's, and both ways of learning work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from example_programs import program


def test_a_push_obeys_the_equations_of_motion(tmp_path: Path) -> None:
    """Accelerations solve the linear system that Lagrange's equations of a rod on a cart give."""
    cartpole = program("cartpole", "flamec", tmp_path)
    random = np.random.default_rng(0)
    states = random.uniform(-1, 1, (50, 4))
    right = random.random(50) < 0.5
    after = cartpole.push(states, right)
    for (place, speed, angle, turning), new, pushed_right in zip(states, after, right, strict=True):
        coupling = 0.1 * 0.5 * np.cos(angle)
        masses = [[1.1, coupling], [coupling, 4 / 3 * 0.1 * 0.5**2]]
        force = 10 if pushed_right else -10
        forces = [force + 0.1 * 0.5 * turning**2 * np.sin(angle), 0.1 * 9.8 * 0.5 * np.sin(angle)]
        linear, angular = np.linalg.solve(masses, forces)
        rates = [speed, linear, turning, angular]
        np.testing.assert_allclose(new, [place, speed, angle, turning] + 0.02 * np.array(rates))
    assert cartpole.fallen(
        np.array([[2.5, 0, 0, 0], [0, 9, -0.22, 0], [2.3, 9, 0.2, 9]])
    ).tolist() == [
        True,
        True,
        False,
    ]


def test_episodes_end(tmp_path: Path) -> None:
    """Pushing one way the pole falls soon; what comes after is no part of the episode."""
    cartpole = program("cartpole", "flamec", tmp_path)
    always = lambda states: np.ones(len(states), bool)  # noqa: E731
    states, actions, part = cartpole.play(always, 6, np.random.default_rng(0))
    lengths = part.sum(0)
    assert ((lengths > 7) & (lengths < 13)).all()
    assert actions[part == 1].all()
    for episode, length in enumerate(lengths.astype(int)):
        assert part[:length, episode].all() and not part[length:, episode].any()
        assert not cartpole.fallen(states[:length, episode]).any()
        assert cartpole.fallen(cartpole.push(states[length - 1 : length, episode], [True])).all()


def test_returns_are_discounted(tmp_path: Path) -> None:
    returns = program("policy_gradient", "flamec", tmp_path).returns
    part = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], float)
    expected = [[1 + 0.99 + 0.99**2, 1.99], [1.99, 1], [1, 0], [0, 0]]
    np.testing.assert_allclose(returns(part), expected)


def test_policy_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = program("policy_gradient", "flamec", tmp_path).main
    lengths, length = main(["--width", "32", "--updates", "25", "--count", "8"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"mean length of 8 episodes (at most 500): {length:.1f}"
    assert lengths[0] < 40
    assert lengths[-5:].mean() > 2.5 * lengths[:5].mean()
    assert length > 100


def test_dqn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = program("dqn", "flamec", tmp_path).main
    losses, length = main(["--steps", "1500"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"mean length of 20 episodes (at most 500): {length:.1f}"
    assert losses.shape == (1500,) and np.isfinite(losses).all()
    assert length > 90  # pushing at random: about 22
