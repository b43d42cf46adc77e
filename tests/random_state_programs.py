"""Random functions over captured state, and random changes of that state between calls.

``StateProgram(seed)`` writes a function as Python source, with globals, a closure, modules,
containers, a configuration and tensors that it reads and changes, and a list of events: changes of
the state and calls. They are executed in a ``World`` (``random_state_world.py``).
"""

from __future__ import annotations

import random

PRELUDE = """
import collections, dataclasses, math
import numpy as np
import flamec
from flamec import nn, optim

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
        self.layer = nn.Linear(3, 3, dtype=flamec.float64)
        self.scale = 0.5
        self.options = {"shift": 0.25, "on": True}

    def forward(self, h):
        h = self.layer(h) * self.scale
        return h + self.options["shift"] if self.options["on"] else h

class Other(Part):
    def forward(self, h):
        return h.sin() * self.scale

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()
        self.parts = nn.ModuleList([Part(), Part()])
        self.gain = 2.0
        self.calls = 0
        self.last = None
        self.hidden = None
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

def make():
    offset = 0.3
    kept = None
    def step(x, y, n, box):
        global MEMORY
        nonlocal kept
        h = x * 1.0
{body}
    def set_offset(value):
        nonlocal offset
        offset = value
    return step, set_offset, lambda: kept

step, set_offset, get_kept = make()
"""

READS = """
h = h * GAIN
h = h + LIMITS[-1]
h = h * len(LIMITS)
h = h + sum(LIMITS)
h = h * TABLE['b']
h = h + sum(TABLE.values()) + len(TABLE)
h = h * TABLE.get('c', 1.0)
h = h - Space.factor
h = h * config.slope + config.inner.bias
for _ in range(config.depth): h = h * 0.9 + 0.1
h = h + 1 if config.mode == 'add' else h * 2
h = h * offset
h = helper(h)
h = other_helper(h)
h = net(h)
h = net.part(h)
h = net.part.layer(h)
h = h * net.gain
for part in net.parts: h = part(h)
h = h * 2 if net.training else h
h = nn.functional.dropout(h, 0.5, net.training)
h = h + captured.sum()
h = h + view
h = h + captured[2] * view.sum()
h = h * leaf
h = h * (2.0 if leaf.requires_grad else 3.0)
h = h + y
h = h * n
h = h + x.shape[0]
h = h if 'x' in NAMES else -h
h = h + QUEUE[0]
h = h + flamec.tensor(ARRAY)
h = h * getattr(net, 'extra', 1.0)
h = h + (0.0 if net.last is None else 1.0)
h = h + (0.5 if net.last is None else net.last.sum())
h = (net.activation or flamec.tanh)(h)
h = h + flamec.rand(3, dtype=flamec.float64)
h = h + sum(p.sum() for p in net.parameters() if p.requires_grad)
h = h + (0.0 if leaf.grad is None else leaf.grad)
h = h + net.mean
h = h.detach() if config.mode == 'cut' else h
h = h * (2.0 if x.is_contiguous() else 3.0)
h = h + x.stride(0) - 0.5 * y.storage_offset()
h = h * (0.5 if x.t().is_contiguous() else 1.5) if x.ndim == 2 else h
h = h + view.stride(0) * (1.0 if captured.is_contiguous() else 2.0)
h = h + x.reshape(-1)[0]
h = h + counter.t * 0.25
h = h * 0.9 ** counter.t
h = h + counter.rate - round(counter.rate, 1)
h = h * 1.5 if counter.t % 3 == 1 else h
h = h + STEPS['n'] // 2 + STEPS['pair'][0]
h = h * opt.param_groups[0]['lr']
h = h + sched.get_last_lr()[0] + sched.last_epoch
h = h + box['n']
h = h + sum(t.sum() for t in box['a'])
h = h + len(box) * len(box['a'])
h = h * (1.0 if box.get('last') is None else 2.0)
""".strip().splitlines()

NUMBER_WRITES = """
counter.t += 1
counter.rate = counter.rate * 0.75 if counter.t % 2 else 0.5
h = h + counter.advance()
STEPS['n'] += 2
STEPS['pair'] = (STEPS['pair'][1] * 0.5, STEPS['pair'][1] + 1)
STEPS['rate'] = max(0.1, STEPS['rate'] - 0.1)
Counter.seen = Counter.seen + 1
opt.param_groups[0]['lr'] = opt.param_groups[0]['lr'] * 0.9
opt.param_groups[0]['lr'] = 0.01 * (counter.t + 1)
opt.param_groups[0]['lr'] = n * 0.01
for group in opt.param_groups: group['lr'] = STEPS['rate'] * 0.01
sched.step()
if h.requires_grad: h.sum().backward(); opt.step(); sched.step(); h = h.detach()
""".strip().splitlines()

TENSOR_WRITES = """
net.hidden = net.hidden * 0.5 + h.detach() if fits(net.hidden, h) else h.detach()
net.hidden = net.hidden.detach() * 0.5 + h if fits(net.hidden, h) else h
net.hidden = net.hidden * 0.5 + h if fits(net.hidden, h) else h
net.hidden = h.detach() * 2
net.hidden = None
h = h if net.hidden is None else h * net.hidden.detach().mean()
h = h + net.hidden if fits(net.hidden, h) else h
if net.hidden is not None and not net.hidden.requires_grad: net.hidden.mul_(0.5)
net.mean = net.mean * 0.5 + h.detach().mean()
net.mean = net.mean * 0.5 + h.detach().reshape(-1)[:3].mean()
net.pair = (net.pair[0] * 0.5 + h.detach().mean(), h.detach().sum())
h = h + net.pair[0]
net.pair = (net.pair[0], net.last)
CACHE['k'] = part(h) if CACHE['k'] is None else flamec.cat([CACHE['k'], part(h)])
h = h + (0.0 if CACHE['k'] is None else CACHE['k'].sum() / CACHE['k'].shape[0])
CACHE['last'] = CACHE['k']
VALUES[0], VALUES[1] = VALUES[0] + h.detach().mean(), VALUES[0]
VALUES[1] = y
h = h + VALUES[0] + (0.0 if VALUES[1] is None else VALUES[1].sum())
MEMORY = h.detach().sum() if MEMORY is None else MEMORY * 0.5 + h.detach().sum()
h = h + (0.0 if MEMORY is None else MEMORY.mean())
kept = h.sum() if kept is None else kept.detach() + h.sum()
h = h + (0.0 if kept is None else kept)
slots.a, slots.b = h.detach().mean(), slots.a
h = h if slots.b is None else h + slots.b
net.last = net.mean
net.last = x[0]
net.last = x
net.last = h
net.last = net.hidden
net.last = captured[:1]
net.last = h.detach()[:1]; net.hidden = net.last
net.stats = {'h': h.detach().sum(), 'n': n, 'x': [x]}
Counter.best = h.detach().mean()
""".strip().splitlines()

BOX_WRITES = """
box['a'].append(h.detach())
box['a'].append(x)
box['a'][0] = y * 2
box['n'] += 1
box['n'] = n
box['last'] = h.detach()
box['a'] = [h.detach().sum(), *box['a']]
box.pop('last', None)
box['a'].reverse()
x.reshape(-1).add_(0.5)
x.contiguous().mul_(0.5)
""".strip().splitlines()

WRITES = """
captured.add_(h.detach().mean())
captured[0] = h.detach().sum()
x.mul_(0.5)
x[0] = 1.0
y.add_(1)
view.fill_(0.25)
net.mean.copy_(h.detach().mean(0))
h = h.clone().mul_(0.5)
h[:1] *= 2
with flamec.no_grad(): leaf.mul_(0.9)
net.zero_grad()
opt.zero_grad(set_to_none=False)
leaf.grad = None
if h.requires_grad: (h * h).sum().backward(); h = h.detach()
if h.requires_grad: h.sum().backward(); opt.step(); h = h.detach()
with flamec.no_grad(): h = h * net.weight
""".strip().splitlines()

SPLITS = """
if h.sum() > 0: h = h * 0.5
if captured.sum() > 4: h = h - 1
h = h + int(h.detach().abs().sum()) % 3
h = h * 0.5 + h.detach().mean().item()
while h.abs().sum() > 40: h = h * 0.5
h = h + len([v for v in (h[0] > 0).tolist() if v])
h = h + float(h.detach().sum()) * 0.1
h = h[h.sum(1) > -5.0]
""".strip().splitlines()

EFFECTS = """
LOG.append(h.shape[0])
LOG.append(h.detach().sum())
LOG.append(h.detach().mean().item())
LOG.append(x)
net.calls += 1
net.last = h.detach()
TABLE['count'] = TABLE.get('count', 0) + 1
net.gain = net.gain * 0.5
config.inner.bias = h.detach().sum().item()
QUEUE.append(len(QUEUE))
""".strip().splitlines()

CHANGES = """
GAIN = GAIN * 1.5
GAIN = 2
LIMITS.append(0.25)
LIMITS[0] = LIMITS[0] - 1
LIMITS = [0.125]
TABLE['b'] = TABLE['b'] + 1
TABLE['c'] = 3.0
TABLE.pop('a', None)
NAMES.discard('x')
NAMES.add('x')
QUEUE.appendleft(2.5)
QUEUE[0] = -1.0
ARRAY[1] = ARRAY[1] + 1
ARRAY = np.array([1.0, 2.0, 3.0])
Space.factor = Space.factor + 1
config.depth = config.depth % 3 + 1
config.slope = 0.2
config.slope = 0
config.mode = 'mul'
config.mode = 'cut'
config.inner.bias = 0.75
config.inner = Inner(-1.0)
config = Config(depth=1)
set_offset(0.6)
set_offset(-1)
helper.__defaults__ = (0.5,)
helper.__code__ = other_helper.__code__
Part.forward = lambda self, h: h * self.scale + 0.125
Part.forward, Net.forward = Net.forward_twice, lambda self, h: h * self.gain
net.part.forward = lambda h: h * 0.5
net.part.__class__ = Other
other_helper = helper
net.gain = net.gain + 1
net.extra = 1.25
net.part.scale = 0.25
net.part.options['on'] = not net.part.options['on']
net.part.options['shift'] = 0.5
net.part = Part()
net.parts.append(Part())
net.parts[0] = net.part
net.train()
net.eval()
net.part.eval()
net.activation = flamec.sin
net.activation = nn.ReLU()
net.weight = nn.Parameter(flamec.rand(3, dtype=flamec.float64))
net.weight.requires_grad_(False)
net.weight.requires_grad_(True)
net.part.layer.weight.requires_grad_(False)
net.part.layer.weight.data = flamec.rand(3, 3, dtype=flamec.float64)
net.part.layer.bias.data.fill_(0.5)
net.part.layer.bias = None
net.requires_grad_(False)
net.mean = flamec.ones(3, dtype=flamec.float64)
net.mean.zero_()
net.last = None
net.last = flamec.ones(3, dtype=flamec.float64)
handle = net.part.register_forward_hook(hook_forward)
handle = net.part.layer.register_forward_pre_hook(lambda m, a: (a[0] * 2,))
net.part._forward_hooks.clear()
handle = leaf.register_hook(hook_gradient) if leaf.requires_grad else None
handle.remove() if handle is not None else None
net.weight.register_hook(hook_gradient) if net.weight.requires_grad else None
captured.mul_(0.5)
captured[1] = 0.5
view.add_(0.25)
view = captured[2]
view = captured[:, 0]
view = flamec.rand(3, dtype=flamec.float64)
captured = flamec.rand(4, 3, dtype=flamec.float64)
captured.data = flamec.rand(4, 3, dtype=flamec.float64)
leaf.requires_grad_(False)
leaf.requires_grad_(True)
leaf = flamec.rand(3, dtype=flamec.float64).requires_grad_()
leaf.grad = None
leaf.grad = flamec.ones(3, dtype=flamec.float64)
opt.param_groups[0]['lr'] = opt.param_groups[0]['lr'] * 0.5
opt.param_groups[0]['momentum'] = 0.25
opt.zero_grad()
flamec.manual_seed(7)
counter.t = 0
counter.t = counter.t + 5
counter.t = 1.5
counter.rate = 2
counter = Counter()
Counter.seen = 7
STEPS['n'] = STEPS['n'] + 1
STEPS = {'n': 3, 'rate': 0.25, 'pair': (0.5, 1)}
sched.step()
sched = optim.lr_scheduler.ExponentialLR(opt, 0.9)
opt.param_groups[0]['lr'] = 0.02
captured = flamec.rand(3, 4, dtype=flamec.float64).t()
net.hidden = None
net.hidden = flamec.ones(4, 3, dtype=flamec.float64)
net.hidden = net.last
net.last = captured[0]
net.pair = (flamec.ones(3, dtype=flamec.float64), net.last)
CACHE['k'] = None
CACHE['k'] = flamec.ones(5, dtype=flamec.float64)
CACHE = {'k': None, 'last': None}
VALUES[0] = flamec.ones(3, dtype=flamec.float64)
VALUES.append(None)
MEMORY = None
MEMORY = flamec.ones(3, dtype=flamec.float64)
slots = Slots()
if net.last is not None and not net.last.requires_grad: net.last.add_(1)
if net.hidden is not None: net.hidden = net.hidden.detach()
""".strip().splitlines()

ARGUMENTS = """
x = data({rows}, 3); y = data(3)
x = data({rows}, 3); y = data(3)
x = data({rows}, 3); y = data({rows}, 3)
x = data(4, 3); y = x[0]
x = data(4, 3); y = x
base = data(6, 3); x = base[:4]; y = base[2]
base = data(6, 3); x = base[::2]; y = base[1]
base = data(6, 3); x = base[:4]; y = base[2:6]
base = data(18); x = base[:12].reshape(4, 3); y = base[9:12]
x = captured; y = data(3)
x = data(4, 3); y = captured[3]
x = captured[:2]; y = view
x = data(3, 4).t(); y = data(3)
x = data(4, 6)[:, ::2]; y = data(3)
x = data(4, 3).requires_grad_(); y = data(3)
x = data(4, 3).requires_grad_() * 2; y = data(3)
x = data(4, 3); y = leaf
x = data(1, 3).expand(4, 3); y = data(3)
""".strip().splitlines()

BOXES = ("{'a': [y], 'n': 1}", "{'a': [y], 'n': n}", "{'a': [y, y], 'n': 2, 'last': None}")
NUMBERS = ("1", "2", "1.5", "2.5", "True", "-1")
STATE = (
    "captured",
    "view",
    "leaf",
    "LOG",
    "TABLE",
    "LIMITS",
    "QUEUE",
    "net",
    "opt",
    "STEPS",
    "counter",
    "sched",
    "CACHE",
    "VALUES",
    "MEMORY",
    "slots",
    "get_kept",
)


class StateProgram:
    """The source of a function and the events of its life: ``("change", text)`` or a call."""

    def __init__(self, seed: int, calls: int = 6) -> None:
        rng = random.Random(seed)
        pools = [READS] * 6 + [WRITES] * 2
        if rng.random() < 0.35:
            pools += [SPLITS]
        if rng.random() < 0.35:
            pools += [EFFECTS]
        if rng.random() < 0.4:
            pools += [NUMBER_WRITES] * 2
        if rng.random() < 0.25:
            pools += [BOX_WRITES]
        if rng.random() < 0.4:
            pools += [TENSOR_WRITES] * rng.choice((2, 6))
        lines = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 7))]
        lines.append(rng.choice(("return h", "return h, x", "return [h.sum(), y]", "return h[0]")))
        self.body = "\n".join(f"        {line}" for line in lines)
        self.source = PRELUDE.replace("{body}", self.body)
        self.events: list[tuple[str, str, bool]] = []
        steady = rng.random() < 0.4  # then one program serves several calls
        for number in range(calls + 2 * steady):
            rows = rng.choice((4, 4, 4, 1, 2, 5)) if not steady else 4
            varied = rng.random() < 0.5 and not steady
            arguments = rng.choice(ARGUMENTS) if varied else ARGUMENTS[0]
            box = f"box = {BOXES[0] if steady else rng.choice(BOXES)}"
            n = rng.choice(NUMBERS) if not steady else "2.5"
            text = f"{arguments.format(rows=rows)}; n = {n}; {box}; seed = {number}"
            self.events.append(("call", text, rng.random() < 0.5))
            count = rng.choice((0, 1, 1, 2)) if not steady else int(number % 4 == 3)
            self.events += [("change", rng.choice(CHANGES), False) for _ in range(count)]

    def __str__(self) -> str:
        lines = [self.body, *(f"{kind}: {text} {flag}" for kind, text, flag in self.events)]
        return "\n".join(lines)
