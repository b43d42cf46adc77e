"""ResNet-18 and ResNet-50 (He, Zhang, Ren, Sun 2015, table 1) as modules of flamec or of PyTorch.

In: the framework. Out: a module whose ``state_dict`` has torchvision's names and shapes, so that
weights move both ways. As there, the stride of a bottleneck is in its 3x3 convolution.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

EXPANSION = 4  # of the channels of a bottleneck


@cache
def _blocks(framework: Any) -> SimpleNamespace:
    """The classes, over a framework's ``nn.Module``."""
    nn = framework.nn

    def normalized(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[Any, Any]:
        convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return convolution, nn.BatchNorm2d(outputs)

    class BasicBlock(nn.Module):  # type: ignore[misc, name-defined]
        """Two 3x3 convolutions beside the identity (or a 1x1 convolution)."""

        expansion = 1

        def __init__(self, inputs: int, width: int, stride: int, downsample: Any) -> None:
            super().__init__()
            self.conv1, self.bn1 = normalized(inputs, width, 3, stride)
            self.conv2, self.bn2 = normalized(width, width, 3)
            self.relu = nn.ReLU()
            self.downsample = downsample

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Bottleneck(nn.Module):  # type: ignore[misc, name-defined]
        """1x1, 3x3 and 1x1 convolutions beside the identity (or a 1x1 convolution)."""

        expansion = EXPANSION

        def __init__(self, inputs: int, width: int, stride: int, downsample: Any) -> None:
            super().__init__()
            self.conv1, self.bn1 = normalized(inputs, width, 1)
            self.conv2, self.bn2 = normalized(width, width, 3, stride)
            self.conv3, self.bn3 = normalized(width, width * EXPANSION, 1)
            self.relu = nn.ReLU()
            self.downsample = downsample

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):  # type: ignore[misc, name-defined]
        """Images [N, 3, H, W] to scores [N, classes]; ``widths`` of the four stages."""

        def __init__(
            self, block: Any, counts: tuple[int, ...], classes: int, widths: tuple[int, ...]
        ) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(widths[0])
            self.relu = nn.ReLU()
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            inputs = widths[0]
            for number, (count, width) in enumerate(zip(counts, widths, strict=True)):
                blocks = []
                outputs = width * block.expansion
                for place in range(count):
                    stride = 2 if number and not place else 1
                    downsample = None
                    if stride != 1 or inputs != outputs:
                        downsample = nn.Sequential(*normalized(inputs, outputs, 1, stride))
                    blocks.append(block(inputs, width, stride, downsample))
                    inputs = outputs
                setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(inputs, classes)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(self.avgpool(x).flatten(1))

    return SimpleNamespace(BasicBlock=BasicBlock, Bottleneck=Bottleneck, ResNet=ResNet)


WIDTHS = (64, 128, 256, 512)


def resnet18(framework: Any, classes: int = 1000, widths: tuple[int, ...] = WIDTHS) -> Any:
    found = _blocks(framework)
    return found.ResNet(found.BasicBlock, (2, 2, 2, 2), classes, widths)


def resnet50(
    framework: Any,
    classes: int = 1000,
    widths: tuple[int, ...] = WIDTHS,
    counts: tuple[int, ...] = (3, 4, 6, 3),
) -> Any:
    """``counts`` of the bottlenecks of each stage."""
    found = _blocks(framework)
    return found.ResNet(found.Bottleneck, counts, classes, widths)


def set_weights(framework: Any, model: Any, seed: int = 0) -> None:
    """Weights that depend on names' order, shapes and ``seed`` alone (He et al. 2015a, eq. 10).

    Biases are zero; the weights of norms stay one.
    """
    with framework.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    parameter.zero_()
                continue
            shape = tuple(parameter.shape)
            random = np.random.default_rng((seed, number))
            drawn = random.standard_normal(shape, np.float32) * (2 / np.prod(shape[1:])) ** 0.5
            parameter.copy_(framework.from_numpy(drawn.astype(np.float32)))
