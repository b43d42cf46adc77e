"""Paths from which PyTorch's programs import, and the base classes that they test for."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

# a module, and names that programs import from it
PATHS = """
nn.modules.activation: ReLU GELU MultiheadAttention
nn.modules.adaptive: AdaptiveLogSoftmaxWithLoss _ASMoutput
nn.modules.batchnorm: BatchNorm2d LazyBatchNorm1d _BatchNorm _NormBase
nn.modules.channelshuffle: ChannelShuffle
nn.modules.container: Sequential ModuleList ModuleDict ParameterList ParameterDict
nn.modules.conv: Conv2d ConvTranspose3d LazyConv1d _ConvNd _ConvTransposeNd
nn.modules.distance: PairwiseDistance
nn.modules.dropout: Dropout AlphaDropout _DropoutNd
nn.modules.flatten: Flatten Unflatten
nn.modules.fold: Fold Unfold
nn.modules.instancenorm: InstanceNorm2d _InstanceNorm
nn.modules.linear: Linear Identity Bilinear LazyLinear NonDynamicallyQuantizableLinear
nn.modules.loss: CrossEntropyLoss CTCLoss _Loss _WeightedLoss
nn.modules.module: Module _IncompatibleKeys register_module_forward_hook
nn.modules.normalization: LayerNorm GroupNorm RMSNorm LocalResponseNorm
nn.modules.padding: ZeroPad2d ReflectionPad1d CircularPad3d _ConstantPadNd
nn.modules.pixelshuffle: PixelShuffle PixelUnshuffle
nn.modules.pooling: MaxPool2d AdaptiveAvgPool1d LPPool2d _MaxPoolNd _AdaptiveAvgPoolNd
nn.modules.rnn: LSTM GRU RNNBase LSTMCell RNNCellBase
nn.modules.sparse: Embedding EmbeddingBag
nn.modules.transformer: TransformerEncoderLayer Transformer _get_clones _get_activation_fn
nn.modules.upsampling: Upsample UpsamplingBilinear2d
nn.modules.utils: _single _pair _triple _quadruple _ntuple
nn.modules: Linear Conv2d Module CrossEntropyLoss
nn.common_types: _size_1_t _size_2_t _size_3_t _size_any_t
nn.parallel: DataParallel DistributedDataParallel
nn.parameter: Parameter Buffer UninitializedParameter UninitializedBuffer is_lazy
nn.utils.clip_grad: clip_grad_norm_ clip_grad_value_
nn.utils.convert_parameters: parameters_to_vector vector_to_parameters
nn.init: _calculate_fan_in_and_fan_out _calculate_correct_fan
optim.adam: Adam
optim.adamw: AdamW
optim.optimizer: Optimizer ParamsT required
optim.lr_scheduler: _LRScheduler LRScheduler
utils.data.dataset: Dataset IterableDataset TensorDataset ConcatDataset Subset random_split
utils.data.dataloader: DataLoader default_collate
utils.data.sampler: Sampler BatchSampler RandomSampler SubsetRandomSampler WeightedRandomSampler
utils.data.distributed: DistributedSampler
utils.hooks: RemovableHandle
utils.dlpack: from_dlpack
backends.cudnn: benchmark deterministic enabled
distributed: is_available is_initialized init_process_group destroy_process_group get_rank
distributions.utils: broadcast_all clamp_probs lazy_property logits_to_probs probs_to_logits
autograd.profiler: record_function
compiler: allow_in_graph cudagraph_mark_step_begin disable is_compiling reset
multiprocessing: Process Queue get_context set_start_method spawn
types: Device Number FileLike Size Tensor _device _dtype _size _TensorOrTensors
special: expit gammaln xlogy ndtr log_softmax
"""


@pytest.mark.parametrize("line", PATHS.strip().splitlines())
def test_names_can_be_imported(line: str) -> None:
    path, names = line.split(":")
    theirs = importlib.import_module(f"torch.{path}")
    mine = importlib.import_module(f"flamec.{path}")
    reached: Any = flamec
    for part in path.split("."):
        reached = getattr(reached, part)
    assert reached is mine
    for name in names.split():
        assert hasattr(theirs, name) and hasattr(mine, name), name


@pytest.mark.parametrize("package", [flamec, torch], ids=lambda p: p.__name__)
def test_base_classes_tell_layers_apart(package: Any) -> None:
    nn, files = package.nn, package.nn.modules
    layers = [
        nn.BatchNorm1d(2), nn.InstanceNorm2d(2), nn.Conv1d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1),
        nn.Linear(1, 1), nn.MSELoss(), nn.NLLLoss(), nn.Dropout2d(), nn.MaxPool1d(1),
        nn.AdaptiveAvgPool2d(1), nn.LayerNorm(2),
    ]  # fmt: skip
    found = [
        [
            isinstance(layer, base)
            for base in (
                files.batchnorm._BatchNorm, files.batchnorm._NormBase, files.conv._ConvNd,
                files.conv._ConvTransposeNd, files.instancenorm._InstanceNorm, files.loss._Loss,
                files.loss._WeightedLoss, files.dropout._DropoutNd, files.pooling._MaxPoolNd,
                files.pooling._AdaptiveAvgPoolNd,
            )
        ]
        for layer in layers
    ]  # fmt: skip
    assert ["".join(map(str, map(int, row))) for row in found] == [
        "1100000000", "0100100000", "0010000000", "0011000000", "0000000000", "0000010000",
        "0000011000", "0000000100", "0000000010", "0000000001", "0000000000",
    ]  # fmt: skip


@pytest.mark.parametrize("package", [flamec, torch], ids=lambda p: p.__name__)
def test_small_tools(package: Any) -> None:
    from_utils = package.nn.modules.utils
    assert from_utils._pair(3) == (3, 3) and from_utils._triple([1, 2, 3]) == (1, 2, 3)
    assert from_utils._ntuple(5)(0) == (0,) * 5
    clones = package.nn.modules.transformer._get_clones(package.nn.Linear(1, 2), 2)
    assert isinstance(clones, package.nn.ModuleList) and clones[0] is not clones[1]
    weight = package.ones(4, 3, 2)
    assert package.nn.init._calculate_fan_in_and_fan_out(weight) == (6, 8)
    assert package.nn.init._calculate_correct_fan(weight, "fan_out") == 8
    rates = package.optim.lr_scheduler
    assert issubclass(rates._LRScheduler, rates.LRScheduler)
    state = {"module.a": 1, "b": 2, "module.c": 3}
    from_utils.consume_prefix_in_state_dict_if_present(state, "module.")
    assert list(state.items()) == [("b", 2), ("a", 1), ("c", 3)]
    wrapped = package.nn.DataParallel(package.nn.Linear(3, 2))
    assert list(wrapped.state_dict()) == ["module.weight", "module.bias"]
    assert wrapped(package.ones(4, 3)).shape == (4, 2)
    package.backends.cudnn.benchmark = False
    assert not package.distributed.is_initialized()


@pytest.mark.parametrize("case", [(7, 3, False), (7, 3, True), (2, 5, False)])
def test_distributed_sampler(case: tuple[int, int, bool]) -> None:
    count, replicas, last = case

    def parts(package: Any) -> list[list[int]]:
        return [
            list(package.utils.data.DistributedSampler(range(count), replicas, r, False, 0, last))
            for r in range(replicas)
        ]

    assert parts(flamec) == parts(torch)
    sampler = flamec.utils.data.DistributedSampler(range(50), 1, 0, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(50)) and first == list(sampler) != list(range(50))
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_what_one_device_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match=r"init_process_group: flamec computes with one"):
        flamec.distributed.init_process_group("gloo")
    with pytest.raises(RuntimeError, match=r"DistributedDataParallel: flamec computes with one"):
        flamec.nn.parallel.DistributedDataParallel(flamec.nn.Linear(1, 1))
    assert not hasattr(flamec.distributed, "all")
    with pytest.raises(RuntimeError, match=r"one device, not on \[0, 1\]"):
        flamec.nn.DataParallel(flamec.nn.Linear(1, 1), device_ids=[0, 1])
    with pytest.raises(RuntimeError, match="give num_replicas and rank"):
        flamec.utils.data.DistributedSampler(range(3))
    with pytest.raises(ValueError, match="rank should be in"):
        flamec.utils.data.DistributedSampler(range(3), 2, 2)


SPECIAL = [
    "xlog1py(x, y)", "xlog1py(x, 0.5)", "ndtr(x)", "ndtri(u)", "expit(x)",
    "gammaln(y)", "psi(y)", "multigammaln(y + 2, 3)", "xlogy(x, y)", "logsumexp(x, 0)",
    "polygamma(1, y)",
]  # fmt: skip


@pytest.mark.parametrize("text", SPECIAL)
def test_special_functions_and_their_gradients(text: str) -> None:
    def run(package: Any) -> list[np.ndarray]:
        x = [0.0, 1.5, 0.3, 2.0, -1.0]
        leaves = {
            name: package.tensor(values, dtype=package.float64, requires_grad=True)
            for name, values in (("x", x), ("y", [0.5, 2.0, 1.0, 0.1, 3.0]), ("u", [0.1, 0.5, 0.9]))
        }
        result = eval(text, {**leaves, **vars(package.special)})
        (result * package.arange(1.0, result.numel() + 1)[: result.numel()]).sum().backward()
        grads = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
        return [t.detach().numpy() for t in (result, *grads)]

    # PyTorch's trigamma is exact to 5e-10
    for mine, theirs in zip(run(flamec), run(torch), strict=True):
        np.testing.assert_allclose(
            mine, theirs, rtol=1e-9, atol=1e-14
        )  # trigamma in PyTorch: 5e-10


def test_special_functions_refuse() -> None:
    with pytest.raises(RuntimeError, match="greater than or equal to 1"):
        flamec.special.multigammaln(flamec.ones(2), 0)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), 12])
def test_unravel_index(shape: Any) -> None:
    for values, dtype in (([3, 7, -1], "int64"), ([[0, 11]], "int32"), (5, "uint8")):
        mine, theirs = (
            p.unravel_index(p.tensor(values, dtype=getattr(p, dtype)), shape)
            for p in (flamec, torch)
        )
        assert [(t.tolist(), str(t.dtype)[-5:]) for t in mine] == [
            (t.tolist(), str(t.dtype)[-5:]) for t in theirs
        ]
    with pytest.raises(TypeError, match="expected 'indices' to be integer dtype"):
        flamec.unravel_index(flamec.tensor([1.0]), shape)


def test_tools_for_own_distributions() -> None:
    logits, probs = [[0.5, -2.0, 40.0]], [[0.0, 0.25, 1.0]]

    def outcome(package: Any) -> list[Any]:
        tools = package.distributions.utils

        class Own:
            @tools.lazy_property
            def value(self) -> list[int]:
                return []

        own = Own()
        assert own.value is own.value
        a, b = tools.broadcast_all(2, package.tensor([[1.0], [2.0]], dtype=package.float64))
        assert a.shape == b.shape == (2, 1) and a.dtype == package.float64
        with pytest.raises(ValueError, match="Number"):
            tools.broadcast_all("2", 3)
        found = [a, *(tools.logits_to_probs(package.tensor(logits), k) for k in (False, True))]
        found += [tools.probs_to_logits(package.tensor(probs), k) for k in (False, True)]
        return [t.tolist() for t in found]

    for mine, theirs in zip(outcome(flamec), outcome(torch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def _fail(place: int, bad: int) -> None:
    assert place != bad


def test_processes() -> None:
    assert flamec.multiprocessing.spawn(_fail, (5,), 2, start_method="fork") is None
    with pytest.raises(RuntimeError, match="of 2 processes failed 1 with exit code 1"):
        flamec.multiprocessing.spawn(_fail, (1,), 2, start_method="fork")
