"""State of Python's library and of classes that some random programs have
(``random_state_prelude.py``).

``DEFINITIONS`` of the state, ``STATEMENTS`` of the body (``;;`` begins another line), and
``CHANGES`` between calls.
"""

from __future__ import annotations

DEFINITIONS = """
import abc, array, bisect, functools, heapq, operator, types, weakref
from collections import ChainMap, OrderedDict, UserDict, defaultdict

class Animal(abc.ABC):
    legs = 4
    names = []

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Animal.names.append(cls.__name__)

    @abc.abstractmethod
    def speed(self, h): ...

    def run(self, h):
        return self.speed(h) * self.legs

class Horse(Animal):
    def speed(self, h):
        return h * 0.5

class Bird(Animal):
    legs = 2

    def speed(self, h):
        return super().run.__func__(Horse(), h) + self.legs

    def run(self, h):
        return super().run(h) - 1

class Stone:
    weight = 3.0

    def run(self, h):
        return h - self.weight

class Meter:
    __slots__ = ("total", "count", "history", "__weakref__")
    made = 0

    def __init__(self):
        self.total, self.count, self.history = 0.0, 0, []
        Meter.made += 1

    def __iadd__(self, value):
        self.total += value
        self.count += 1
        return self

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return self.history[key]

    def __iter__(self):
        return iter([self.total, self.count])

    def __contains__(self, value):
        return value in self.history

    def __eq__(self, other):
        return isinstance(other, Meter) and self.count == other.count

    __hash__ = None

    @property
    def mean(self):
        return self.total / max(self.count, 1)

    @mean.setter
    def mean(self, value):
        self.total = value * self.count

    @classmethod
    def number(cls):
        return cls.made

    @staticmethod
    def unit():
        return 0.5

@dataclasses.dataclass(order=True)
class Rank:
    place: int = 1
    label: str = dataclasses.field(default="a", compare=False)

@functools.singledispatch
def weight(value):
    return 1.0

@weight.register
def _(value: int):
    return 2.0 + value

def counted(function):
    @functools.wraps(function)
    def call(*arguments, **options):
        call.calls += 1
        return function(*arguments, **options)
    call.calls = 0
    return call

@counted
def shifted(h, by=0.5):
    return h + by

def pieces(count):
    for k in range(count):
        yield k * SCALES["base"]

SCALES = {"base": 0.5, "more": [1.0, 2.0]}
FUNCTIONS = {"f": helper, "g": lambda h: h * 0.5}
LAYERS = ChainMap({"p": 0.5}, {"p": 1.0, "q": 2.0})
ORDERED = OrderedDict(a=0.5, b=1.5)
GROUPS = defaultdict(list, {"a": [1.0]})
HEAP = [0.5, 1.5, 2.5]
CELLS = array.array("d", [0.5, 1.5])
BYTES = bytearray(b"\\1\\2")
SEEN = set()
space = types.SimpleNamespace(rate=0.5, inner=types.SimpleNamespace(items=[1.0]))
animal = Horse()
meter = Meter()
meter_ref = weakref.ref(meter)
rank = Rank()
user = UserDict(u=0.5)
pick = operator.itemgetter("base")
"""

STATEMENTS = """
h = animal.run(h)
h = h * (2.0 if isinstance(animal, Animal) else 0.5)
h = h + (1.0 if isinstance(animal, (Stone, Bird)) else 2.0) * type(animal).__mro__.index(object)
h = h + len(Animal.names) * animal.legs if hasattr(animal, 'legs') else h
h = h + (meter.mean if meter else 0.25)
h = h + len(meter) + sum(meter)
h = h + Meter.number() * Meter.unit()
h = h + (1.0 if 1 in meter else 2.0)
h = h * (2.0 if meter_ref() is meter else 3.0)
meter += 1
meter += h.shape[0]
meter.mean = meter.mean * 0.5
meter.history.append(len(meter))
h = h + (meter[-1] if meter.history else 0.5)
h = h * (0.5 if rank < Rank(2) else 2.0) + rank.place
rank.place += 1
rank = dataclasses.replace(rank, place=rank.place % 3)
h = h + len(dataclasses.asdict(rank)) * (1.5 if rank.label == 'a' else 0.5)
h = h * weight(n) + weight('s')
h = shifted(h) + shifted.calls
h = shifted(h, by=SCALES['base'])
h = h + sum(pieces(3))
h = h + sum(k * v for k, v in enumerate(SCALES['more']))
h = FUNCTIONS['f'](h)
for name, function in FUNCTIONS.items(): h = function(h) + len(name)
h = h + LAYERS['p'] + LAYERS['q'] + len(LAYERS)
LAYERS['p'] = LAYERS['p'] * 0.5
h = h * next(iter(ORDERED.values())) + len(ORDERED)
ORDERED.move_to_end(next(iter(ORDERED)))
ORDERED['a'] = ORDERED['a'] + 0.5
GROUPS['a'].append(n)
GROUPS[h.shape[0]].append(1)
h = h + sum(map(len, GROUPS.values()))
h = h + HEAP[0] + bisect.bisect(HEAP, 1.0)
heapq.heappush(HEAP, 0.25)
h = h + heapq.heappop(HEAP) if len(HEAP) > 1 else h
h = h + CELLS[0] + len(CELLS)
CELLS[0] = CELLS[0] * 0.5
h = h + BYTES[-1]
BYTES[0] = (BYTES[0] + 1) % 5
h = h + memoryview(CELLS)[1] * memoryview(BYTES)[0]
SEEN.add(h.shape)
h = h + len(SEEN) + (1.0 if h.shape in SEEN else 2.0)
h = h * space.rate + sum(space.inner.items)
space.rate = space.rate * 0.9
space.inner.items[0] += 1
h = h + pick(SCALES) * user['u'] + len(user)
user['u'] = user['u'] * 0.5
setattr(space, 'k' + str(len(vars(space)) % 4), 1.0)
h = h + len(vars(space)) + getattr(space, 'k3', 0.5)
h = functools.reduce(lambda a, b: a * b, SCALES['more'], h)
h = h + sum(a * b for a, b in zip(SCALES['more'], HEAP))
SCALES['more'][:] = SCALES['more'][::-1]
SCALES['base'], SCALES['more'][0] = SCALES['more'][0] * 0.5, SCALES['base']
GAIN = GAIN * 0.9; h = h * GAIN
LIMITS.sort(reverse=True); h = h + LIMITS[0]
LIMITS += [0.5]; h = h + sum(LIMITS) * 0.1
TABLE.update(b=TABLE['b'] + 1); h = h * TABLE['b'] * 0.1
h = h + TABLE.setdefault('s', 0.75)
if (first := h.shape[0]) > 2: h = h + first
h = h + {'a': 1.0, 'b': 2.0}.get(rank.label, 3.0)
animal = Bird() if type(animal) is Horse else Horse()
h = (lambda t, k=GAIN: t * k)(h)
Meter.made += 1
config = dataclasses.replace(config, slope=config.slope * 0.5); h = h + config.slope
config.inner.bias, config.slope = config.slope, config.inner.bias
h = h * config.slope + config.inner.bias
try: h = h * SCALES['none'];; except KeyError: h = h + SCALES['base']
h = h + (1.0 if ARRAY.any() else 2.0) * len(ARRAY)
h = h + flamec.frombuffer(CELLS, dtype=flamec.float64)[:2].sum()
if h.shape[0] == 2: raise ValueError('two rows')
if n == 2: raise ValueError('two')
if len(SEEN) > 1: raise KeyError('seen')
if h.detach().sum() > 20: raise ValueError('large')
if h.detach().mean() < 0: raise ArithmeticError('negative')
assert len(meter) < 3
h = h + [1.0, 2.0][rank.place]
""".strip().splitlines()

CHANGES = """
animal = Bird()
animal = Stone()
animal.__class__ = Bird
animal.__class__ = Horse
Animal.register(Stone)
Bird.__bases__ = (Horse,)
Horse.__bases__ = (Animal,)
Horse.legs = 3
del Bird.legs; Animal.legs = 6
Horse.speed = lambda self, h: h * 0.25
Stone.run = Horse.speed
animal.run = lambda h: h * 3
animal.legs = 8
del Bird.run
type('Fish', (Horse,), {})
Meter.unit = staticmethod(lambda: 0.75)
Meter.number = classmethod(lambda cls: 5)
Meter.mean = property(lambda self: 1.5, lambda self, v: None)
Meter.__len__ = lambda self: 2
Meter.__bool__ = lambda self: False
del Meter.__contains__
meter = Meter()
meter_ref = weakref.ref(meter)
meter.history.insert(0, 1)
meter.history.clear()
meter.total = 4
rank = Rank(3, 'b')
rank.label = 'b'
Rank.__lt__ = lambda a, b: True
weight.register(str, lambda value: 0.5)
weight.register(float, lambda value: 0.25)
shifted.calls = 0
shifted.__wrapped__.__defaults__ = (0.75,)
shifted = counted(helper)
SCALES['base'] = 0.25
SCALES['more'].append(3.0)
SCALES = {'base': 1, 'more': (2.0,), 'none': 1.0}
FUNCTIONS['f'] = other_helper
FUNCTIONS['h'] = math.sqrt and (lambda h: h + 1)
FUNCTIONS['f'] = functools.partial(helper, factor=2.0)
LAYERS = LAYERS.new_child({'q': 0.5})
LAYERS.maps.reverse()
LAYERS.maps[0]['q'] = 3.0
ORDERED.move_to_end('a', last=False)
ORDERED['c'] = 0.25
GROUPS['b'].append(1)
GROUPS.default_factory = None
HEAP.append(0.125)
CELLS[1] = 4.0
CELLS.append(2.0)
CELLS = memoryview(array.array('d', [1.0, 2.0, 3.0]))
BYTES.extend(b'\\3')
BYTES = memoryview(BYTES)
SEEN.clear()
SEEN = frozenset([(4, 3)])
space.rate = 2
space.inner = types.SimpleNamespace(items=[0.5])
space.k3 = 1.5
user['u'] = 2
user.data = {'u': 0.75}
pick = operator.itemgetter('b'); SCALES['b'] = 0.5
pieces = lambda count: [0.5] * count
pieces.__code__ = (lambda count: (k for k in range(count))).__code__
del SCALES['base']; SCALES['base'] = 0.5
""".strip().splitlines()
