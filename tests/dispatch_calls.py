"""Calls of SciPy and scikit-learn for arrays of any library, and how their results compare.

Run as a program (``python dispatch_calls.py scipy`` or ``sklearn``), because SciPy reads
its switch when it is imported: prints what differs between NumPy's arrays and flamec's tensors, a
line each, and last the number of results that were compared.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Call = Callable[..., Any]
Calls = dict[str, tuple[Call, list[np.ndarray]]]

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((30, 4)), RNG.standard_normal((30, 4))
P, WHOLE = RNG.uniform(0.05, 0.95, (30, 4)), RNG.integers(0, 5, 30)
W, LINE = np.abs(X) + 0.1, RNG.standard_normal(50)
GRID = np.linspace(0, 1, 11)


def scipy_calls() -> Calls:
    """Functions of SciPy that say that they take tensors of other libraries."""
    import scipy.cluster.hierarchy as hierarchy
    from scipy import (
        differentiate,
        integrate,
        interpolate,
        ndimage,
        optimize,
        signal,
        special,
        stats,
    )
    from scipy.cluster import vq
    from scipy.optimize import elementwise
    from scipy.spatial.transform import Rotation

    calls: Calls = {}

    def each(module: Any, names: str, *arrays: np.ndarray, **options: Any) -> None:
        for name in names.split():
            function = getattr(module, name)
            calls[f"{module.__name__}.{name}"] = (
                lambda *a, f=function: f(*a, **options),
                list(arrays),
            )

    each(
        special, "entr erf erfc exp1 expi expit gammaln i0 i0e i1 log_ndtr logit ndtr ndtri psi", P
    )
    each(special, "rel_entr xlogy chdtr chdtrc gammainc gammaincc stdtrit kl_div stdtr", W, P)
    each(special, "logsumexp softmax log_softmax", X, axis=1)
    each(special, "betainc", W, W + 1, P)
    each(stats, "gmean hmean entropy gstd gzscore", W)
    each(stats, "zscore skew kurtosis moment variation sem describe circmean circvar circstd", X)
    each(stats, "skewtest kurtosistest normaltest jarque_bera tvar tmin tmax tstd tsem iqr", X)
    each(stats, "median_abs_deviation differential_entropy", X)
    each(stats, "kstat kstatvar lmoment sigmaclip", LINE)
    each(stats, "mode", WHOLE)
    each(stats, "ttest_ind ttest_rel pearsonr mannwhitneyu wilcoxon ansari", X[:, 0], Y[:, 0])
    each(stats, "cramervonmises_2samp mood fligner levene epps_singleton_2samp", X[:, 0], Y[:, 0])
    each(stats, "f_oneway kruskal friedmanchisquare bartlett alexandergovern", *X.T[:3])
    each(stats, "power_divergence chisquare", W[:, 0])
    each(stats, "combine_pvalues false_discovery_control", P[:, 0])
    each(stats, "zmap", X, Y)
    each(stats, "ttest_1samp", X, np.array(0.1))
    each(stats, "quantile", LINE, np.array([0.1, 0.5, 0.9]))
    each(stats, "boxcox_llf", np.array(0.5), W[:, 0])
    each(vq, "whiten", X)
    each(vq, "vq kmeans", X, X[:3])
    tree = hierarchy.linkage(X, "ward")
    each(hierarchy, "linkage", X)
    each(hierarchy, "cophenet inconsistent leaves_list", tree)
    wave, taps, image = np.sin(LINE), np.array([0.2, 0.3, 0.2, 0.1]), X[:9]
    each(signal, "convolve correlate", wave, taps, method="direct")
    each(signal, "convolve2d", image, Y[:3, :3])
    each(signal, "lfilter filtfilt", taps, np.array([1.0, -0.2]), wave)
    each(signal, "medfilt detrend", wave)
    each(signal, "savgol_filter", wave, window_length=7, polyorder=2)
    each(signal, "upfirdn", taps, wave, up=2, down=3)
    each(signal, "resample_poly", wave, up=2, down=3)
    each(integrate, "trapezoid cumulative_trapezoid", GRID**2, GRID)
    each(optimize, "rosen rosen_der rosen_hess", X[0])
    each(ndimage, "gaussian_filter", image, sigma=1.0)
    each(ndimage, "median_filter", image, size=3)
    each(ndimage, "sobel", image)
    each(ndimage, "zoom", image, zoom=2)
    each(ndimage, "map_coordinates", image, 3 * P[:5, :2].T)

    def add(name: str, call: Call, *arrays: np.ndarray) -> None:
        calls[name] = call, list(arrays)

    one = np.ones(1)
    add("tanhsinh", lambda a, b: integrate.tanhsinh(lambda x: x**2, a, b).integral, 0 * one, one)
    add("derivative", lambda x: differentiate.derivative(lambda x: x**3, x).df, GRID[1:])
    add("jacobian", lambda x: differentiate.jacobian(lambda x: x**2, x).df, GRID[1:3])
    add("root", lambda a, b: elementwise.find_root(lambda x: x**3 - 2, (a, b)).x, 0 * one, 2 * one)
    add(
        "minimum",
        lambda a, b, c: elementwise.find_minimum(lambda x: (x - 1) ** 2, (a, b, c)).x,
        *(0 * one, one / 2, 3 * one),
    )
    points = GRID[::2] + 0.01
    add("bspline", lambda x, p: interpolate.make_interp_spline(x, x**3)(p), GRID, points)
    add("cubic", lambda x, p: interpolate.CubicSpline(x, x**3)(p), GRID, points)
    add("akima", lambda x, p: interpolate.Akima1DInterpolator(x, x**3)(p), GRID, points)
    add("rotated", lambda q, v: Rotation.from_quat(q).apply(v), X[:5], Y[:5, :3])
    add("matrices", lambda a: Rotation.from_euler("xyz", a).as_matrix(), X[:5, :3])
    add("mean rotation", lambda r: Rotation.from_rotvec(r).mean().as_quat(), X[:5, :3])
    return calls


def sklearn_calls() -> Calls:
    """Estimators and functions of scikit-learn that dispatch."""
    from sklearn import metrics, preprocessing
    from sklearn.datasets import load_iris, make_regression
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import (
        LogisticRegression,
        PoissonRegressor,
        Ridge,
        RidgeClassifier,
        RidgeCV,
    )
    from sklearn.metrics import pairwise
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline

    A, classes = load_iris(return_X_y=True)
    B, numbers = make_regression(60, 5, noise=1.0, random_state=0)
    calls: Calls = {}

    def add(name: str, call: Call, *arrays: np.ndarray) -> None:
        calls[name] = call, list(arrays)

    def each(module: Any, names: str, *arrays: np.ndarray, **options: Any) -> None:
        for name in names.split():
            function = getattr(module, name)
            add(name, lambda *a, f=function: f(*a, **options), *arrays)

    for name, data in (
        ("StandardScaler()", A), ("MinMaxScaler()", A), ("MaxAbsScaler()", A),
        ("Normalizer('l1')", A), ("Normalizer('max')", A), ("Binarizer(threshold=1.0)", A),
        ("PolynomialFeatures(2)", A), ("KernelCenterer()", A @ A.T),
    ):  # fmt: skip
        make = eval(f"lambda: preprocessing.{name}", {"preprocessing": preprocessing})
        add(name, lambda a, make=make: make().fit_transform(a), data)
        if hasattr(make(), "inverse_transform"):
            add(f"{name} back", lambda a, m=make: m().fit(a).inverse_transform(a), data)
    add("LabelEncoder", lambda y: preprocessing.LabelEncoder().fit_transform(y), classes)
    add("LabelBinarizer", lambda y: preprocessing.LabelBinarizer().fit_transform(y), classes)
    for solver in ("full", "covariance_eigh", "randomized"):

        def components(a: Any, solver: str = solver) -> Any:
            pca = PCA(2, svd_solver=solver, whiten=solver == "full", random_state=0).fit(a)
            back = pca.inverse_transform(pca.transform(a))
            return abs(pca.transform(a)), back, pca.explained_variance_ratio_, pca.singular_values_

        add(f"PCA {solver}", components, A)
    ridge, least = Ridge(solver="svd"), RidgeClassifier(solver="svd")
    tree = LinearDiscriminantAnalysis()
    add("LDA", lambda a, y: _classified(tree, a, y), A, classes)
    add("GaussianNB", lambda a, y: _classified(GaussianNB(), a, y), A, classes)
    add(
        "Logistic",
        lambda a, y: _classified(LogisticRegression(tol=1e-9, max_iter=2000), a, y),
        A,
        classes,
    )
    add("RidgeClassifier", lambda a, y: least.fit(a, y).decision_function(a), A, classes)
    for regressor in (ridge, RidgeCV(), PoissonRegressor(tol=1e-8)):
        target = np.abs(numbers) // 20
        add(
            type(regressor).__name__,
            lambda a, y, r=regressor: (r.fit(a, y).predict(a), r.coef_, r.score(a, y)),
            *(B, target),
        )

    def mixed(a: Any) -> Any:
        found = GaussianMixture(3, init_params="random", random_state=0).fit(a)
        return found.means_, found.covariances_, found.predict_proba(a), found.score_samples(a)

    add("GaussianMixture", mixed, A)
    add(
        "pipeline",
        lambda a, y: make_pipeline(preprocessing.StandardScaler(), tree).fit(a, y).predict(a),
        *(A, classes),
    )
    add(
        "grid",
        lambda a, y: GridSearchCV(ridge, {"alpha": [0.1, 9]}).fit(a, y).predict(a),
        B,
        numbers,
    )
    add("cross_val_predict", lambda a, y: cross_val_predict(tree, a, y), A, classes)
    add("split", lambda a, y: train_test_split(a, y, stratify=y, random_state=0), A, classes)
    guess = np.where(RNG.random(150) < 0.2, (classes + 1) % 3, classes)
    names = "accuracy_score balanced_accuracy_score cohen_kappa_score confusion_matrix hamming_loss"
    each(metrics, f"{names} zero_one_loss multilabel_confusion_matrix", classes, guess)
    each(metrics, "f1_score precision_score recall_score", classes, guess, average="macro")
    each(metrics, "jaccard_score", classes, guess, average="weighted")
    each(metrics, "fbeta_score", classes, guess, average="micro", beta=0.5)
    chance = RNG.dirichlet([1, 1, 1], 150)
    yes = (classes == 1).astype(int)
    each(metrics, "brier_score_loss log_loss average_precision_score", yes, chance[:, 1])
    each(metrics, "precision_recall_curve det_curve", yes, chance[:, 1])
    add("log_loss of 3", metrics.log_loss, classes, chance)
    near = np.abs(numbers) + 1, np.abs(numbers + RNG.standard_normal(60)) + 1
    names = "mean_absolute_error mean_squared_error root_mean_squared_error r2_score max_error"
    names += " explained_variance_score median_absolute_error mean_absolute_percentage_error"
    names += " mean_squared_log_error mean_pinball_loss mean_tweedie_deviance d2_pinball_score"
    each(metrics, f"{names} mean_poisson_deviance mean_gamma_deviance d2_tweedie_score", *near)
    names = "additive_chi2_kernel chi2_kernel cosine_similarity euclidean_distances"
    names += " laplacian_kernel linear_kernel manhattan_distances paired_cosine_distances"
    names += " paired_euclidean_distances polynomial_kernel rbf_kernel sigmoid_kernel"
    each(pairwise, f"{names} pairwise_distances pairwise_kernels", A[:20], A[20:40])
    return calls


def _classified(estimator: Any, a: Any, y: Any) -> Any:
    fitted = estimator.fit(a, y)
    return fitted.predict(a), fitted.predict_proba(a), fitted.score(a, y)


def _leaves(result: Any) -> Iterator[Any]:
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from _leaves(part)
    elif hasattr(result, "statistic"):
        yield from (result.statistic, result.pvalue)
    else:
        yield result


def differences(calls: Calls, tolerance: float, around: Any) -> Iterator[str]:
    """What is different with flamec's tensors; last how many results were compared."""
    import flamec
    from flamec import array_api

    count = 0
    for name, (call, arrays) in calls.items():
        wanted = list(_leaves(call(*arrays)))
        try:
            with around():
                found = list(_leaves(call(*map(array_api.asarray, arrays))))
        except Exception as error:
            yield f"{name}: {type(error).__name__}: {error}"
            continue
        for mine, theirs in zip(found, wanted, strict=True):
            count += 1
            if isinstance(theirs, np.ndarray) and not isinstance(mine, flamec.Tensor):
                yield f"{name}: {type(mine).__name__} instead of a tensor"
                continue
            array = mine.numpy() if isinstance(mine, flamec.Tensor) else np.asarray(mine)
            theirs = np.asarray(theirs)
            if isinstance(mine, flamec.Tensor) and array.dtype != theirs.dtype:
                yield f"{name}: {array.dtype} instead of {theirs.dtype}"
            elif array.shape != theirs.shape:
                yield f"{name}: shape {array.shape} instead of {theirs.shape}"
            elif not np.allclose(array, theirs, tolerance, tolerance, equal_nan=True):
                yield f"{name}: differs by {np.abs(array - theirs).max()}"
    yield str(count)


def main(package: str) -> None:
    """Print the differences of the calls of a package."""
    warnings.simplefilter("ignore")
    if package == "scipy":
        from contextlib import nullcontext

        lines = differences(scipy_calls(), 1e-8, nullcontext)
    else:
        from sklearn import config_context

        lines = differences(sklearn_calls(), 1e-5, lambda: config_context(array_api_dispatch=True))
    for line in lines:
        print(line)


if __name__ == "__main__":
    os.environ["SCIPY_ARRAY_API"] = "1"
    main(sys.argv[1])
