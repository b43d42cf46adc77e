"""An encoder that learns to fill gaps in a book, then to tell its chapters (Devlin et al. 2019).

python examples/bert.py
python examples/bert.py --pretrain 0          without filling gaps first
python examples/bert.py --device cuda --width 256 --layers 4

The book is Lewis Carroll's "Alice's Adventures in Wonderland" (1865), in words, cut into pieces of
which every fifth is for testing. First some words of each passage are hidden, and the encoder is
trained to restore them. Then a linear layer on its first output is put in place and both are
trained to say which of the twelve chapters a passage with gaps is from. Each of the two steps is
one compiled program. The last line printed is the share of passages never seen whose chapter is
found.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from training import command_line, train

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

BOOK = Path(__file__).parent / "texts" / "alice.txt"
FIRST, MASK, RARE = range(3)  # the token that begins a passage, a hidden word, a rare word
CHAPTERS = 12
PIECE = 150  # words


def chapters():
    """Tokens of each chapter, a list of 12 arrays, and how many different ones there are.

    Words and marks that stand in the book only once are one token.
    """
    parts = re.split(r"^ *CHAPTER [IVX]+$", BOOK.read_text(), flags=re.MULTILINE)[1:]
    words = [re.findall(r"\w+|[^\w\s]", part.lower()) for part in parts]
    counts = Counter(word for part in words for word in part)
    known = sorted(word for word, count in counts.items() if count > 1)
    numbers = {word: number for number, word in enumerate(known, start=3)}
    return [np.array([numbers.get(w, RARE) for w in part]) for part in words], len(known) + 3


def pieces(texts):
    """Pairs (words, number of the text) to learn from, and those to test with."""
    known, unseen = [], []
    for owner, text in enumerate(texts):
        for number in range(len(text) // PIECE):
            piece = text[number * PIECE : (number + 1) * PIECE]
            (unseen if number % 5 == 4 else known).append((piece, owner))
    return known, unseen


def passages(pieces, count, length, random):
    """Random passages of the pieces [count, length], FIRST before each, and whose they are."""
    rows, owners = np.full((count, length), FIRST), np.empty(count, np.int64)
    for place, chosen in enumerate(random.integers(0, len(pieces), count)):
        words, owners[place] = pieces[chosen]
        start = random.integers(0, PIECE - length + 2)
        rows[place, 1:] = words[start : start + length - 1]
    return rows, owners


def hidden(rows, vocabulary, random):
    """Passages with gaps, and what to restore: -100 where nothing is asked (Devlin et al., 3.1).

    15% of the words are asked for. Of these 80% are hidden, 10% replaced, 10% left.
    """
    chance, how = random.random(rows.shape), random.random(rows.shape)
    asked = (chance < 0.15) & (rows != FIRST)
    replaced = np.where(how < 0.8, MASK, random.integers(3, vocabulary, rows.shape))
    return np.where(asked & (how < 0.9), replaced, rows), np.where(asked, rows, -100)


class Encoder(nn.Module):
    """Tokens [N, length] to vectors [N, length, width]."""

    def __init__(self, vocabulary, length=32, width=64, layers=2, heads=4, dropout=0.1):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.05)

    def forward(self, tokens):
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return self.layers(self.dropout(self.norm(x)))


class Pretraining(nn.Module):
    """The encoder, and logits of the words that were hidden [N, length, vocabulary]."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(encoder.token.embedding_dim)
        self.bias = nn.Parameter(flamec.zeros(encoder.token.num_embeddings))

    def forward(self, tokens):
        return F.linear(self.norm(self.encoder(tokens)), self.encoder.token.weight, self.bias)


class Classifier(nn.Module):
    """The encoder, and logits of the chapters [N, 12], from its first output."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(0.2)
        self.head = nn.Linear(encoder.token.embedding_dim, CHAPTERS)

    def forward(self, tokens):
        return self.head(self.dropout(self.encoder(tokens)[:, 0]))


class Training:
    """A model with one of the heads, its optimizer and one step."""

    def __init__(self, model, steps, rate=2e-3):
        self.model = model
        self.optimizer = optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        self.schedule = optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, cycle_momentum=False
        )

    def step(self, tokens, targets):
        """The cross entropy of the targets, -100 of which do not count."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(tokens).flatten(0, -2), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def run(self, arrays, device):
        """Train on pairs of arrays; the losses."""
        step = flamec.compile(self.step)

        def scheduled(tokens, targets):
            loss = step(tokens, targets)
            self.schedule.step()
            return loss

        data = ([flamec.from_numpy(a).to(device) for a in pair] for pair in arrays)
        return train(scheduled, data, every=100)[:, 0]


def accuracy(model, rows, owners, device):
    """The share of passages whose chapter is found."""
    model.eval()
    with flamec.no_grad():
        found = flamec.compile(model)(flamec.from_numpy(rows).to(device)).argmax(1)
    return float((found.cpu().numpy() == owners).mean())


def main(arguments=None):
    """Fill gaps, then tell chapters; returns the losses of both, and the accuracy."""
    options = command_line(
        __doc__.splitlines()[0],
        arguments,
        length=48,
        width=64,
        layers=2,
        pretrain=400,
        steps=200,
        batch=64,
    )
    texts, vocabulary = chapters()
    known, unseen = pieces(texts)
    random = np.random.default_rng(options.seed)
    encoder = Encoder(vocabulary, options.length, options.width, options.layers)

    def draw(count):
        return (passages(known, options.batch, options.length, random) for _ in range(count))

    filling = np.zeros(0)
    if options.pretrain:
        print(f"filling gaps; guessing among {vocabulary} words costs {np.log(vocabulary):.2f}")
        model = Pretraining(encoder).to(options.device)
        gaps = (hidden(rows, vocabulary, random) for rows, _ in draw(options.pretrain))
        filling = Training(model, options.pretrain).run(gaps, options.device)
    print(f"telling chapters; guessing costs {np.log(CHAPTERS):.2f}")
    model = Classifier(encoder).to(options.device)
    passages_with_gaps = (
        (hidden(rows, vocabulary, random)[0], owners) for rows, owners in draw(options.steps)
    )
    telling = Training(model, options.steps, rate=1e-3).run(passages_with_gaps, options.device)
    rows, owners = passages(unseen, 1000, options.length, np.random.default_rng(1))
    share = accuracy(model, rows, owners, options.device)
    print(f"accuracy on passages never seen: {share:.1%} (guessing: {1 / CHAPTERS:.1%})")
    return filling, telling, share


if __name__ == "__main__":
    main()
