"""A denoising diffusion model that draws digits (Ho et al. 2020).

python examples/diffusion.py                    writes diffusion.png
python examples/diffusion.py --device cuda

A network learns to say which noise was added to a picture. Drawing starts from noise alone and
takes away what the network finds, a little at a time; one compiled program serves all these times.
The last line printed is the distance of drawn digits from real ones as judge.py sees it, before
and after training.
"""

import math

import numpy as np
from images import digits, save_grid
from judge import Judge
from training import command_line, epochs, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F


class Block(nn.Module):
    """Two convolutions that know the time, added to what came in."""

    def __init__(self, inputs, outputs, times):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.time = nn.Linear(times, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, time):
        y = F.silu(self.norm(self.first(x)) + self.time(time)[:, :, None, None])
        return F.silu(self.second(y)) + self.shortcut(x)


class Denoiser(nn.Module):
    """Noisy pictures [N, 1, 8, 8] and their times [N] to the noise in them: a small U-Net."""

    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(nn.Linear(2 * width, 4 * width), nn.SiLU())
        self.start = nn.Conv2d(1, width, 3, padding=1)
        self.down = Block(width, width, 4 * width)
        self.inside = Block(width, 2 * width, 4 * width)
        self.inside2 = Block(2 * width, 2 * width, 4 * width)
        self.up = Block(3 * width, width, 4 * width)
        self.end = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, time):
        time = self.embed(waves(time, self.width, x.dtype))
        fine = self.down(self.start(x), time)
        coarse = self.inside2(self.inside(F.avg_pool2d(fine, 2), time), time)
        coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
        return self.end(self.up(flamec.cat([fine, coarse], dim=1), time))


def waves(time, count, dtype):
    """Numbers of steps [N] as sines and cosines [N, 2 count] (Vaswani et al. 2017, section 3.5)."""
    places = flamec.arange(count, dtype=dtype, device=time.device)
    angles = time.to(dtype)[:, None] * flamec.exp(places * (-math.log(10000) / count))
    return flamec.cat([angles.sin(), angles.cos()], dim=1)


class Training:
    """A denoiser, its optimizer, and how much of a picture is left at each time.

    At time t a picture is sqrt(kept[t]) of itself and sqrt(1 - kept[t]) of noise; the cosine
    schedule of Nichol and Dhariwal 2021, equation 17.
    """

    def __init__(self, width=16, times=100, rate=2e-3):
        self.denoiser, self.times = Denoiser(width), times
        self.optimizer = optim.Adam(self.denoiser.parameters(), lr=rate)
        angles = (np.arange(times + 1) / times + 0.008) / 1.008 * math.pi / 2
        kept = (np.cos(angles) / np.cos(angles[0])) ** 2
        ratios = np.clip(kept[1:] / kept[:-1], 0.001, None)
        self.ratios, self.kept = flamec.from_numpy(ratios), flamec.from_numpy(np.cumprod(ratios))

    def to(self, device):
        self.denoiser.to(device)
        self.ratios, self.kept = self.ratios.to(device), self.kept.to(device)
        return self

    def step(self, images, time, noise):
        """Learn to find ``noise`` in images from -1 to 1 at their times; the mean square error."""
        self.optimizer.zero_grad()
        kept = self.kept[time].to(images.dtype)[:, None, None, None]
        noisy = kept.sqrt() * images + (1 - kept).sqrt() * noise
        loss = F.mse_loss(self.denoiser(noisy, time), noise)
        loss.backward()
        self.optimizer.step()
        return loss

    def earlier(self, x, time, noise):
        """Pictures at ``time`` [N] to pictures one time earlier (Ho et al. 2020, algorithm 2)."""
        with flamec.no_grad():
            ratio = self.ratios[time].to(x.dtype)[:, None, None, None]
            kept = self.kept[time].to(x.dtype)[:, None, None, None]
            found = self.denoiser(x, time)
            x = (x - (1 - ratio) / (1 - kept).sqrt() * found) / ratio.sqrt()
            more = (1 - ratio).sqrt() * noise
            return x + flamec.where(time[:, None, None, None] > 0, more, 0.0)

    def draw(self, count, device="cpu"):
        """Pictures [count, 1, 8, 8] from 0 to 1, as a NumPy array."""
        earlier = flamec.compile(self.earlier)
        x = flamec.randn(count, 1, 8, 8, device=device)
        for time in reversed(range(self.times)):
            times = flamec.full((count,), time, device=device)
            x = earlier(x, times, flamec.randn_like(x))
        return ((x + 1) / 2).clamp(0, 1).cpu().numpy()


def noisy(data, times, device="cpu"):
    """Each batch of images, from -1 to 1, with random times and noise."""
    for (images,) in data:
        when = flamec.randint(0, times, (len(images),), device=device)
        yield 2 * images - 1, when, flamec.randn_like(images)


def main(arguments=None):
    """Train, draw, judge; returns the losses and the distances before and after."""
    options = command_line(
        __doc__.splitlines()[0],
        arguments,
        width=16,
        times=100,
        epochs=60,
        batch=64,
        count=500,
        picture="diffusion.png",
    )
    training = Training(options.width, options.times).to(options.device)
    judge = Judge(options.device)
    before = judge.distance(training.draw(options.count, options.device))
    (images, _), _ = digits()
    data = epochs(images, batch=options.batch, count=options.epochs, device=options.device)
    data = noisy(data, options.times, options.device)
    losses = train(flamec.compile(training.step), data, every=200)
    pictures = training.draw(options.count, options.device)
    save_grid(options.picture, pictures[:100])
    print(f"100 of its pictures are in {options.picture}")
    after = judge.distance(pictures)
    print(f"distance of drawn digits from real ones: {before:.1f} -> {after:.1f}")
    return losses[:, 0], (before, after)


if __name__ == "__main__":
    main()
