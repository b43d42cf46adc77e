"""Learn to balance a pole by policy gradient (REINFORCE, Williams 1992).

python examples/policy_gradient.py
python examples/policy_gradient.py --device cuda

Whole episodes are played; then actions become more likely by how much better things went after them
than a second network had expected. Acting is one compiled program, learning another. The last
line printed is the mean length of episodes played with the likeliest actions; 500 is the most.
"""

import numpy as np
from cartpole import LONGEST, play
from training import command_line, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

DISCOUNT = 0.99


def network(outputs, width=64):
    return nn.Sequential(
        nn.Linear(4, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, outputs),
    )


def returns(part):
    """Discounted rewards from each step of an episode on [steps, episodes]; 1 a step."""
    total, result = np.zeros(part.shape[1]), np.zeros_like(part)
    for step in reversed(range(len(part))):
        total = part[step] * (1 + DISCOUNT * total)
        result[step] = total
    return result


class Training:
    """The policy, a baseline that foretells returns, and one step for both."""

    def __init__(self, width=64, rate=3e-3):
        self.policy, self.baseline = network(2, width), network(1, width)
        parameters = [*self.policy.parameters(), *self.baseline.parameters()]
        self.optimizer = optim.Adam(parameters, lr=rate)

    def to(self, device):
        self.policy.to(device)
        self.baseline.to(device)
        return self

    def step(self, states, actions, part, gains):
        """Learn from episodes; the mean length of an episode and the entropy of the policy.

        ``states`` [steps, episodes, 4]; ``actions``, ``part`` and ``gains`` (the returns)
        [steps, episodes]. Where ``part`` is 0 the episode was over.
        """
        self.optimizer.zero_grad()
        count = part.sum()
        expected = self.baseline(states).squeeze(-1)
        error = (gains - expected) * part
        advantage = error.detach()
        advantage = advantage / ((advantage.square().sum() / count).sqrt() + 1e-6)
        logs = F.log_softmax(self.policy(states), dim=-1)
        chosen = logs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        entropy = -((logs.exp() * logs).sum(-1) * part).sum() / count
        policy_loss = -(chosen * advantage).sum() / count
        scale = (gains * part).square().sum() / count
        loss = policy_loss + error.square().sum() / count / scale - 0.01 * entropy
        loss.backward()
        self.optimizer.step()
        return part.sum(0).mean(), entropy.detach()

    def chances(self, states):
        """The probability of pushing right [N] in states [N, 4]."""
        with flamec.no_grad():
            return self.policy(states).softmax(dim=-1)[:, 1]


def episodes(chances, count, updates, seed, device="cpu", dtype=flamec.float32):
    """For each update the episodes to learn from, played with the policy as it is then."""
    random = np.random.default_rng(seed)

    def act(states):
        right = chances(flamec.from_numpy(states).to(device, dtype)).cpu().numpy()
        return random.random(count) < right

    for _ in range(updates):
        states, actions, part = play(act, count, random)
        arrays = states, actions, part, returns(part)
        tensors = (flamec.from_numpy(array).to(device) for array in arrays)
        yield tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)


def main(arguments=None):
    """Learn and play; returns the lengths of episodes [updates] and of those in the end."""
    options = command_line(__doc__.splitlines()[0], arguments, width=64, updates=60, count=16)
    training = Training(options.width).to(options.device)
    chances = flamec.compile(training.chances)
    data = episodes(chances, options.count, options.updates, options.seed, options.device)
    names = ("length", "entropy")
    lengths = train(flamec.compile(training.step), data, every=5, names=names)[:, 0]

    def best(states):
        states = flamec.from_numpy(states).to(options.device, flamec.float32)
        return chances(states).cpu().numpy() > 0.5

    _, _, part = play(best, options.count, np.random.default_rng(options.seed + 1))
    length = part.sum(0).mean()
    print(f"mean length of {options.count} episodes (at most {LONGEST}): {length:.1f}")
    return lengths, length


if __name__ == "__main__":
    main()
