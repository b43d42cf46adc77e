"""A convolutional network and a small ResNet on handwritten digits or on images like CIFAR's.

python examples/cnn.py
python examples/cnn.py --model resnet --epochs 8
python examples/cnn.py --device cuda
python examples/cnn.py --model resnet --folder cifar-10-batches-bin --epochs 20

The whole training step (forward, loss, backward, optimizer) is one compiled program. The last
line printed is the accuracy on images that the network has not seen.
"""

from images import cifar, digits
from training import command_line, epochs, in_order, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F


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


def cnn(channels=16, image=(1, 8, 8)):
    """Two convolutions, each with batch normalisation and pooling, and a linear layer.

    ``image`` is the shape [channels, height, width] of an image.
    """
    colours, height, width = image
    return nn.Sequential(
        nn.Conv2d(colours, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * (height // 4) * (width // 4), 10),
    )


def resnet(channels=16, image=(1, 8, 8)):
    """A convolution, four blocks of two widths, the mean over the image, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(image[0], channels, 3, padding=1, bias=False),
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
    """Train and test; returns the losses of all steps and the accuracy."""
    options = command_line(
        __doc__.splitlines()[0],
        arguments,
        model=tuple(MODELS),
        channels=16,
        epochs=6,
        batch=64,
        folder="",
    )
    train_data, (images, labels) = cifar(options.folder) if options.folder else digits()
    model = MODELS[options.model](options.channels, images.shape[1:]).to(options.device)
    training = Training(model)
    count = sum(p.numel() for p in model.parameters())
    print(f"{options.model}: {count:,} parameters on {options.device}")
    data = epochs(*train_data, batch=options.batch, count=options.epochs, device=options.device)
    losses = train(flamec.compile(training.step), data, every=len(train_data[0]) // options.batch)
    model.eval()
    measure = flamec.compile(training.accuracy)
    correct = sum(
        len(x) * measure(x, y).item() for x, y in in_order(images, labels, device=options.device)
    )
    accuracy = correct / len(labels)
    print(f"accuracy on {len(labels)} unseen images: {accuracy:.1%}")
    return losses[:, 0], accuracy


if __name__ == "__main__":
    main()
