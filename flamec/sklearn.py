"""Networks as scikit-learn estimators: ``NetworkClassifier`` and ``NetworkRegressor``.

In: tables, as scikit-learn takes them (arrays, pandas frames of numbers). Out: estimators that keep
scikit-learn's contract (``sklearn.utils.estimator_checks.check_estimator``), and so work in its
pipelines, searches and validation. The whole training step is one compiled program, whatever the
number of rows in a batch. Needs scikit-learn: ``pip install 'flamec[sklearn]'``; it is imported
here and nowhere else, and ``import flamec`` does not import this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

import flamec
from flamec import nn, optim
from flamec.nn import functional as F
from flamec.nn.module import Module
from flamec.size_bounds import mark_dynamic
from flamec.tensor import Tensor

__all__ = ["NetworkClassifier", "NetworkRegressor"]


def perceptron(inputs: int, outputs: int, hidden: Sequence[int] = (64, 64)) -> Module:
    """Linear layers with relu between them: [N, inputs] to [N, outputs]."""
    layers: list[Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class _Network(BaseEstimator):  # type: ignore[misc]  # without types
    """What classifier and regressor have in common: parameters, training, outputs."""

    def __init__(
        self,
        module: Callable[[int, int], Module] | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.module = module
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _begin(self, outputs: int) -> None:
        """New weights, a new optimizer, an empty loss curve."""
        self._random = check_random_state(self.random_state)
        with self._seeded():
            inputs: int = self.n_features_in_
            if self.module is None:
                network = perceptron(inputs, outputs, self.hidden)
            else:
                network = self.module(inputs, outputs)
        self.module_ = network.to(self.device)
        self.optimizer_ = optim.AdamW(
            self.module_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        self.loss_curve_: list[float] = []
        self._step: Any = None

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """What modules draw here follows from ``random_state``; other random numbers are kept."""
        with flamec.fork_rng():
            flamec.manual_seed(int(self._random.randint(2**31)))
            yield

    def _train(self, table: np.ndarray, targets: np.ndarray, epochs: int) -> None:
        """Pass over the rows ``epochs`` times, in random order."""
        if self._step is None:
            self._step = self._compiled_step()
        self.module_.train()
        for _ in range(epochs):
            with self._seeded():
                losses = [self._step(*batch) for batch in self._batches(table, targets)]
            self.loss_curve_.append(float(np.mean([loss.item() for loss in losses])))
            if self.verbose:
                print(f"epoch {len(self.loss_curve_):4d}  loss {self.loss_curve_[-1]:.4f}")
        self.module_.eval()

    def _batches(self, *arrays: np.ndarray) -> Iterator[list[Tensor]]:
        """One epoch's, on the device; their number of rows is symbolic if the last has fewer."""
        count = len(arrays[0])
        ragged = count > self.batch_size and count % self.batch_size
        order = self._random.permutation(count)
        for start in range(0, count, self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = [flamec.from_numpy(array[rows]).to(self.device) for array in arrays]
            if ragged:
                for tensor in batch:
                    mark_dynamic(tensor, 0)
            yield batch

    def _compiled_step(self) -> Callable[..., Tensor]:
        network, optimizer, loss_of = self.module_, self.optimizer_, self._loss

        @flamec.compile
        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(network(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    @staticmethod
    def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def _outputs(self, X: Any) -> np.ndarray:
        """What the network gives for a table: [N, outputs], float64."""
        check_is_fitted(self)
        table = validate_data(self, X, dtype=np.float32, reset=False)
        with flamec.no_grad():
            outputs = self.module_(flamec.tensor(table, device=self.device))
        return outputs.cpu().numpy().astype(np.float64)

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled step, which is made again when it is needed."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_step": None} if "_step" in state else state


class NetworkClassifier(ClassifierMixin, _Network):  # type: ignore[misc]  # without types
    """A network that tells classes apart, trained on the cross entropy.

    Parameters
    ----------
    module: a function of (inputs, outputs) that makes the network, a module from [N, inputs] to
        [N, outputs]; None for a perceptron with inner layers of the widths ``hidden``.
    hidden: those widths.
    epochs: passes of ``fit`` over the rows; ``partial_fit`` makes one.
    batch_size: rows in a step; the last batch of an epoch may be smaller.
    learning_rate, weight_decay: of AdamW.
    device: where the network computes, "cpu" or "cuda".
    random_state: an integer, a RandomState or None: where initial weights, the order of rows and
        what the network draws (dropout) come from.
    verbose: print the mean loss of each epoch.

    Attributes of a fitted one: ``classes_``, which the columns of ``predict_proba`` follow;
    ``module_``; ``optimizer_``; ``loss_curve_``, the mean loss of each epoch; ``n_features_in_``
    and ``feature_names_in_`` as everywhere in scikit-learn. Tables are taken in float32, and
    should be scaled before (``StandardScaler``).
    """

    def fit(self, X: Any, y: Any) -> NetworkClassifier:
        """Train a new network on a table [N, inputs] and labels [N]."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        return self._fit(X, y, np.unique(y), self.epochs, begin=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> NetworkClassifier:
        """Train the network once more over the rows; the first call makes it.

        ``classes`` lists all labels that will ever come; without it they are those of the first
        call. ValueError for labels that are not among them.
        """
        begin = not hasattr(self, "module_")
        X, y = validate_data(self, X, y, dtype=np.float32, reset=begin)
        known = np.unique(y if classes is None else classes) if begin else self.classes_
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(f"classes {classes} are not those of the first call, {known}")
        return self._fit(X, y, known, 1, begin)

    def _fit(self, X: Any, y: Any, classes: Any, epochs: int, begin: bool) -> NetworkClassifier:
        check_classification_targets(y)
        unknown = np.setdiff1d(y, classes)
        if unknown.size:
            raise ValueError(f"labels {unknown} are not among the classes {classes}")
        if begin:
            self.classes_ = classes
            self._begin(len(classes))
        self._train(X, np.searchsorted(classes, y).astype(np.int64), epochs)
        return self

    @staticmethod
    def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class [N, classes]; rows sum to 1."""
        logits = self._outputs(X)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        result: np.ndarray = chances / chances.sum(axis=1, keepdims=True)
        return result

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each row [N]."""
        likeliest = self._outputs(X).argmax(axis=1)
        result: np.ndarray = self.classes_[likeliest]
        return result


class NetworkRegressor(RegressorMixin, _Network):  # type: ignore[misc]  # without types
    """A network that foretells numbers, trained on the square error.

    Parameters and attributes are those of ``NetworkClassifier``, without ``classes_``. Targets are
    [N] or [N, targets]. Inside, the network sees them less their mean, over their standard
    deviation, each taken from the rows of the first call (``target_mean_``, ``target_scale_``).
    """

    def fit(self, X: Any, y: Any) -> NetworkRegressor:
        """Train a new network on a table [N, inputs] and targets."""
        return self._fit(X, y, self.epochs, begin=True)

    def partial_fit(self, X: Any, y: Any) -> NetworkRegressor:
        """Train the network once more over the rows; the first call makes it."""
        return self._fit(X, y, 1, begin=not hasattr(self, "module_"))

    def _fit(self, X: Any, y: Any, epochs: int, begin: bool) -> NetworkRegressor:
        X, y = validate_data(
            self, X, y, dtype=np.float32, reset=begin, multi_output=True, y_numeric=True
        )
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        if begin:
            self.target_mean_ = columns.mean(axis=0)
            spread = columns.std(axis=0)
            self.target_scale_ = np.where(spread > 0, spread, 1.0)
            self._shape = y.shape[1:]
            self._begin(columns.shape[1])
        if y.shape[1:] != self._shape:
            raise ValueError(f"targets have shape {y.shape}, but were [N, *{self._shape}] before")
        scaled = (columns - self.target_mean_) / self.target_scale_
        self._train(X, scaled.astype(np.float32), epochs)
        return self

    @staticmethod
    def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def predict(self, X: Any) -> np.ndarray:
        """The targets of each row, in the shape that ``fit`` was given."""
        columns = self._outputs(X) * self.target_scale_ + self.target_mean_
        return columns.reshape(len(columns), *self._shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
