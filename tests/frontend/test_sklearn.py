"""Networks as scikit-learn estimators: scikit-learn's own checks, and what they do not ask."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import flamec
from flamec import nn
from flamec.sklearn import NetworkClassifier, NetworkRegressor


@parametrize_with_checks(
    [
        NetworkClassifier(hidden=(32,), epochs=30, random_state=0),
        NetworkRegressor(hidden=(32,), epochs=30, random_state=0),
    ]
)
def test_scikit_learn_s_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_iris_in_a_pipeline() -> None:
    """Names of classes, probabilities, cross validation, and a search over parameters."""
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    network = NetworkClassifier(hidden=(16,), epochs=100, random_state=0)
    model = make_pipeline(StandardScaler(), network)
    assert cross_val_score(model, x, names, cv=3).mean() > 0.9
    search = GridSearchCV(model, {"networkclassifier__epochs": [1, 100]}, cv=3).fit(x, names)
    assert search.best_params_ == {"networkclassifier__epochs": 100}
    chances = search.predict_proba(x)
    np.testing.assert_allclose(chances.sum(1), 1)
    classes = search.best_estimator_[-1].classes_
    np.testing.assert_array_equal(classes[chances.argmax(1)], search.predict(x))
    assert search.score(x, names) > 0.9


def test_a_module_of_ones_own() -> None:
    x, y = load_diabetes(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    network = NetworkRegressor(nn.Linear, epochs=60, learning_rate=0.02, random_state=0)
    network.fit(x, y)
    assert isinstance(network.module_, nn.Linear)
    best, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    exact = 1 - ((y - np.c_[x, np.ones(len(x))] @ best) ** 2).mean() / y.var()
    assert exact - 0.02 < network.score(x, y) < exact  # least squares is the best line
    assert clone(network).get_params() == network.get_params()


def test_several_targets_and_constant_ones() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 3))
    y = np.stack([100 + 50 * x[:, 0], x[:, 1] / 1000, np.full(300, 7.0)], axis=1)
    network = NetworkRegressor(hidden=(32,), epochs=60, random_state=0).fit(x, y)
    found = network.predict(x)
    assert found.shape == (300, 3)
    errors = np.abs(found - y).mean(0) / [50, 1 / 1000, 1]
    assert (errors < 0.1).all()


def test_partial_fit_goes_on() -> None:
    """Thirty calls are one fit of thirty epochs; the step is compiled once."""
    x, y = load_iris(return_X_y=True)
    whole = NetworkClassifier(hidden=(16,), epochs=12, random_state=3).fit(x, y)
    parts = NetworkClassifier(hidden=(16,), random_state=3)
    for _ in range(12):
        parts.partial_fit(x, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(parts.predict_proba(x), whole.predict_proba(x))
    assert parts.loss_curve_ == whole.loss_curve_ and len(parts.loss_curve_) == 12
    assert parts._step.stats.traces == 1
    with pytest.raises(ValueError, match="not among the classes"):
        parts.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="not those of the first call"):
        parts.partial_fit(x, y, classes=[0, 1])


def test_dropout_follows_the_random_state() -> None:
    x, y = load_iris(return_X_y=True)

    def module(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 16), nn.Dropout(0.5), nn.Linear(16, outputs))

    found = []
    for seed in (1, 1, 2):
        network = NetworkClassifier(module, epochs=3, random_state=seed).fit(x, y)
        found.append(network.predict_proba(x))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_the_program_s_random_numbers_are_left_alone() -> None:
    x, y = load_iris(return_X_y=True)
    flamec.manual_seed(0)
    expected = flamec.randn(3)
    flamec.manual_seed(0)
    NetworkClassifier(hidden=(4,), epochs=1).fit(x, y)
    assert flamec.equal(flamec.randn(3), expected)


def test_what_is_not_fitted_says_so() -> None:
    with pytest.raises(NotFittedError):
        NetworkRegressor().predict([[1.0]])


def test_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = load_iris(return_X_y=True)
    NetworkClassifier(hidden=(4,), epochs=2, verbose=True).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1"], ["epoch", "2"]]


def test_flamec_alone_does_not_import_scikit_learn() -> None:
    program = (
        "import sys, flamec\nassert 'sklearn' not in sys.modules\n"
        "flamec.sklearn.NetworkClassifier\nassert 'sklearn' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
