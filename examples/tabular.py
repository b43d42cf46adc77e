"""Foretell the course of diabetes from a pandas frame, in a scikit-learn pipeline.

python examples/tabular.py
python examples/tabular.py --device cuda

scikit-learn's frame of 442 patients has a category (the sex) and numbers in various units, some of
which we lose on purpose. The pipeline fills in what is missing, scales numbers, makes columns of
categories and ends in flamec's NetworkRegressor, whose training step is one compiled program. The
last line printed is the share of variance explained (R squared) in five-fold cross validation.
"""

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from training import command_line

from flamec import nn
from flamec.sklearn import NetworkRegressor


def patients(seed=0):
    """The frame, in which one number in fifty is missing, and the course a year later."""
    frame, course = load_diabetes(as_frame=True, return_X_y=True, scaled=False)
    frame["sex"] = frame["sex"].map({1: "one", 2: "two"})
    numbers = frame.columns.drop("sex")
    missing = np.random.default_rng(seed).random((len(frame), len(numbers))) < 0.02
    frame[numbers] = frame[numbers].mask(missing)
    return frame, course


def columns(frame):
    """What makes a table of numbers from the frame."""
    numbers = frame.columns.drop("sex")
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return ColumnTransformer([("numbers", scaled, numbers), ("sex", OneHotEncoder(), ["sex"])])


def network(width):
    """The function that makes a network for tables with so many columns."""

    def module(inputs, outputs):
        return nn.Sequential(
            nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(0.3), nn.Linear(width, outputs)
        )

    return module


def main(arguments=None):
    """Compare three ways to foretell; returns the mean R squared of each."""
    options = command_line(__doc__.splitlines()[0], arguments, width=32, epochs=60, folds=5)
    frame, course = patients()
    print(frame.head(3).to_string())
    ways = {
        "the mean": DummyRegressor(),
        "a line": LinearRegression(),
        "a network": NetworkRegressor(
            network(options.width),
            epochs=options.epochs,
            batch_size=32,
            weight_decay=0.1,
            device=options.device,
            random_state=options.seed,
        ),
    }
    folds = KFold(options.folds, shuffle=True, random_state=options.seed)
    found = {}
    for name, way in ways.items():
        model = Pipeline([("columns", columns(frame)), ("way", way)])
        scores = cross_val_score(model, frame, course, cv=folds)
        found[name] = scores.mean()
        print(f"{name:10} R2 {scores.mean():6.3f} ({', '.join(f'{s:.2f}' for s in scores)})")
    print(f"R squared of the network: {found['a network']:.3f}")
    return found


if __name__ == "__main__":
    main()
