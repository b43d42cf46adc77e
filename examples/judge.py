"""How much do made pictures look like digits? A judge for the programs that make them.

The judge is the network of cnn.py, trained to read digits. It sees a picture as the numbers that
go into its last layer, and compares what it sees in two sets of pictures.
"""

import numpy as np
from cnn import Training, cnn
from images import digits
from training import epochs

import flamec


def frechet_distance(first, second):
    """The distance of two sets of vectors [N, features], each taken as a normal distribution.

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances (Fréchet 1957; Heusel et
    al. 2017, equation 6). The last trace is the sum of the roots of the eigenvalues of
    C1^(1/2) C2 C1^(1/2).
    """
    distance = np.sum((first.mean(0) - second.mean(0)) ** 2)
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    mixed = np.clip(np.linalg.eigvalsh(root @ two @ root), 0, None)
    return float(distance + np.trace(one) + np.trace(two) - 2 * np.sqrt(mixed).sum())


class Judge:
    """Reads digits; ``real`` is what it sees in those that it has not learned from."""

    def __init__(self, device="cpu", count=4):
        self.network = cnn(8).to(device)
        step = flamec.compile(Training(self.network).step)
        train, (images, _) = digits()
        for x, y in epochs(*train, batch=64, count=count, device=device):
            step(x, y)
        self.network.eval()
        self.device = device
        self.see = flamec.compile(self.network[:-1])
        self.real = self.features(images)

    def features(self, pictures):
        """Pictures [N, 1, 8, 8] to what the judge sees, [N, 64]; NumPy arrays."""
        with flamec.no_grad():
            seen = self.see(flamec.from_numpy(pictures.astype(np.float32)).to(self.device))
        return seen.cpu().numpy().astype(np.float64)

    def distance(self, pictures):
        """Of the pictures from real digits; 0 if the judge cannot tell them apart."""
        return frechet_distance(self.features(pictures), self.real)
