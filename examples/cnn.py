"""A convolutional network and a small ResNet on scikit-learn's handwritten digits.

python examples/cnn.py
python examples/cnn.py --model resnet --epochs 8
python examples/cnn.py --device cuda

The whole training step (forward, loss, backward, optimizer) is one compiled program. The last
line printed is the accuracy on digits that the network has not seen.
"""

import argparse

import numpy as np

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

BATCH = 64


class Block(nn.Module):
    """Two convolutions with batch normalisation, added to what came in (He et al. 2015).

    Where the number of channels grows, a convolution of one element adapts the sum.
    """

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return F.relu(y + self.shortcut(x))


def cnn(channels=16):
    """Two convolutions, each with batch normalisation and pooling, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * channels, 10),
    )


def resnet(channels=16):
    """A convolution, four blocks of two widths, the mean over the image, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        Block(channels, channels),
        Block(channels, channels),
        Block(channels, 2 * channels, stride=2),
        Block(2 * channels, 2 * channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 10),
    )


MODELS = {"cnn": cnn, "resnet": resnet}


def digits():
    """Images [N, 1, 8, 8] from 0 to 1 and labels; the last fifth is for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels[order].astype(np.int64)
    split = len(images) * 4 // 5
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def batches(images, labels, seed):
    """Full batches of one epoch, in an order that depends on the seed alone."""
    order = np.random.default_rng(seed).permutation(len(images))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield flamec.from_numpy(images[chosen]), flamec.from_numpy(labels[chosen])


class Training:
    """A model, its optimizer and one step."""

    def __init__(self, model, rate=0.05):
        self.model = model
        self.optimizer = optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, nesterov=True
        )

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def accuracy(self, x, y):
        """The share of images whose digit is recognised."""
        with flamec.no_grad():
            return (self.model(x).argmax(1) == y).float().mean()


def main(arguments=None):
    """Train and test; returns the mean loss of each epoch and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="cnn")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    flamec.manual_seed(options.seed)
    model = MODELS[options.model](options.channels).to(options.device)
    training = Training(model)
    step = flamec.compile(training.step)
    train, (test_images, test_labels) = digits()
    count = sum(p.numel() for p in model.parameters())
    print(f"{options.model}: {count:,} parameters on {options.device}")
    losses = []
    for epoch in range(options.epochs):
        model.train()
        found = [
            step(x.to(options.device), y.to(options.device)).item()
            for x, y in batches(*train, seed=epoch)
        ]
        losses.append(sum(found) / len(found))
        print(f"epoch {epoch + 1}  loss {losses[-1]:.4f}")
    model.eval()
    x = flamec.from_numpy(test_images).to(options.device)
    y = flamec.from_numpy(test_labels).to(options.device)
    accuracy = flamec.compile(training.accuracy)(x, y).item()
    print(f"accuracy on {len(test_labels)} unseen digits: {accuracy:.1%}")
    return losses, accuracy


if __name__ == "__main__":
    main()
