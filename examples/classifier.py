"""A small classifier: the program that PyTorch users know, with the step compiled.

python examples/classifier.py
flamec dump examples/classifier.py:step --stage fused
flamec explain examples/classifier.py:step
flamec bench examples/classifier.py:step
"""

import importlib.util

import flamec
from flamec import nn, optim

flamec.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=0.001)


@flamec.compile
def step(x, y):
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def flamec_inputs():
    """Example arguments for the command line tools."""
    return flamec.randn(16, 10), flamec.randint(0, 2, (16,))


if importlib.util.find_spec("torch") is not None:
    import torch

    torch_model = torch.nn.Sequential(
        torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 2)
    )
    torch_criterion = torch.nn.CrossEntropyLoss()
    torch_optimizer = torch.optim.Adam(torch_model.parameters(), lr=0.001)

    def torch_step(x, y):
        """The same step in PyTorch, which ``flamec bench`` times beside ours."""
        torch_optimizer.zero_grad()
        loss = torch_criterion(torch_model(x), y)
        loss.backward()
        torch_optimizer.step()
        return loss


def main():
    x, y = flamec_inputs()
    for iteration in range(501):
        loss = step(x, y)
        if iteration % 100 == 0:
            print(f"step {iteration:3d}  loss {loss.item():.4f}")
    print(step.stats)


if __name__ == "__main__":
    main()
