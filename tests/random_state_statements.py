"""Statements that random functions over captured state are made of (``random_state_prelude.py``).

The lists are statements of the body, by what they do, ``CHANGES`` of the state between calls, and
``ARGUMENTS`` of calls, ``HISTORIES`` those that were computed before.
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
net.rows = x.shape[0] if net.rows is None else max(net.rows, x.shape[0])
h = h * (1 if net.rows is None else net.rows)
net.shape = h.shape if net.shape != h.shape else None
h = h if net.shape is None else h * net.shape[0]
net.stage = None if net.stage is not None and net.stage > 2 else (net.stage or 0) + 1
h = h * (net.stage or 0.5)
""".strip().splitlines()

INTS = """
counter.t += 1
counter.t = counter.t + 2 if counter.t < 6 else 0
STEPS['n'] = (STEPS['n'] + 1) % 5
h = h * captured[counter.t % 4, 0]
h = h + captured[:, STEPS['n'] % 3].sum()
h = h + captured[n].sum() * captured[:, :n].sum()
h = h + captured[n - 1 : n + 1].sum()
captured[counter.t % 4] = h.detach().mean()
captured[: STEPS['n']] = 0.5
captured[:, counter.t % 3].mul_(0.5)
h = h + captured[: counter.t].sum() + captured[-counter.t :].sum()
h = h + captured[STEPS['n'] - 3 : STEPS['n']].sum(0)
h = h + captured[counter.t % 3 : counter.t % 3 + 2].sum(0)
row = captured[STEPS['n'] % 4]; row += 0.25; h = h + row
x[STEPS['n'] % 2 :].mul_(0.5) if x.shape[0] > 1 else None
h = h + flamec.arange(counter.t, dtype=flamec.float64).sum()
h = h + flamec.full((n + 1, STEPS['n']), 0.5, dtype=flamec.float64).sum()
h = h + flamec.ones(box['n'] + 1, 3, dtype=flamec.float64).sum(0)
h = h * (flamec.arange(3) <= n)
h = h[: STEPS['n'] + 1]
h = h[: h.shape[0] - n % 2]
h = h + x.narrow(0, counter.t % 2, 1).sum() if x.shape[0] > 1 else h
h = flamec.cat([h[counter.t % 2 :], h[: counter.t % 2]])
h = h.roll(STEPS['n'], 0) + nn.functional.pad(captured, (0, 0, 0, n + 1)).sum(0)
h = h + sum(captured[i].sum() for i in range(counter.t % 3))
h = h + x.reshape(-1)[STEPS['n'] % 3] * counter.t
h = h * 2 if n > 0 else h * captured[0, n]
h = h + helper(captured)[n % 4]
net.last = captured[counter.t % 4]
net.hidden = captured[: counter.t % 4 + 1] * 2
h = h + captured[: captured[:, : n + 2].shape[1]].sum(0)
h = h + captured.expand(STEPS['n'] % 3, 4, 3).sum(0).mean(0)
h = h + captured.repeat(n + 1, 1).mean(0)
h = h + captured[flamec.tensor([0, 1]), STEPS['n'] % 3].sum()
with flamec.no_grad(): leaf[n % 3] = 0.5
captured[(h.detach().sum() > 0).long()] += 0.5
row = captured[(h.detach().sum() > 0).long()]; row += 0.25; h = h + captured[1]
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

AUTOGRAD = """
opt.step()
opt2.step()
opt2.zero_grad()
time.time()
if h.requires_grad: h.sum().backward(); opt2.step(); opt.step(); h = h.detach()
if h.requires_grad: (h * 2).sum().backward(retain_graph=True)
if h.requires_grad and leaf.requires_grad: h.sum().backward(inputs=[leaf]); h = h.detach()
h = h + extra(h)
nn.utils.clip_grad_norm_(net.parameters(), 0.5)
nn.utils.clip_grad_value_(net.parameters(), 0.1)
opt.param_groups[0]['momentum'] = opt.param_groups[0]['momentum'] * 0.9
opt2.param_groups[0]['betas'] = (0.5, 0.9)
opt2.param_groups[0]['lr'] *= 0.5
for p in net.parameters(): p.grad = None
for p in net.part.parameters(): p.data.mul_(0.99)
if leaf.grad is not None: leaf.grad.mul_(0.5)
if leaf.grad is not None: leaf.grad = leaf.grad * 2
net.part.load_state_dict(saved)
h = h + sum(v.sum() for v in net.part.state_dict().values())
h = flamec.utils.checkpoint.checkpoint(net.part, h, use_reentrant=False)
h = Double.apply(h)
with Counted() as c: h = h * c.rate
with flamec.no_grad(): h = h + net.part(h)
with flamec.enable_grad(): h = net.part(h)
leaf.requires_grad_(not leaf.requires_grad)
net.weight.requires_grad_(False)
net.weight.requires_grad_(True)
box['a'].append(leaf * 3)
box['a'][0].add_(1) if not box['a'][0].requires_grad else None
box['a'][0] = net.weight
x.add_(leaf.detach())
h = h.clone(); h[h < 0] = 0.125
""".strip().splitlines()

LEAVES = """
h = h * unrecorded(h)
h = h + unrecorded(h)[:1]
q = unrecorded(h); (q * h).sum().backward(retain_graph=True); h = h + q.grad
q = h.detach().requires_grad_(); (q * leaf).sum().backward(); h = h * q.grad
h = h + h.detach().requires_grad_().sum()
h = h * (grad_of((h * leaf).sum(), leaf)[0] if leaf.requires_grad else leaf)
if leaf.requires_grad: h = h * grad_of((h * leaf).sum() ** 2, leaf, create_graph=True)[0]
h = h.sin() * h.tanh()
h = h.detach() + leaf.sigmoid()
h = h * 2 if h.detach().sum() > 0 else h.tanh()
h = h[h[:, 0].detach() > 0] if h.shape[0] > 1 else h
""".strip().splitlines()

HISTORIES = """
x = net(data(4, 3)); y = data(3)
x = net.part(data({rows}, 3)); y = x.sum(0)
h = data(4, 3).requires_grad_() * leaf; x = h[:2]; y = h[1]
x = extra(data(4, 3)); y = leaf * 2
x = data(4, 3).requires_grad_(); y = x[0]
""".strip().splitlines()

KINDS = """
h = h * frozen.scale if frozen.mode is Mode.ADD else h + frozen.scale
h = h + point.a * point.b
h = h * thing.gain + Thing.rate
h = h + thing.grid
h = thing(h) + thing.p
h = h + getattr(thing, 'q', 0.5) + len(vars(thing))
h = scaled(h)
h = nested(h, len(TABLE))
h = h * (1.0 + COUNT['a']) + COUNT['none']
h = h + sum(sorted(TABLE.values())) * (2 in TABLE.values())
h = h + max((captured[0], view), key=lambda t: float(t.sum())).sum()
h = h + (thing.best if thing.best < 1e9 else 0.0)
with rated(0.75) as k: h = h * thing.gain + k
thing.gain = thing.gain * 0.5
thing.x *= 0.9; del thing.reads; thing.reads = 2
Thing.rate = Thing.rate + 0.25
offset = offset * 0.5 + 0.1
COUNT['a'] += 1
h = collected(h)
thing.best = min(thing.best, h.detach().mean().item())
h = h * 0.5 if thing.best < 0 else h
BY_SIZE[h.shape[0]] = BY_SIZE.get(h.shape[0], 0) + 1
NAMES.add(len(NAMES))
h = h + table(3)
h = h * len(LOG) + (LOG[-1] if LOG and isinstance(LOG[-1], float) else 0.5)
LOG.append(float(h.detach().mean()))
records.append(float(h.detach().sum()))
records.append(len(records))
h = h.detach().requires_grad_()
if h.requires_grad: s = h.sum(); s.backward(); LOG.append(refused(s))
thing.access = thing.access | Access.RUN
thing.access = Access.WRITE if thing.access & Access.RUN else Access.READ
h = h * len([a for a in Access if a in thing.access | Access.RUN])
held_thing.__class__ = Another if type(held_thing) is Thing else Thing
h = held_thing(h) * type(held_thing).rate
h = h * Thing.ratio + Another.ratio
h = h + (1.0 if issubclass(Another, Thing) else 2.0)
h = h + next(turns)
h = h * (2.0 if captured.t().data_ptr() == captured.data_ptr() else 1.0)
h = h + flamec.tensor(ARRAY) * float(ARRAY.sum())
h = h + flamec.tensor([ARRAY[:2], ARRAY[1:]]).sum()
ARRAY[1] += 0.5
np.multiply(ARRAY, 0.9, out=ARRAY)
ARRAY.sort()
""".strip().splitlines()

CHANGES_OF_KINDS = """
frozen = dataclasses.replace(frozen, scale=0.5)
frozen = Frozen(mode=Mode.MUL)
point = point._replace(b=point.b + 1)
thing.held['p'] = thing.held['p'] + 1
thing.held['new'] = 1.0
Thing.q = 5.0
thing.__dict__.pop('grid', None)
thing = Thing()
thing.best = 0.0
scaled = functools.partial(scaled, s=0.5)
COUNT['none'] = 2
collected.__defaults__[0].clear()
collected.__kwdefaults__['weights']['w'] = 0.25
table.cache_clear()
TABLE['a'] = TABLE.pop('a', 0.5)
thing.access = Access.WRITE | Access.RUN
held_thing.__class__ = Another
held_thing = Thing()
vars(Thing)['ratio'].k = vars(Thing)['ratio'].k + 0.5
Thing.ratio = Ratio()
turns = itertools.count(3)
ARRAY[:2] = ARRAY[1:]
""".strip().splitlines()
