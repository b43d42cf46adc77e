"""The state of random programs, and the function with ``{body}`` that reads and changes it.

``KINDS``: further kinds of state, at ``{kinds}`` in some programs; others are at ``{more}``.
"""

from __future__ import annotations

PRELUDE = """
import collections, copy, dataclasses, math, time
import numpy as np
import flamec
from flamec import nn, optim
from flamec.autograd import grad as grad_of

thing = held_thing = COUNT = BY_SIZE = None
zoo = opt3 = warm = tail = animal = meter = rank = SCALES = LAYERS = ORDERED = GROUPS = None
HEAP = CELLS = BYTES = SEEN = space = user = None
flamec.set_default_dtype(flamec.float32)
flamec.set_grad_enabled(True)
{kinds}
GAIN = 1.5
LIMITS = [1.0, 2.0]
TABLE = {"a": 0.5, "b": 2}
NAMES = {"x", "y"}
QUEUE = collections.deque([0.5, 1.5], maxlen=4)
ARRAY = np.array([0.1, 0.2, 0.3])
LOG = []
STEPS = {"n": 0, "rate": 0.5, "pair": (1.0, 2)}
CACHE = {"k": None, "last": None}
VALUES = [flamec.zeros(3, dtype=flamec.float64), None]
MEMORY = None

class Space:
    factor = 1.25

@dataclasses.dataclass(slots=True)
class Slots:
    a: object = None
    b: object = None

slots = Slots()

def linear():  # drawn by NumPy, which takes less time
    layer = nn.utils.skip_init(nn.Linear, 3, 3, dtype=flamec.float64)
    for p in layer.parameters():
        p.data = flamec.from_numpy(draws.uniform(-0.5, 0.5, tuple(p.shape)))
    return layer

draws = np.random.default_rng(0)

def fits(held, h):
    return held is not None and held.shape == h.shape

def part(h):
    return h.detach().reshape(-1)[:2]

@dataclasses.dataclass
class Inner:
    bias: float = 0.5

@dataclasses.dataclass
class Config:
    depth: int = 2
    slope: float = 0.1
    mode: str = "add"
    inner: Inner = dataclasses.field(default_factory=Inner)

def other_helper(h):
    return h.tanh() * GAIN

def helper(h, factor=0.75):
    return h * factor + LIMITS[0]

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear()
        self.scale = 0.5
        self.options = {"shift": 0.25, "on": True}

    def forward(self, h):
        h = self.layer(h) * self.scale
        return h + self.options["shift"] if self.options["on"] else h

class Other(Part):
    def forward(self, h):
        return h.sin() * self.scale

class Net(nn.Module):
    stage = None
    def __init__(self):
        super().__init__()
        self.part = Part()
        self.parts = nn.ModuleList([Part(), Part()])
        self.gain = 2.0
        self.calls = 0
        self.last = None
        self.hidden = self.rows = self.shape = None
        self.pair = (flamec.zeros(3, dtype=flamec.float64), None)
        self.activation = None
        self.weight = nn.Parameter(flamec.rand(3, dtype=flamec.float64))
        self.register_buffer("mean", flamec.zeros(3, dtype=flamec.float64))

    def forward(self, h):
        h = self.part(h) * self.weight
        if self.training:
            self.mean.mul_(0.5).add_(h.detach().mean(0), alpha=0.5)
        return h - self.mean

    def forward_twice(self, h):
        return h * 2 - 1

class Counter:
    seen = 0
    def __init__(self):
        self.t = 0
        self.rate = 0.25

    def advance(self):
        self.t += 1
        return self.rate / math.sqrt(self.t + 1)

counter = Counter()
flamec.manual_seed(0)
config = Config()
net = Net()
opt = optim.SGD(net.parameters(), lr=0.01, momentum=0.5)
sched = optim.lr_scheduler.StepLR(opt, 2, 0.5)
captured = flamec.rand(4, 3, dtype=flamec.float64)
view = captured[1]
leaf = flamec.rand(3, dtype=flamec.float64).requires_grad_()

def hook_forward(module, arguments, result):
    return result * 1.5

def hook_gradient(gradient):
    return gradient * 0.5

extra = linear()
opt2 = optim.Adam([leaf, *extra.parameters()], lr=0.02)
saved = copy.deepcopy(net.part.state_dict())

class Double(flamec.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        ctx.save_for_backward(a)
        return a * 2

    @staticmethod
    def backward(ctx, g):
        (a,) = ctx.saved_tensors
        return g * 2 + a * 0

class Counted:
    def __enter__(self):
        counter.t += 1
        return counter

    def __exit__(self, *_):
        counter.rate = counter.rate * 0.5

def unrecorded(h):
    with flamec.no_grad():
        q = h * 0.5
    return q.requires_grad_()

{more}
def make():
    offset = 0.3
    kept = None
    def step(x, y, n, box):
        global MEMORY, GAIN, LIMITS, config, animal, meter, rank
        nonlocal kept, offset
        h = x * 1.0
        records = LOG
{body}
    def set_offset(value):
        nonlocal offset
        offset = value
    return step, set_offset, lambda: kept

step, set_offset, get_kept = make()
"""

KINDS = """
import contextlib, enum, functools, itertools, typing

class Access(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4

class Ratio:
    def __init__(self):
        self.k = 0.75

    def __get__(self, instance, owner):
        return self.k * owner.rate

class Mode(enum.Enum):
    ADD = "add"
    MUL = "mul"

class Point(typing.NamedTuple):
    a: typing.Any
    b: float = 2.0

@dataclasses.dataclass(frozen=True)
class Frozen:
    scale: float = 1.5
    mode: Mode = Mode.ADD

class Thing:
    rate = 0.5
    ratio = Ratio()
    def __init__(self):
        self.x = 0.75
        self.access = Access.READ
        self.reads = 0
        self.best = float("inf")
        self.held = {"p": 0.5, "q": 2}

    @property
    def gain(self):
        return self.x + self.rate

    @gain.setter
    def gain(self, value):
        self.x = value / 2

    @functools.cached_property
    def grid(self):
        return flamec.arange(3, dtype=flamec.float64) * self.x

    def __getattr__(self, name):
        if name.startswith("_") or name not in self.held:
            raise AttributeError(name)
        return self.held[name]

    def __call__(self, h):
        return h * self.x

class Another(Thing):
    rate = 1.5

    def __call__(self, h):
        return h - self.x

@contextlib.contextmanager
def rated(value):
    before, Thing.rate = Thing.rate, value
    try:
        yield value * 2
    finally:
        Thing.rate = before
        thing.reads += 1

@functools.lru_cache(maxsize=2)
def table(count):
    return flamec.arange(count, dtype=flamec.float64) + 1

def collected(h, seen=[], *, weights={"w": 0.5}):
    seen.append(1)
    return h + len(seen) * weights["w"]

def refused(loss):
    try:
        loss.backward()
    except RuntimeError:
        return True
    return False

def nested(h, depth):
    return h if depth <= 0 else nested(h * 0.9 + depth * 0.1, depth - 1)

thing = Thing()
held_thing = Thing()
turns = itertools.count(1)
frozen = Frozen()
point = Point(flamec.ones(3, dtype=flamec.float64))
scaled = functools.partial(lambda h, k=1.0, *, s=0.0: h * k + s, k=1.5)
COUNT = collections.Counter(a=1)
BY_SIZE = {}
"""
