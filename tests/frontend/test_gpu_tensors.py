"""Tensors on a GPU behave as on the CPU: values, views, writes, random numbers, autograd."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec import nn, optim
from flamec.errors import OperationError
from flamec.ir.types import Device


def both(function: Any, *arrays: np.ndarray, gpu: Device, **tolerance: float) -> flamec.Tensor:
    """The result on the GPU, which must be that on the CPU."""
    there = function(*(flamec.tensor(a, device=gpu) for a in arrays))
    here = function(*(flamec.tensor(a) for a in arrays))
    assert there.device == gpu
    assert (there.dtype, there.shape) == (here.dtype, here.shape)
    np.testing.assert_allclose(
        there.detach().cpu().numpy().astype(np.float64),
        here.detach().numpy().astype(np.float64),
        **{"rtol": 2e-6, "atol": 1e-6, **tolerance},
    )
    result: flamec.Tensor = there
    return result


X = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
CUBE = np.arange(3 * 4 * 6, dtype=np.float32).reshape(3, 4, 6)


def test_creation_and_transfer(gpu: Device) -> None:
    x = flamec.tensor([[1, 2], [3, 4]], device=gpu)
    assert x.device == gpu and x.is_cuda and x.dtype is flamec.int64
    assert x.cpu().device == Device("cpu") and x.cpu().tolist() == [[1, 2], [3, 4]]
    assert x.to(gpu) is x and x.cuda() is x and x.cpu().cpu().device == Device("cpu")
    assert flamec.zeros(2, 3, device="cuda").device == gpu
    assert flamec.ones_like(x).device == gpu and x.new_zeros(2).device == gpu
    assert flamec.arange(5, device="cuda:0").tolist() == [0, 1, 2, 3, 4]
    assert flamec.eye(2, device=0).cpu().tolist() == [[1, 0], [0, 1]]
    assert x.to("cpu", flamec.float32).dtype is flamec.float32
    assert x.float().to(flamec.tensor(1, dtype=flamec.float64)).device == Device("cpu")
    assert flamec.full((2,), 7, device=gpu).tolist() == [7, 7]
    assert flamec.zeros(0, 3, device=gpu).sum(0).tolist() == [0, 0, 0]
    assert flamec.as_tensor(np.ones(3), device=gpu).sum().item() == 3


CREATED: dict[str, Any] = {
    "linspace": lambda d: flamec.linspace(0, 1, 5, device=d),
    "linspace of tensors": lambda d: flamec.linspace(0, flamec.tensor(1.0), 5, device=d),
    "logspace": lambda d: flamec.logspace(0, 2, 5, device=d),
    "eye": lambda d: flamec.eye(3, 2, device=d),
    "arange": lambda d: flamec.arange(5, device=d),
    "tril_indices": lambda d: flamec.tril_indices(3, 3, device=d),
    "triu_indices": lambda d: flamec.triu_indices(3, 3, device=d),
    "full": lambda d: flamec.full((2,), 1.5, device=d),
    "rand": lambda d: flamec.rand(3, device=d),
    "randint": lambda d: flamec.randint(0, 9, (30,), device=d),
    "randperm": lambda d: flamec.randperm(9, device=d),
    "normal": lambda d: flamec.normal(0.0, 1.0, (3,), device=d),
    "normal of tensors": lambda d: flamec.normal(flamec.zeros(3, device=d)),
    "multinomial": lambda d: flamec.multinomial(flamec.arange(1.0, 9.0, device=d), 3),
    "multinomial, replaced": lambda d: flamec.multinomial(flamec.ones(8, device=d), 9, True),
    "bernoulli": lambda d: flamec.bernoulli(flamec.full((9,), 0.5, device=d)),
    "new_ones": lambda d: flamec.zeros(2, device=d).new_ones(3),
    "rand_like": lambda d: flamec.rand_like(flamec.zeros(3, device=d)),
    "zeros_like": lambda d: flamec.zeros_like(flamec.zeros(3), device=d),
    "one_hot": lambda d: flamec.nn.functional.one_hot(flamec.tensor([1, 0], device=d)),
}


@pytest.mark.parametrize("name", CREATED)
def test_what_is_made_on_a_gpu_is_what_the_cpu_makes(name: str, gpu: Device) -> None:
    made = []
    for device in ("cpu", gpu):
        flamec.manual_seed(5)
        made.append(CREATED[name](device))
    assert made[1].device == gpu
    np.testing.assert_allclose(made[1].cpu().numpy(), made[0].numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1],
        lambda x: x[:, 2],
        lambda x: x[1:, ::2],
        lambda x: x[None, ..., 1:3],
        lambda x: x.transpose(0, 2),
        lambda x: x.permute(2, 0, 1)[1:],
        lambda x: x.reshape(12, 6),
        lambda x: x.transpose(0, 1).reshape(12, 6),
        lambda x: x.flip(1),
        lambda x: x.diagonal(0, 1, 2),
        lambda x: x[:1].expand(5, 4, 6),
        lambda x: x.unfold(2, 2, 3),
        lambda x: x[0, 0, 0],
        lambda x: x[:0],
    ],
)
def test_views_are_read_as_they_lie(gpu: Device, view: Any) -> None:
    both(lambda x: view(x).contiguous(), CUBE, gpu=gpu)
    both(lambda x: view(x) * 2 + 1, CUBE, gpu=gpu)
    both(lambda x: view(x).sum(), CUBE, gpu=gpu)


def test_views_share_memory(gpu: Device) -> None:
    x = flamec.zeros(4, 6, device=gpu)
    row, column = x[1], x.t()[2]
    assert row.data_ptr() == x.data_ptr() + 24 and not column.is_contiguous()
    row.fill_(1)
    column.add_(10)
    x[2:, 4:] = flamec.tensor([5.0, 6.0], device=gpu)
    expected = np.zeros((4, 6))
    expected[1] = 1
    expected[:, 2] += 10
    expected[2:, 4:] = [5, 6]
    assert x.tolist() == expected.tolist()
    assert row.tolist() == expected[1].tolist()


def test_a_write_over_its_own_source(gpu: Device) -> None:
    x = flamec.arange(10, device=gpu)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    y = flamec.arange(9, device=gpu).reshape(3, 3)
    y.copy_(y.t())
    assert y.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_indexing(gpu: Device) -> None:
    index = np.array([2, 0, -1])
    both(lambda x, i: x[i], X, index, gpu=gpu)
    both(lambda x, i: x[:, i], X, index, gpu=gpu)
    both(lambda x: x[flamec.tensor([1, 0])], X, gpu=gpu)  # indices on the CPU are copied
    both(lambda x: x[flamec.tensor(X[:, 0] > 0), 1:], X, gpu=gpu)
    both(lambda x: x[x > 0], X, gpu=gpu)
    both(lambda x: flamec.nonzero(x > 1), X, gpu=gpu)
    both(lambda x, i: x.gather(1, i[:, None]), X[:3], np.array([2, 0, 6]), gpu=gpu)

    def assigned(x: flamec.Tensor, i: flamec.Tensor) -> flamec.Tensor:
        y = x.clone()
        y[i] = 1
        y[y < 0] = 0
        return y.index_add(0, i.abs(), x[: len(index)])

    both(assigned, X, index, gpu=gpu)


def test_operations_of_all_kinds(gpu: Device) -> None:
    both(lambda x: flamec.softmax(x, 1), X, gpu=gpu)
    both(lambda x: x.cumsum(0), X, gpu=gpu)
    both(lambda x: flamec.cat([x, x.t()[:, :5].t()], 1), X, gpu=gpu)
    both(lambda x: x @ x.t(), X, gpu=gpu)
    both(lambda x: flamec.einsum("ij,kj->ik", x, x), X, gpu=gpu)
    both(lambda x: x.half() * 2, X, gpu=gpu, rtol=1e-3)
    both(lambda x: x.bfloat16().sum(1), X, gpu=gpu, rtol=1e-2, atol=1e-2)
    both(lambda x: x.argmax(1), X, gpu=gpu)
    both(lambda x: (x > 0) & (x < 1), X, gpu=gpu)
    both(lambda x: nn.functional.layer_norm(x, (7,)), X, gpu=gpu)
    both(lambda x: flamec.where(x > 0, x, 0.0), X, gpu=gpu)
    both(lambda x: x.std(0), X, gpu=gpu)


def test_random_numbers_are_those_of_the_cpu(gpu: Device) -> None:
    for draw in (
        lambda d: flamec.rand(7, 3, device=d),
        lambda d: flamec.randn(7, 3, device=d),
        lambda d: flamec.randint(0, 100, (9,), device=d),
        lambda d: flamec.randint(-3, 10, (4, 5), dtype=flamec.int32, device=d),
        lambda d: flamec.rand(2, 3, dtype=flamec.float64, device=d),
        lambda d: flamec.randn_like(flamec.ones(3, 5, dtype=flamec.float64, device=d)),
        lambda d: flamec.rand(0, 3, device=d),
        lambda d: flamec.normal(flamec.zeros(4, device=d), flamec.ones(4, device=d)),
        lambda d: nn.init.normal_(flamec.empty(6, 2, device=d), 1.0, 0.5),
        lambda d: flamec.randperm(10, device=d),
        lambda d: nn.functional.dropout(flamec.ones(50, device=d), 0.5),
        lambda d: flamec.empty(5, device=d).uniform_(2, 3),
        lambda d: flamec.bernoulli(flamec.full((20,), 0.5, device=d)),
    ):
        results = []
        for device in (Device("cpu"), gpu):
            flamec.manual_seed(5)
            drawn = [draw(device).cpu().numpy() for _ in range(2)]
            results.append([*drawn, flamec.random.generator_of(device).get_state().numpy()])
        for here, there in zip(*results, strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)
    generator = flamec.Generator(gpu).manual_seed(3)
    state = generator.get_state()
    first = flamec.rand(4, device=gpu, generator=generator)
    generator.set_state(state)
    assert flamec.rand(4, device=gpu, generator=generator).tolist() == first.tolist()
    with pytest.raises(OperationError, match="generator on cuda:0, but it is on cpu"):
        flamec.rand(4, device=gpu, generator=flamec.Generator())
    flamec.manual_seed(1)
    with flamec.fork_rng():
        inside = flamec.rand(3, device=gpu).tolist()
    assert flamec.rand(3, device=gpu).tolist() == inside


def test_autograd(gpu: Device) -> None:
    x = flamec.tensor(X, device=gpu, requires_grad=True)
    y = flamec.tensor(X, requires_grad=True)
    z = (x.tanh() @ y.to(gpu).t()).sum()
    z.backward()
    assert x.grad is not None and x.grad.device == gpu
    assert y.grad is not None and y.grad.device == Device("cpu")
    a = flamec.tensor(X, requires_grad=True)
    b = flamec.tensor(X, requires_grad=True)
    (a.tanh() @ b.t()).sum().backward()
    np.testing.assert_allclose(x.grad.cpu().numpy(), a.grad.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_scalars_of_the_cpu_may_stand_beside_arrays_of_a_gpu(gpu: Device) -> None:
    x = flamec.tensor([1.0, 2.0], device=gpu)
    assert (x * flamec.tensor(3.0)).tolist() == [3, 6]
    assert (flamec.tensor(1) + x).device == gpu
    assert flamec.where(x > 1, x, flamec.tensor(0.0)).tolist() == [0, 2]
    x.add_(flamec.tensor(1.0))
    assert x.tolist() == [2, 3]
    x[0] = flamec.tensor(9.0)
    assert x.tolist() == [9, 3]


def test_arrays_of_two_devices_are_refused(gpu: Device) -> None:
    x, y = flamec.ones(2, 2, device=gpu), flamec.ones(2, 2)
    with pytest.raises(OperationError, match=r"add: .*cuda:0 and cpu.*test_gpu_tensors\.py"):
        x + y
    with pytest.raises(OperationError, match="different devices"):
        x @ y
    with pytest.raises(TypeError, match=r"can't convert cuda:0 .* Use Tensor.cpu\(\)"):
        x.numpy()
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        np.asarray(x)


def test_a_tensor_on_the_cpu_is_not_read_at_indices_on_a_gpu(gpu: Device) -> None:
    at, mask = flamec.tensor([2, 0], device=gpu), flamec.tensor([True, False, True], device=gpu)

    def assigned(x: flamec.Tensor, index: Any) -> flamec.Tensor:
        x[index] = 5.0
        return x

    def put(x: flamec.Tensor, index: Any) -> flamec.Tensor:
        return x.index_put((index,), flamec.tensor(5.0))

    for index in (at, mask):
        for function in (lambda x, i: x[i], lambda x, i: x[None, ..., i]):
            for call in (function, flamec.compile(function)):
                with pytest.raises(OperationError, match=r"indices must be on .* cpu; .* cuda:0"):
                    call(flamec.arange(3.0), index)
        for function in (assigned, put):
            for call in (function, flamec.compile(function)):
                assert call(flamec.arange(3.0), index).tolist() == [5, 1, 5]
    assert flamec.arange(3.0)[at[0]].item() == 2  # a place without dimensions is a number
    there = flamec.arange(3.0, device=gpu)
    assert there[at.cpu()].tolist() == [2, 0] and there[mask.cpu()].tolist() == [0, 2]


def test_few_points_near_each_other_keep_their_distances(gpu: Device) -> None:
    """The product of many rows would lose them; whether there are many is asked of sizes."""
    points = np.random.default_rng(0).standard_normal((8, 1)).astype(np.float32) * 1e-3 + 1
    apart = np.abs(points.astype(np.float64) - points[:, 0])
    x = flamec.tensor(points, device=gpu)
    compiled = flamec.compile(lambda x: flamec.cdist(x, x), dynamic=True)
    for found in (flamec.cdist(x, x), compiled(x.cpu()), compiled(x.cpu())):
        np.testing.assert_allclose(found.cpu().numpy(), apart, rtol=1e-3, atol=1e-7)
    compiled(flamec.ones(40, 1))
    compiled(flamec.ones(30, 1))
    assert compiled.stats.traces == 2


def test_a_composite_of_a_broadcast_array_asks_no_shape_rule_again(gpu: Device) -> None:
    """What its trace found out of sizes holds for arrays that lie otherwise, too."""
    x = flamec.tensor([7], device=gpu).expand(4096)
    assert x.unique().tolist() == [7]
    assert flamec.unique_consecutive(x, return_counts=True)[1].tolist() == [4096]


def test_printing_copies_and_pickles(gpu: Device) -> None:
    x = flamec.tensor([1.0, 2.5], device=gpu)
    assert repr(x) == "tensor([1.0000, 2.5000], device='cuda:0')"
    assert f"{x[1]:.2f}" == "2.50" and float(x[0]) == 1.0 and bool(x[0] == 1)
    restored = pickle.loads(pickle.dumps(x))
    assert restored.device == gpu and restored.tolist() == [1, 2.5]
    model = nn.Linear(3, 2).to(gpu)
    twin = copy.deepcopy(model)
    twin.weight.data.zero_()
    assert twin.weight.device == gpu and bool((model.weight != 0).any())
    view = copy.deepcopy(flamec.arange(6, device=gpu).reshape(2, 3)[1])
    assert view.tolist() == [3, 4, 5]


def _training(device: Device, compiled: bool, optimizer: Any) -> list[float]:
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))
    model.to(device)
    steps = optimizer(model.parameters())
    x = flamec.randn(12, 6).to(device)
    y = flamec.randint(0, 3, (12,)).to(device)

    def step(x: flamec.Tensor, y: flamec.Tensor) -> flamec.Tensor:
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        steps.step()
        return loss

    run = flamec.compile(step) if compiled else step
    losses = []
    for turn in range(5):
        steps.param_groups[0]["lr"] = 0.05 / (turn + 1)
        losses.append(run(x, y).item())
    if compiled:
        assert run.stats.traces == 1  # type: ignore[attr-defined]
    return losses


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: optim.Adam(p, lr=0.05),
        lambda p: optim.AdamW(p, lr=0.05, amsgrad=True),
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    ],
)
def test_training_follows_the_cpu(gpu: Device, optimizer: Any) -> None:
    expected = _training(Device("cpu"), False, optimizer)
    for compiled in (False, True):
        losses = _training(gpu, compiled, optimizer)
        np.testing.assert_allclose(losses, expected, rtol=2e-4)
    assert expected[-1] < expected[0]


def test_compiled_functions_over_two_devices(gpu: Device) -> None:
    weights = flamec.arange(3, dtype=flamec.float32)
    count = flamec.zeros(())

    @flamec.compile
    def f(x: flamec.Tensor, scale: flamec.Tensor) -> Any:
        count.add_(1)
        y = x * weights.to(gpu) + scale
        return y, y.sum().cpu(), count * 2

    for turn in range(1, 4):
        x = flamec.full((2, 3), float(turn), device=gpu)
        y, total, doubled = f(x, flamec.tensor(0.5))
        expected = turn * np.arange(3) + 0.5
        assert y.device == gpu and y.tolist() == [expected.tolist()] * 2
        assert total.device == Device("cpu") and total.item() == 2 * expected.sum()
        assert doubled.item() == 2 * turn and count.item() == turn
    assert f.stats.traces == 1


def test_compiled_functions_keep_outputs_and_take_views(gpu: Device) -> None:
    f = flamec.compile(lambda x: (x * 2, x.t() + 1))
    x = flamec.arange(20, dtype=flamec.float32, device=gpu)
    held = [f(x[i : i + 6].reshape(2, 3)) for i in range(10)]
    for i, (double, added) in enumerate(held):
        block = np.arange(i, i + 6).reshape(2, 3)
        assert double.tolist() == (2 * block).tolist()
        assert added.tolist() == (block.T + 1).tolist()
    strided = x[::2].reshape(2, 5)[:, 1:4]
    assert f(strided)[0].tolist() == (2 * strided.cpu()).tolist()
    assert f.stats.traces == 1


def test_compiled_writes_and_random_numbers(gpu: Device) -> None:
    @flamec.compile
    def noisy(x: flamec.Tensor) -> flamec.Tensor:
        x[:, 1:].mul_(2)
        return x + flamec.rand(2, 3, device=gpu)

    flamec.manual_seed(2)
    x = flamec.ones(2, 3, device=gpu)
    results = [noisy(x).cpu() for _ in range(2)]
    flamec.manual_seed(2)
    y = flamec.ones(2, 3)
    for result in results:
        y[:, 1:].mul_(2)
        np.testing.assert_allclose(result.numpy(), (y + flamec.rand(2, 3)).numpy(), rtol=1e-6)
    assert x.tolist() == y.tolist()


def test_gradients_through_a_compiled_function(gpu: Device) -> None:
    model = nn.Linear(4, 2).to(gpu)
    compiled = flamec.compile(model)
    x = flamec.tensor(np.arange(12).reshape(3, 4), dtype=flamec.float32, device=gpu)
    gradients = []
    for forward in (model, compiled):
        model.zero_grad()
        forward(x).square().sum().backward()
        gradients.append(model.weight.grad.cpu().numpy())
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5)


# without a real GPU -----------------------------------------------------------------------


def test_a_new_size_makes_no_new_program(simulated: list[SimulatedGpu]) -> None:
    (first, _) = simulated
    x = flamec.rand(1000, 37, device="cuda") + flamec.zeros(37, device="cuda")
    (x * 2 + x.exp()).sum(1)
    made = len(first.prepared)
    assert made > 0
    for rows, columns in ((1001, 37), (700, 41), (555, 33)):
        y = flamec.rand(rows, columns, device="cuda") + flamec.zeros(columns, device="cuda")
        assert (y * rows + y.exp()).sum(1).shape == (rows,)
    assert len(first.prepared) == made


def test_two_gpus(simulated: list[SimulatedGpu]) -> None:
    x, y = flamec.ones(3, device="cuda:0"), flamec.ones(3, device="cuda:1")
    with pytest.raises(OperationError, match="cuda:0 and cuda:1"):
        x + y
    assert (x.to("cuda:1") + y).device == Device("cuda", 1)
    assert flamec.Tensor.get_device(y) == 1
    assert y.copy_(x * 5).tolist() == [5, 5, 5]


def test_a_gpu_that_is_not_there(simulated: list[SimulatedGpu]) -> None:
    with pytest.raises(OperationError, match=r"zeros\(\): device cuda:2 .* has 2 GPUs"):
        flamec.zeros(1, device="cuda:2")
    with pytest.raises(RuntimeError, match="Expected one of cpu, cuda"):
        flamec.zeros(1, device="tpu")


@pytest.mark.parametrize(
    "shape", [(5000,), (3, 41, 50), (1, 1024), (2048, 2), (0, 7), (7, 1500), (3100,)]
)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.7, 1.0])
def test_true_elements_are_found_on_the_device(
    shape: tuple[int, ...], share: float, gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reads how many there are, and nothing else."""
    monkeypatch.setattr("flamec.functional.true_places.LEAST_ELEMENTS", 0)
    monkeypatch.setattr("flamec.functional.true_places._MANY", 4)  # 3100 is filled up to as many
    monkeypatch.setattr("flamec.functional.masking.concrete_array", None)
    rng = np.random.default_rng(0)
    array = np.where(rng.random(shape) < share, rng.standard_normal(shape), 0).astype(np.float32)
    x = flamec.tensor(array, device=gpu)
    assert flamec.nonzero(x).device == gpu
    np.testing.assert_array_equal(flamec.nonzero(x).cpu().numpy(), np.argwhere(array))
    for found, wanted in zip(flamec.nonzero(x, as_tuple=True), np.nonzero(array), strict=True):
        np.testing.assert_array_equal(found.cpu().numpy(), wanted)
    source = flamec.tensor(np.arange(array.size).reshape(shape) * 0.5, device=gpu)
    source.requires_grad_()
    chosen = flamec.masked_select(source, x != 0)
    np.testing.assert_array_equal(
        chosen.detach().cpu().numpy(), source.detach().cpu().numpy()[array != 0]
    )
    chosen.sum().backward()
    np.testing.assert_array_equal(source.grad.cpu().numpy(), (array != 0).astype(np.float64))
    with flamec.no_grad():
        copies = flamec.masked_select(source, x != 0), source[x != 0]
    for tensor in (chosen, *copies):  # nothing of the memory behind the elements is kept
        assert copy.deepcopy(tensor.detach_())._storage.base.shape == tensor.shape


def test_a_mask_that_is_broadcast_on_the_device(
    gpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flamec.functional.true_places.LEAST_ELEMENTS", 0)
    x, mask = np.arange(12.0).reshape(3, 4), np.array([[True], [False], [True]])
    found = flamec.tensor(x, device=gpu).t()[flamec.tensor(mask, device=gpu).t().expand(4, 3)]
    np.testing.assert_array_equal(found.cpu().numpy(), x.T[np.broadcast_to(mask.T, (4, 3))])
    chosen = flamec.masked_select(flamec.tensor(x, device=gpu), flamec.tensor(mask, device=gpu))
    np.testing.assert_array_equal(chosen.cpu().numpy(), x[[0, 2]].ravel())


def test_a_state_dict_is_loaded_across_devices(gpu: Device) -> None:
    """A checkpoint on the CPU into a module on a GPU, and back; the optimizer's state follows."""
    here, there = nn.BatchNorm1d(3), nn.BatchNorm1d(3).to(gpu)
    for i, tensor in enumerate(here.state_dict().values()):
        tensor.fill_(i + 1)
    there.load_state_dict(here.state_dict())
    assert {t.device for t in there.state_dict().values()} == {gpu}
    assert [t.tolist() for t in there.state_dict().values()] == [
        [1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3, 5,
    ]  # fmt: skip
    there.weight.data.fill_(7.0)
    here.load_state_dict(there.state_dict())
    assert here.weight.tolist() == [7.0] * 3 and here.weight.device.type == "cpu"
    first = optim.Adam(here.parameters())
    here(flamec.ones(2, 3)).sum().backward()
    first.step()
    second = optim.Adam(there.parameters())
    second.load_state_dict(first.state_dict())
    moments = second.state[there.weight]
    assert moments["exp_avg"].device == gpu and moments["step"].item() == 1
