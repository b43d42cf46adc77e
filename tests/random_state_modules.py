"""State of modules and optimizers that some random programs have (``random_state_prelude.py``).

``DEFINITIONS`` of the state, ``STATEMENTS`` of the body, and ``CHANGES`` between calls.
"""

from __future__ import annotations

DEFINITIONS = """
W64 = {"dtype": flamec.float64}

def fresh(*shape):
    return nn.Parameter(flamec.from_numpy(draws.uniform(size=shape)))

class Gate(nn.Module):
    slope = 0.5

    def __init__(self):
        super().__init__()
        self.register_parameter("bias", None)
        self.bound = 0.75

    @property
    def width(self):
        return self.bound * self.slope

    def extra_repr(self):
        return f"bound={self.bound}"

    def forward(self, h, *others, scale=1.0, **options):
        h = h * self.width * scale + sum(others)
        h = h if self.bias is None else h + self.bias
        return h.clamp(max=options.get("most", 9.0))

class Steep(Gate):
    slope = 1.5

class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.ParameterList([fresh(3), fresh(3)])
        self.table = nn.ParameterDict({"w": fresh(3), "v": fresh(1)})
        self.seq = nn.Sequential(linear(), nn.Tanh(), nn.LayerNorm(3, **W64))
        self.ways = nn.ModuleDict({"a": linear(), "b": linear()})
        self.norm = nn.BatchNorm1d(3, **W64)
        self.drop = nn.Dropout(0.25)
        self.gates = [Gate(), Steep()]
        self.gate = self.gates[0]
        self.register_buffer("mask", flamec.ones(3, **W64))
        self.register_buffer("count", flamec.zeros((), dtype=flamec.int64), persistent=False)
        self.chosen = "a"
        self.calls = 0

    def forward(self, h):
        self.count.add_(1)
        return self.ways[self.chosen](h) * self.mask

zoo = Zoo()
cast = linear()
opt3 = optim.AdamW([
    {"params": zoo.ways.parameters(), "lr": 0.02},
    {"params": [*zoo.items, *zoo.table.values()], "lr": 0.05, "weight_decay": 0.0},
])
opt3.add_param_group({"params": zoo.seq.parameters(), "betas": (0.5, 0.9)})
warm = optim.lr_scheduler.LinearLR(opt3, 0.5, 1.0, 3)
cool = optim.lr_scheduler.LambdaLR(opt3, lambda epoch: 0.9 ** epoch)
plateau = optim.lr_scheduler.ReduceLROnPlateau(opt3, patience=1)
saved_zoo = copy.deepcopy(zoo.state_dict())
saved_opt3 = copy.deepcopy(opt3.state_dict())
handles = []
tail = flamec.rand(6, **W64)[2:5]

def doubled(module, arguments):
    return (arguments[0] * 2,)

def noted(module, arguments, result):
    module.seen = getattr(module, "seen", 0) + 1

def halved(p):
    p.grad.mul_(0.5)

def scaled_back(module, given, received):
    return tuple(None if g is None else g * 0.5 for g in given)
"""

STATEMENTS = """
h = zoo(h)
h = zoo.seq(h)
h = zoo.seq[0](h) * len(zoo.seq)
for layer in zoo.seq: h = layer(h)
h = zoo.norm(h) if h.shape[0] > 1 else h
h = zoo.drop(h)
h = zoo.ways['a'](h) if 'a' in zoo.ways else h
for name, layer in zoo.ways.items(): h = layer(h) + len(name)
h = sum(zoo.items, h)
h = h * zoo.items[-1] * len(zoo.items)
h = h * zoo.table['w'] if 'w' in zoo.table else h
h = h + sum(p.sum() for p in zoo.table.values())
h = zoo.gate(h)
h = zoo.gate(h, y.mean(), 0.25, scale=n, most=5.0)
for gate in zoo.gates: h = gate(h, scale=0.5)
h = h * zoo.mask
h = h + zoo.count * zoo.gate.width
h = h * (2.0 if isinstance(zoo.gate, Steep) else 0.5)
h = h + sum(1 for m in zoo.modules() if m.training)
h = h * len(list(zoo.named_parameters())) * 0.1
h = h + sum(b.sum() for b in zoo.buffers())
h = h + len(zoo.state_dict()) + len(zoo._forward_hooks)
h = h * (2.0 if cast(h.to(cast.weight.dtype)).dtype is flamec.float64 else 3.0)
h = h + flamec.ones(2).sum() * (1.0 if flamec.ones(1).dtype is flamec.float64 else 2.0)
h = h * (2.0 if flamec.is_grad_enabled() else 3.0)
h = h * tail
h = h + (tail.grad if tail.grad is not None else 0.5)
h = h * nn.functional.linear(h, zoo.ways['a'].weight)
h = h + sum(group['lr'] for group in opt3.param_groups)
h = h + len(opt3.param_groups) + len(opt3.state)
h = nn.functional.batch_norm(h, zoo.mask, zoo.mask + 1, training=False)
h = flamec.func.functional_call(zoo, {'mask': y[:3] if y.ndim == 1 else y[0]}, (h,))
zoo.mask.mul_(0.9)
zoo.mask = zoo.mask * 0.5 + h.detach().mean(0) * 0.5
zoo.count += 1
zoo.calls += 1
zoo.gate.bound = zoo.gate.bound * 0.9
zoo.chosen = 'b' if zoo.chosen == 'a' and 'b' in zoo.ways else 'a'
zoo.gate = zoo.gates[zoo.calls % 2]
zoo.drop.p = zoo.drop.p * 0.5
opt3.zero_grad()
opt3.step()
if h.requires_grad: opt3.zero_grad(); h.sum().backward(); opt3.step(); h = h.detach()
if h.requires_grad: h.sum().backward(); opt3.step(); warm.step(); h = h.detach()
if h.requires_grad: h.square().mean().backward(); cool.step(); h = h.detach()
plateau.step(1.0)
plateau.step(h.detach().mean().item())
nn.utils.clip_grad_norm_([p for p in zoo.parameters() if p.grad is not None], 0.5)
for p in zoo.parameters(): p.requires_grad_(p.ndim > 1)
with flamec.no_grad(): zoo.items[0].add_(0.1)
with flamec.no_grad(): [p.mul_(0.99) for p in zoo.table.values()]
with flamec.no_grad(): zoo.ways['a'].weight.lerp_(zoo.seq[0].weight, 0.1)
with flamec.inference_mode(): h2 = zoo.seq(h.detach()) * 2
nn.init.constant_(zoo.mask, 0.75)
zoo.ways['a'].weight.data.mul_(0.9)
zoo.ways['a'].weight.grad = None
zoo.load_state_dict(saved_zoo, strict=False)
zoo.eval(); h = zoo.norm(h); zoo.train()
zoo.seq.train(not zoo.seq.training)
handle = zoo.gate.register_forward_pre_hook(doubled); h = zoo.gate(h); handle.remove()
""".strip().splitlines()

CHANGES = """
zoo.items.append(fresh(3))
zoo.items[0] = fresh(3)
zoo.items = nn.ParameterList([fresh(3)])
zoo.items.extend([zoo.items[0]])
zoo.table['w'] = fresh(3)
zoo.table['u'] = fresh(1)
zoo.table.pop('v', None)
zoo.seq.append(nn.Sigmoid())
zoo.seq[1] = nn.ReLU()
zoo.seq.insert(1, nn.Tanh())
del zoo.seq[1]
zoo.seq = zoo.seq[:1]
zoo.ways['a'], zoo.ways['c'] = linear(), zoo.ways['a']
zoo.ways.pop('b', None)
zoo.ways['a'].weight = zoo.table['k'] = fresh(3, 3)
zoo.ways['a'].weight = zoo.seq[0].weight
zoo.ways['a'].bias = None
zoo.ways['a'].register_parameter('bias', fresh(3))
del zoo.mask; zoo.register_parameter('mask', fresh(3))
del zoo.mask; zoo.register_buffer('mask', flamec.rand(3, **W64))
if isinstance(zoo.mask, nn.Parameter): zoo.mask = nn.Parameter(zoo.mask.detach().clone())
if not isinstance(zoo.mask, nn.Parameter): zoo.mask = flamec.full((3,), 0.5, **W64)
zoo.norm.momentum = 0.5
zoo.norm.momentum = None
zoo.norm.eps = 0.01
zoo.norm.eval()
zoo.norm.reset_running_stats()
zoo.norm.running_mean = None; zoo.norm.running_var = None
zoo.norm = nn.BatchNorm1d(3, affine=False, **W64)
zoo.norm = nn.Identity()
zoo.drop.p = 0.5
zoo.drop.eval()
zoo.gate = Steep()
zoo.gate.bias = fresh(3)
zoo.gate.bound = 0.25
Gate.slope = 0.25
Steep.slope = 2.0
Steep.__bases__ = (Zoo,) if Steep.__bases__ == (nn.Module,) else (Gate,)
zoo.gate.__class__ = Steep
Gate.width = property(lambda self: self.bound * 3)
zoo.gate.forward = lambda h, *a, **k: h * 2
del zoo.gate.forward
zoo.gates.reverse()
zoo.gates.append(Gate())
zoo.eval()
zoo.train()
zoo.requires_grad_(False)
zoo.requires_grad_(True)
zoo.seq.requires_grad_(False)
zoo.apply(lambda m: setattr(m, 'slope', 1.25) if isinstance(m, Gate) else None)
zoo.load_state_dict(saved_zoo, strict=False)
zoo.load_state_dict({'mask': flamec.rand(3, **W64)}, strict=False, assign=True)
zoo.ways['a'].load_state_dict(cast.double().state_dict())
zoo = copy.deepcopy(zoo)
zoo.double()
cast.float()
cast.double()
cast.half()
cast = cast.to(flamec.bfloat16)
cast.to(flamec.float64)
flamec.set_default_dtype(flamec.float64)
flamec.set_default_dtype(flamec.float32)
flamec.set_grad_enabled(False)
flamec.set_grad_enabled(True)
flamec.set_grad_enabled(True)
tail.requires_grad_(True)
tail.requires_grad_(False)
tail = flamec.rand(4, 3, **W64)[2].requires_grad_()
tail.data = flamec.rand(3, **W64)
tail.grad = flamec.ones(3, **W64)
handles.append(zoo.ways['a'].register_forward_hook(noted))
handles.append(zoo.gate.register_forward_pre_hook(doubled))
handles.append(zoo.seq[0].register_forward_hook(hook_forward))
handles.append(zoo.items[0].register_post_accumulate_grad_hook(halved))
handles.append(zoo.ways['a'].register_full_backward_hook(scaled_back))
handles.append(zoo.register_forward_pre_hook(doubled, prepend=True))
if handles: handles.pop().remove()
if handles: handles.pop(0).remove()
opt3.param_groups[0]['weight_decay'] = 0.2
opt3.param_groups[1]['lr'] = 0.2
opt3.param_groups[2]['betas'] = (0.8, 0.8)
opt3.param_groups[0]['amsgrad'] = True
opt3.param_groups[0]['maximize'] = True
opt3.param_groups[0]['params'].pop()
opt3.add_param_group({'params': [fresh(3)], 'lr': 0.3})
opt3.load_state_dict(copy.deepcopy(saved_opt3)) if len(opt3.param_groups) == 3 else None
opt3.load_state_dict(opt3.state_dict())
opt3.state.clear()
opt3 = optim.SGD([{'params': p} for p in (zoo.parameters(), [fresh(1)], [tail])], 0.1, 0.9)
opt3.zero_grad(set_to_none=False)
warm.step()
cool.step()
plateau.step(2.0)
plateau.patience = 0
cool = optim.lr_scheduler.CosineAnnealingLR(opt3, 4)
cool.lr_lambdas = [lambda epoch: 0.5] * len(cool.lr_lambdas) if hasattr(cool, 'lr_lambdas') else 0
warm = optim.lr_scheduler.OneCycleLR(opt3, 0.1, total_steps=50)
""".strip().splitlines()
