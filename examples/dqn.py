"""Learn to balance a pole with a deep Q-network (Mnih et al. 2015).

python examples/dqn.py
python examples/dqn.py --device cuda

The network foretells how much reward will follow each action. It learns from single remembered
steps, drawn at random, towards what an older copy of itself says of the next state. Acting is one
compiled program, learning another. The last line printed is the mean length of episodes played
with the better action; 500 is the most.
"""

import copy

import numpy as np
from cartpole import LONGEST, begin, fallen, play, push
from training import command_line, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

DISCOUNT = 0.99
USUAL = np.array([1.2, 1.0, 0.1, 1.0])  # how large the four numbers of a state tend to be


def network(width=128):
    """States [N, 4], in units of USUAL, to the value of each of the two actions [N, 2]."""
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
    )


class Training:
    """The network, the older copy that gives its targets, and one step."""

    def __init__(self, width=128, rate=3e-4, follow=0.01):
        self.network = network(width)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = optim.Adam(self.network.parameters(), lr=rate)
        self.follow = follow

    def to(self, device):
        self.network.to(device)
        self.target.to(device)
        return self

    def step(self, states, actions, after, over):
        """Learn from remembered steps; the loss.

        ``over`` is 1 where the pole fell, which gives a reward of -1; all others are 0. The network
        itself says which action would be next, its older copy what that is worth (van Hasselt et
        al. 2016, equation 4); then the copy moves a little towards the network.
        """
        self.optimizer.zero_grad()
        with flamec.no_grad():
            likely = self.network(after).argmax(1, keepdim=True)
            worth = self.target(after).gather(1, likely).squeeze(1)
            wanted = DISCOUNT * (1 - over) * worth - over
        values = self.network(states).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = F.smooth_l1_loss(values, wanted)
        loss.backward()
        self.optimizer.step()
        with flamec.no_grad():
            for old, new in zip(self.target.parameters(), self.network.parameters(), strict=True):
                old.lerp_(new, self.follow)
        return loss

    def better(self, states):
        """The action that is worth more [N], in states [N, 4]; 1 is a push to the right."""
        with flamec.no_grad():
            return self.network(states).argmax(1)


class Memory:
    """The last ``size`` steps: state, action, next state, whether the episode was over."""

    def __init__(self, size):
        self.size, self.count = size, 0
        self.arrays = (
            np.zeros((size, 4), np.float32),
            np.zeros(size, np.int64),
            np.zeros((size, 4), np.float32),
            np.zeros(size, np.float32),
        )

    def add(self, *rows):
        places = (self.count + np.arange(len(rows[0]))) % self.size
        for array, row in zip(self.arrays, rows, strict=True):
            array[places] = row
        self.count += len(rows[0])

    def draw(self, batch, random):
        chosen = random.integers(0, min(self.count, self.size), batch)
        return [array[chosen] for array in self.arrays]


def experience(act, steps, batch, seed, poles=8):
    """Play ``poles`` episodes at a time; after each step of theirs a batch to learn from.

    ``act`` says where to push right; at first most pushes are random, later one in twenty.
    """
    random, memory = np.random.default_rng(seed), Memory(50_000)
    states, ages = begin(poles, random), np.zeros(poles, np.int64)
    for step in range(-batch, steps):  # some steps before the first batch
        chance = np.interp(step / steps, [0, 0.3], [1, 0.05])
        actions = np.where(random.random(poles) < chance, random.random(poles) < 0.5, act(states))
        after = push(states, actions)
        over = fallen(after)
        memory.add(states / USUAL, actions, after / USUAL, over)
        ages += 1
        renew = over | (ages == LONGEST)
        states = np.where(renew[:, None], begin(poles, random), after)
        ages[renew] = 0
        if step >= 0:
            yield memory.draw(batch, random)


def main(arguments=None):
    """Learn and play; returns the losses and the mean length of the episodes in the end."""
    options = command_line(__doc__.splitlines()[0], arguments, width=128, steps=6000, batch=128)
    training = Training(options.width).to(options.device)
    better = flamec.compile(training.better)

    def act(states):
        states = flamec.from_numpy((states / USUAL).astype(np.float32)).to(options.device)
        return better(states).cpu().numpy() == 1

    data = experience(act, options.steps, options.batch, options.seed)
    data = ([flamec.from_numpy(a).to(options.device) for a in arrays] for arrays in data)
    losses = train(flamec.compile(training.step), data, every=500)[:, 0]
    _, _, part = play(act, 20, np.random.default_rng(options.seed + 1))
    length = part.sum(0).mean()
    print(f"mean length of 20 episodes (at most {LONGEST}): {length:.1f}")
    return losses, length


if __name__ == "__main__":
    main()
