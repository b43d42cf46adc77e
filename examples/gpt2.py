"""GPT-2 (Radford et al. 2019): the whole training step as one compiled program.

python examples/gpt2.py --small                      some seconds on a CPU
python examples/gpt2.py --device cuda --steps 200    124 million parameters, bfloat16
python examples/gpt2.py --small --text README.md     learn a file byte by byte
flamec dump examples/gpt2.py:Training.step --stage fused

Without a text, the data is a chain in which each token is followed by one of four others, so
that the loss can fall from log(tokens) to log(4) = 1.386. Prints the loss and tokens a second.
"""

import argparse
import contextlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import flamec
from flamec import nn, optim
from flamec.nn import functional as F


@dataclass(frozen=True)
class Config:
    """Sizes of the model; as they stand, GPT-2 with 124 million parameters.

    ``vocabulary`` is GPT-2's 50257 rounded up to a multiple of 64. ``width`` is divisible by
    ``heads``.
    """

    vocabulary: int = 50304
    context: int = 1024
    layers: int = 12
    heads: int = 12
    width: int = 768
    dropout: float = 0.0


SMALL = Config(vocabulary=256, context=32, layers=2, heads=2, width=32)


class Attention(nn.Module):
    """Each position looks at itself and at those before it.

    ``extend`` adds keys and values to those of a cache, which ``x`` continues (character_gpt.py).
    """

    def __init__(self, config):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)

    def forward(self, x, extend=None):
        batch, length, width = x.shape
        parts = self.qkv(x).split(width, dim=2)
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in parts
        )
        dropout = self.dropout if self.training else 0.0
        if extend is None:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            k, v, visible = extend(k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.project(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.project = nn.Linear(4 * config.width, config.width)

    def forward(self, x):
        return self.project(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(config.width), Attention(config)
        self.norm2, self.feed_forward = nn.LayerNorm(config.width), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, extend=None):
        x = x + self.dropout(self.attention(self.norm1(x), extend))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class GPT2(nn.Module):
    """Tokens [batch, length], int64, to logits [batch, length, vocabulary].

    With ``places`` [length], the positions of the tokens, and for each layer a function that
    extends its cache, the tokens continue what went before.
    """

    def __init__(self, config):
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.head.weight = self.token.weight
        self.initialize(config.layers)

    def initialize(self, layers):
        """As GPT-2: normal with 0.02; what is added to the residual stream is scaled down."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                small = name.endswith("project.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if small else 0.02)

    def forward(self, tokens, places=None, extend=None):
        here = self.position.weight[: tokens.shape[1]] if places is None else self.position(places)
        x = self.dropout(self.token(tokens) + here)
        for number, block in enumerate(self.blocks):
            x = block(x, extend and extend[number])
        return self.head(self.norm(x))


class Training:
    """A model, its optimizer and one step of training. ``settings`` are further ones of AdamW."""

    def __init__(
        self,
        config=SMALL,
        device="cpu",
        dtype="float32",
        rate=6e-4,
        clip=1.0,
        warmup=10,
        **settings,
    ):
        with flamec.device(device):  # the weights are drawn there
            self.model = GPT2(config)
        self.device, self.dtype, self.clip = device, dtype, clip
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), **settings)
        self.schedule = optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup)
        )

    def precision(self):
        """Matrix products in bfloat16, if that is wanted; parameters stay float32."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return flamec.autocast(self.device.partition(":")[0], dtype=flamec.bfloat16)

    def step(self, tokens, targets):
        """Learn from one batch; the loss before the step."""
        self.optimizer.zero_grad()
        with self.precision():
            logits = self.model(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss


def chain(tokens, length, seed=0):
    """A Markov chain over ``tokens`` tokens: each has four successors, equally likely."""
    random = np.random.default_rng(seed)
    successors = random.integers(0, tokens, (tokens, 4))
    choices = random.integers(0, 4, length)
    stream = np.empty(length, np.int64)
    token = 0
    for place, choice in enumerate(choices):
        token = successors[token, choice]
        stream[place] = token
    return stream


def batches(stream, batch, length, device="cpu", seed=0):
    """Endless batches (tokens, the tokens that follow them) from random places."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(stream) - length, batch)
        windows = stream[starts[:, None] + np.arange(length + 1)]
        arrays = np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
        yield tuple(flamec.from_numpy(array).to(device) for array in arrays)


def default_device():
    return "cuda" if flamec.cuda.is_available() else "cpu"


def flamec_inputs():
    """Example arguments for the command line tools."""
    return next(batches(chain(SMALL.vocabulary, 1000), 4, SMALL.context))


def train(training, data, steps, every=10):
    """Run the compiled step; the losses. Prints progress."""
    step = flamec.compile(training.step)
    losses, started, counted = [], time.perf_counter(), 0
    for number in range(steps):
        tokens, targets = next(data)
        losses.append(step(tokens, targets))
        training.schedule.step()
        counted += tokens.numel()
        if number == 0 or (number + 1) % every == 0 or number + 1 == steps:
            loss = losses[-1].item()  # waits until the device is done
            seconds = time.perf_counter() - started
            note = "  (the first step compiles)" if number == 0 else ""
            rate = counted / seconds
            print(f"step {number + 1:4d}  loss {loss:.4f}  {rate:10,.0f} tokens/s{note}")
            started, counted = time.perf_counter(), 0
    return [loss.item() for loss in losses]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train GPT-2, one compiled program a step.")
    parser.add_argument(
        "--small", action="store_true", help="34 thousand parameters instead of 124 million"
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda if there is one")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of matrix products")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, help="default: 32")
    parser.add_argument("--sequence", type=int, help="default: the model's context")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rate", type=float, help="the learning rate")
    parser.add_argument("--text", type=Path, help="a file to learn, byte by byte")
    options = parser.parse_args(arguments)
    device = options.device or default_device()
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    config = replace(SMALL if options.small else Config(), dropout=options.dropout)
    length = options.sequence or config.context
    if options.text:
        stream = np.frombuffer(options.text.read_bytes(), np.uint8).astype(np.int64)
        uniform = 256
    else:
        uniform = min(config.vocabulary, 256)
        stream = chain(uniform, 1 << 18)
    if len(stream) <= length:
        parser.error(f"the text must be longer than --sequence ({length} bytes)")
    flamec.manual_seed(0)
    rate = options.rate or (6e-3 if options.small else 6e-4)
    training = Training(config, device, dtype, rate)
    count = sum(parameter.numel() for parameter in training.model.parameters())
    print(f"{count:,} parameters, {dtype} on {device}")
    data = batches(stream, options.batch or 32, length, device)
    losses = train(training, data, options.steps)
    last = losses[-5:]
    print(
        f"loss {losses[0]:.3f} -> {sum(last) / len(last):.3f} in {len(losses)} steps "
        f"(guessing among {uniform} tokens: {math.log(uniform):.3f})"
    )
    return losses


if __name__ == "__main__":
    main()
