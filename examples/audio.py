"""Tell eight kinds of sounds apart by their spectrograms.

python examples/audio.py
python examples/audio.py --device cuda --workers 4

Half-second tones of random pitch, loudness and noise are synthesised by a dataset, whose loader may
have workers; a spectrogram of logarithms goes through a small convolutional network. The last
line printed is the share of sounds, none of them heard before, whose kind is recognised.
"""

import numpy as np
from training import command_line, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F
from flamec.utils.data import DataLoader, Dataset

RATE, LENGTH = 8000, 4096  # samples a second, samples of a sound
WINDOW, HOP, BANDS = 512, 128, 32
FRAMES = (LENGTH - WINDOW) // HOP + 1
KINDS = ("sine", "square", "sawtooth", "rising", "falling", "trembling", "wavering", "plucked")


def tone(kind, random):
    """A sound of a kind [LENGTH], with pitch, loudness and noise at random."""
    time = np.arange(LENGTH) / RATE
    pitch = random.uniform(200, 800)
    speed, change = np.ones(LENGTH), random.uniform(0.7, 1.3)
    if kind == "rising":
        speed = 1 + 2 * change * time / time[-1]
    elif kind == "falling":
        speed = 1 + 2 * change * (1 - time / time[-1])
    elif kind == "wavering":
        speed = 1 + 0.2 * np.sin(2 * np.pi * 7 * change * time)
    phase = 2 * np.pi * (np.cumsum(pitch * speed) / RATE + random.random())
    wave = np.sin(phase)
    if kind == "square":
        wave = np.sign(wave)
    elif kind == "sawtooth":
        wave = phase / np.pi % 2 - 1
    elif kind == "trembling":
        wave = wave * (1 + 0.8 * np.sin(2 * np.pi * 9 * change * time)) / 1.8
    elif kind == "plucked":
        wave = wave * np.exp(-6 * change * time)
    noise = random.normal(0, random.uniform(0.01, 0.15), LENGTH)
    return (random.uniform(0.3, 1) * wave + noise).astype(np.float32)


def spectrogram(sound):
    """Logarithms of the power in 32 bands of growing width over time, [BANDS, frames]."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.unique(np.geomspace(4, WINDOW // 2 + 1, 2 * BANDS).astype(int))[-BANDS - 1 :]
    edges[0] = 0
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    return np.log(bands.T + 1e-3).astype(np.float32)


class Tones(Dataset):
    """``count`` sounds as (spectrogram [1, BANDS, frames], number of the kind).

    A sound depends on ``seed`` and its number alone, whoever asks for it.
    """

    def __init__(self, count, seed):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        random = np.random.default_rng((self.seed, index))
        kind = int(random.integers(len(KINDS)))
        return spectrogram(tone(KINDS[kind], random))[None], kind


class Classifier(nn.Module):
    """Spectrograms [N, 1, BANDS, frames] to logits [N, kinds]."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.layers = nn.Sequential(
            *self.layer(1, width), *self.layer(width, 2 * width), *self.layer(2 * width, 4 * width)
        )
        self.head = nn.Linear(4 * width * (BANDS // 8) * (FRAMES // 8), len(KINDS))

    @staticmethod
    def layer(inputs, outputs):
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    def forward(self, x):
        x = self.layers(self.norm(x))
        return self.head(x.flatten(1))


class Training:
    """A classifier, its optimizer, a schedule and one step."""

    def __init__(self, width=8, rate=1e-2, steps=300):
        self.model = Classifier(width)
        self.optimizer = optim.AdamW(self.model.parameters(), lr=rate)
        self.schedule = optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, cycle_momentum=False
        )

    def step(self, x, kinds):
        """The loss and the share of sounds that were recognised, before learning from them."""
        self.optimizer.zero_grad()
        logits = self.model(x)
        loss = F.cross_entropy(logits, kinds)
        loss.backward()
        self.optimizer.step()
        return loss, (logits.argmax(1) == kinds).float().mean()

    def right(self, x, kinds):
        """How many sounds are recognised."""
        with flamec.no_grad():
            return (self.model(x).argmax(1) == kinds).sum()


def main(arguments=None):
    """Train and test; returns the losses and the accuracy."""
    options = command_line(
        __doc__.splitlines()[0], arguments, width=8, steps=300, batch=32, test=800, workers=0
    )
    training = Training(options.width, steps=options.steps)
    training.model.to(options.device)

    def batches(count, seed):
        loader = DataLoader(Tones(count, seed), options.batch, num_workers=options.workers)
        return ((x.to(options.device), kinds.to(options.device)) for x, kinds in loader)

    step = flamec.compile(training.step)

    def scheduled(x, kinds):
        result = step(x, kinds)
        training.schedule.step()
        return result

    data = batches(options.steps * options.batch, options.seed)
    history = train(scheduled, data, every=max(1, options.steps // 6), names=("loss", "accuracy"))
    training.model.eval()
    right = flamec.compile(training.right)
    count = sum(right(x, kinds).item() for x, kinds in batches(options.test, options.seed + 1))
    accuracy = count / options.test
    print(f"accuracy on {options.test} unheard sounds: {accuracy:.1%}")
    return history[:, 0], accuracy


if __name__ == "__main__":
    main()
