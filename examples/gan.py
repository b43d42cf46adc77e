"""A generative adversarial network that draws digits (Goodfellow et al. 2014).

python examples/gan.py                    writes gan.png
python examples/gan.py --device cuda

One compiled step trains both networks: the discriminator tells real digits from drawn ones, the
generator draws such that it is mistaken. A penalty on the discriminator's slope, for which the step
differentiates twice, keeps the generator from drawing one digit only. The last line printed is
the distance of drawn digits from real ones as judge.py sees it, before and after.
"""

from images import digits, save_grid
from judge import Judge
from training import command_line, epochs, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

NOISE = 32  # numbers that a picture is made of


def generator(width=16):
    """Noise [N, 32] to pictures [N, 1, 8, 8] from 0 to 1."""
    return nn.Sequential(
        nn.Linear(NOISE, 4 * width * 2 * 2),
        nn.Unflatten(1, (4 * width, 2, 2)),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 1, 3, padding=1),
        nn.Sigmoid(),
    )


def discriminator(width=16):
    """Pictures to logits [N]: above zero for what looks real."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * 2 * 2, 1),
        nn.Flatten(0),
    )


class Training:
    """Both networks, an optimizer each, and one step."""

    def __init__(self, width=16, rate=1e-3, penalty=1.0):
        self.penalty = penalty
        self.generator, self.discriminator = generator(width), discriminator(width)
        self.draws = optim.Adam(self.generator.parameters(), lr=rate, betas=(0.5, 0.99))
        self.tells = optim.Adam(self.discriminator.parameters(), lr=rate, betas=(0.5, 0.99))

    def to(self, device):
        self.generator.to(device)
        self.discriminator.to(device)
        return self

    def step(self, real, noise):
        """The losses of the discriminator and of the generator, which learn in this order.

        The discriminator's slope at real images is penalised (Mescheder et al. 2018, R1).
        """
        drawn = self.generator(noise)
        real = real.detach().requires_grad_()
        self.tells.zero_grad()
        on_real, on_drawn = self.discriminator(real), self.discriminator(drawn.detach())
        telling = F.softplus(-on_real).mean() + F.softplus(on_drawn).mean()
        (slope,) = flamec.autograd.grad(on_real.sum(), real, create_graph=True)
        (telling + self.penalty / 2 * slope.square().sum((1, 2, 3)).mean()).backward()
        self.tells.step()
        self.draws.zero_grad()
        drawing = F.softplus(-self.discriminator(drawn)).mean()
        drawing.backward()
        self.draws.step()
        return telling, drawing

    def draw(self, noise):
        """Pictures that the generator makes of noise, in evaluation mode."""
        self.generator.eval()
        with flamec.no_grad():
            pictures = self.generator(noise)
        self.generator.train()
        return pictures


def with_noise(data, device="cpu"):
    """Each batch of images with as much noise."""
    for (images,) in data:
        yield images, flamec.randn(len(images), NOISE, device=device)


def main(arguments=None):
    """Train, draw, judge; returns the losses [steps, 2] and the distances before and after."""
    options = command_line(
        __doc__.splitlines()[0], arguments, width=16, epochs=80, batch=64, picture="gan.png"
    )
    training = Training(options.width).to(options.device)
    judge = Judge(options.device)
    noise = flamec.randn(1000, NOISE, device=options.device)
    before = judge.distance(training.draw(noise).cpu().numpy())
    (images, _), _ = digits()
    data = epochs(images, batch=options.batch, count=options.epochs, device=options.device)
    losses = train(
        flamec.compile(training.step),
        with_noise(data, options.device),
        every=200,
        names=("discriminator", "generator"),
    )
    pictures = training.draw(noise).cpu().numpy()
    save_grid(options.picture, pictures[:100])
    print(f"100 of its pictures are in {options.picture}")
    after = judge.distance(pictures)
    print(f"distance of drawn digits from real ones: {before:.1f} -> {after:.1f}")
    return losses, (before, after)


if __name__ == "__main__":
    main()
