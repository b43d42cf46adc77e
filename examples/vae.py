"""A variational autoencoder of digits (Kingma and Welling 2014).

python examples/vae.py                    writes vae.png
python examples/vae.py --device cuda

The encoder gives a normal distribution over codes, the decoder makes a picture of a code drawn from
it. In vae.png are digits not seen in training, the same made from their codes, and digits made from
random codes. The last line printed is the bound on -log p(picture) for unseen digits, in nats,
before and after; for one who knows nothing but that there are 64 pixels it is 64 log 2 = 44.4.
"""

import numpy as np
from images import digits, save_grid
from training import command_line, epochs, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F


class VAE(nn.Module):
    """Pictures [N, 1, 8, 8] from 0 to 1 to logits of their pixels, through ``codes`` numbers."""

    def __init__(self, codes=8, width=256):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2 * codes)
        )
        self.decoder = nn.Sequential(
            nn.Linear(codes, width), nn.ReLU(), nn.Linear(width, 64), nn.Unflatten(1, (1, 8, 8))
        )

    def forward(self, images, noise):
        """Logits, and the mean and the logarithm of the variance [N, codes] of the codes."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return self.decoder(mean + (log_variance / 2).exp() * noise), mean, log_variance


class Training:
    """A model, its optimizer and one step."""

    def __init__(self, codes=8, width=256, rate=2e-3):
        self.model = VAE(codes, width)
        self.optimizer = optim.Adam(self.model.parameters(), lr=rate)

    def step(self, images, noise):
        self.optimizer.zero_grad()
        loss = self.measure(images, noise)
        loss.backward()
        self.optimizer.step()
        return loss

    def measure(self, images, noise):
        """The bound on -log p(image), mean over the batch, in nats.

        Pixels are probabilities of being white. The second term is the divergence of the codes
        from a standard normal distribution (Kingma and Welling 2014, appendix B).
        """
        logits, mean, log_variance = self.model(images, noise)
        pixels = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return (pixels + divergence) / len(images)


def main(arguments=None):
    """Train and draw; returns the losses and the bound on unseen digits before and after."""
    options = command_line(
        __doc__.splitlines()[0],
        arguments,
        codes=8,
        width=256,
        epochs=100,
        batch=64,
        picture="vae.png",
    )
    training = Training(options.codes, options.width)
    model = training.model.to(options.device)
    (images, _), (unseen, _) = digits()
    unseen = flamec.from_numpy(unseen).to(options.device)
    noise = flamec.randn(len(unseen), options.codes, device=options.device)
    measure = flamec.no_grad()(flamec.compile(training.measure))
    before = measure(unseen, noise).item()
    data = epochs(images, batch=options.batch, count=options.epochs, device=options.device)
    step = flamec.compile(training.step)
    coded = ((x, flamec.randn(len(x), options.codes, device=options.device)) for (x,) in data)
    losses = train(step, coded, every=400)
    after = measure(unseen, noise).item()
    with flamec.no_grad():
        again = model(unseen[:20], noise[:20])[0].sigmoid()
        new = model.decoder(noise[:60]).sigmoid()
    rows = [unseen[:20], again, new]
    save_grid(options.picture, np.concatenate([row.cpu().numpy() for row in rows]), columns=20)
    print(f"unseen digits, the same from their codes, and new ones are in {options.picture}")
    print(f"nats for an unseen digit: {before:.2f} -> {after:.2f}")
    return losses[:, 0], (before, after)


if __name__ == "__main__":
    main()
