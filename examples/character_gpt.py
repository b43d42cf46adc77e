"""A GPT that learns a book letter by letter and goes on writing.

python examples/character_gpt.py
python examples/character_gpt.py --device cuda --layers 6 --width 384 --context 256 --steps 3000
python examples/character_gpt.py --text README.md --prompt "flamec is"

The book is Lewis Carroll's "Alice's Adventures in Wonderland" (1865). The model and its compiled
training step are those of gpt2.py. Writing is compiled too: it keeps the keys and values of the
letters so far in a cache, so that a letter costs the same wherever it stands and no letter is
compiled for. The last line printed is the loss on the last tenth of the book, which training
does not see, in nats a letter, before and after.
"""

import time
from functools import partial
from pathlib import Path

import numpy as np
from gpt2 import Config, Training, batches
from training import command_line, train

import flamec
from flamec.nn import functional as F

BOOK = Path(__file__).parent / "texts" / "alice.txt"


class Letters:
    """The letters of a text and their numbers."""

    def __init__(self, text):
        self.letters = sorted(set(text))
        self.numbers = {letter: number for number, letter in enumerate(self.letters)}

    def encode(self, text):
        return np.array([self.numbers[letter] for letter in text], np.int64)

    def decode(self, numbers):
        return "".join(self.letters[number] for number in numbers)


class Cache:
    """Keys and values [batch, heads, context, size of a head] of one layer.

    ``like`` is a tensor of the same dtype on the same device.
    """

    def __init__(self, config, batch, like):
        shape = batch, config.heads, config.context, config.width // config.heads
        self.keys = flamec.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = flamec.zeros_like(self.keys)

    def extend(self, places, keys, values):
        """Remember those of the tokens at ``places`` [length].

        Returns all keys and values and which of them each token may see, [length, context].
        """
        self.keys.index_copy_(2, places, keys)
        self.values.index_copy_(2, places, values)
        everywhere = flamec.arange(self.keys.shape[2], device=keys.device)
        return self.keys, self.values, everywhere <= places[:, None]


class Writer:
    """Draws token after token from a model."""

    def __init__(self, model, config, batch=1, temperature=0.8):
        self.model, self.config, self.temperature = model.eval(), config, temperature
        weight = model.token.weight
        self.caches = [Cache(config, batch, weight) for _ in range(config.layers)]
        self.start = flamec.zeros(1, dtype=flamec.int64, device=weight.device)
        self.next = flamec.compile(self.draw)

    def logits(self, tokens):
        """Those after each of the tokens [batch, length], which continue the ones before."""
        places = self.start + flamec.arange(tokens.shape[1], device=tokens.device)
        self.start.add_(tokens.shape[1])
        return self.model(tokens, places, [partial(cache.extend, places) for cache in self.caches])

    def draw(self, tokens):
        """A token [batch, 1] to follow the given ones [batch, length]."""
        with flamec.no_grad():
            last = self.logits(tokens)[:, -1] / self.temperature
            return flamec.multinomial(last.softmax(dim=-1), 1)

    def write(self, prompt, count):
        """The prompt [batch, length] and ``count`` more tokens, as one NumPy array.

        ValueError if there is no room for so many.
        """
        if prompt.shape[1] + count > self.config.context:
            raise ValueError(f"the model has room for {self.config.context} tokens only")
        self.start.zero_()
        parts = [prompt]
        for _ in range(count):
            parts.append(self.next(parts[-1]))
        return flamec.cat(parts, dim=1).cpu().numpy()


def surprise(model, stream, length):
    """The mean loss of the model over a stream of tokens, cut into pieces."""
    pieces = len(stream) // (length + 1)
    windows = flamec.from_numpy(stream[: pieces * (length + 1)].reshape(pieces, length + 1))
    windows = windows.to(model.token.weight.device)

    def measure(windows):
        with flamec.no_grad():
            logits = model(windows[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    model.eval()
    loss = flamec.compile(measure)(windows).item()
    model.train()
    return loss


def main(arguments=None):
    """Train and write; returns the losses, those on unseen text, and what was written."""
    options = command_line(
        __doc__.splitlines()[0],
        arguments,
        text=str(BOOK),
        layers=2,
        heads=4,
        width=64,
        context=64,
        steps=1000,
        batch=32,
        rate=3e-3,
        prompt="Alice ",
    )
    text = Path(options.text).read_text()
    letters = Letters(text)
    stream = letters.encode(text)
    known, unseen = np.split(stream, [len(stream) * 9 // 10])
    config = Config(
        len(letters.letters), options.context, options.layers, options.heads, options.width
    )
    training = Training(config, options.device, rate=options.rate)
    before = surprise(training.model, unseen, config.context)
    data = batches(known, options.batch, config.context, options.device, options.seed)
    step = flamec.compile(training.step)

    def scheduled(tokens, targets):
        loss = step(tokens, targets)
        training.schedule.step()
        return loss

    pairs = (next(data) for _ in range(options.steps))
    losses = train(scheduled, pairs, every=max(1, options.steps // 10))[:, 0]
    writer = Writer(training.model, config)
    prompt = flamec.from_numpy(letters.encode(options.prompt)[None]).to(options.device)
    count = config.context - prompt.shape[1]
    writer.write(prompt, count)  # compiles
    started = time.perf_counter()
    written = letters.decode(writer.write(prompt, count)[0])
    print(written)
    speed = count / (time.perf_counter() - started)
    print(f"({speed:,.0f} letters/s; {writer.next.stats.traces} programs for {count} letters)")
    after = surprise(training.model, unseen, config.context)
    print(f"nats for an unseen letter: {before:.3f} -> {after:.3f}")
    return losses, (before, after), written


if __name__ == "__main__":
    main()
