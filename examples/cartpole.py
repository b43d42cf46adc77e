"""The cart and the pole of Barto, Sutton and Anderson (1983), many at a time, in NumPy.

A cart on rails carries a pole that falls over unless the cart is pushed to the right side in
time. Constants, integration step and limits are those that Gym's CartPole-v1 made usual.
"""

import numpy as np

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
LIMITS = np.array([2.4, np.inf, 12 * np.pi / 180, np.inf])
LONGEST = 500  # steps of an episode


def begin(count, random):
    """Initial states [count, 4]: place, speed, angle (from upright, radians), angular speed."""
    return random.uniform(-0.05, 0.05, (count, 4))


def push(states, right):
    """The states after a push of 10 N for 0.02 s to the right (where true), else to the left."""
    _, speed, angle, turning = states.T
    force = np.where(right, FORCE, -FORCE)
    sine, cosine, mass = np.sin(angle), np.cos(angle), CART + POLE
    pushed = (force + POLE * HALF_LENGTH * turning**2 * sine) / mass
    inertia = HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass)
    angular = (GRAVITY * sine - cosine * pushed) / inertia
    linear = pushed - POLE * HALF_LENGTH * angular * cosine / mass
    return states + STEP * np.stack([speed, linear, turning, angular], axis=1)


def fallen(states):
    """Where an episode is over: off the rails, or the pole too far from upright."""
    return (np.abs(states) > LIMITS).any(axis=1)


def play(act, count, random):
    """``count`` whole episodes; ``act`` gives for states [count, 4] where to push right.

    Returns the states [LONGEST, count, 4] and actions [LONGEST, count], and which of them are
    part of their episode (float64, 1 or 0). Each step that is gives a reward of 1.
    """
    states, alive = begin(count, random), np.ones(count)
    shape = (LONGEST, count)
    seen, chosen, part = np.zeros((*shape, 4)), np.zeros(shape, np.int64), np.zeros(shape)
    for step in range(LONGEST):
        right = act(states)
        seen[step], chosen[step], part[step] = states, right, alive
        states = push(states, right)
        alive = alive * ~fallen(states)
        if not alive.any():
            break
    return seen, chosen, part
