"""Representational similarity equals scipy, sklearn and hand cases, and keeps its invariants."""

import math
import re

import numpy as np
import pytest
import torch
from gaussian import gaussian, related, rotation
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold

from xsub_utils.similarity import rsa as rsa_module
from xsub_utils.similarity.rsa import RegressionScores, rsa, rsa_regress


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("method", "correlate"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_rsa_equals_scipy(distance, method, correlate):
    x, y = related()
    expected = correlate(pdist(x.numpy(), distance), pdist(y.numpy(), distance)).statistic
    assert 0.1 < expected < 0.9
    assert rsa(x, y, distance=distance, method=method) == pytest.approx(expected, abs=1e-12)
    assert rsa(x.float(), y.float(), distance=distance, method=method) == pytest.approx(expected, abs=1e-4)


def test_rsa_by_hand():
    x, y = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.0], [2], [3]])
    # Distances 1, 3, 2 and 2, 3, 1: deviations -1, 1, 0 and 0, 1, -1, hence 1 / 2.
    assert rsa(x, y, distance="euclidean") == pytest.approx(0.5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_rsa_heeds_neither_rotation_nor_scale(distance):
    x, y = related()
    turned = 7 * x @ rotation(8)
    assert rsa(x, turned, distance=distance) == pytest.approx(1)
    assert rsa(turned, y, distance=distance) == pytest.approx(rsa(x, y, distance=distance), abs=1e-12)
    assert rsa(y, x, distance=distance) == pytest.approx(rsa(x, y, distance=distance), abs=1e-12)


def test_rsa_survives_a_large_common_mean():
    x, y = related()
    assert rsa(x + 1e5, y, distance="euclidean") == pytest.approx(rsa(x, y, distance="euclidean"), abs=1e-9)


def test_equal_distances_have_no_correlation():
    with pytest.warns(RuntimeWarning, match="y: all distances between examples are the same, so that the result is"):
        assert math.isnan(rsa(gaussian(8, 8).float(), rotation(8).float()))


def test_rows_that_differ_in_length_alone_have_no_cosines():
    lengths = torch.arange(1.0, 41).unsqueeze(1)
    with pytest.warns(RuntimeWarning, match="x: all examples are the same"):
        assert math.isnan(rsa(lengths * gaussian(1, 5).float(), gaussian(40, 3).float()))


# RSA with regression


def by_hand(x, y, references, seed, alpha):
    """Scores of one penalty, from folds cut by hand."""
    unit_x, unit_y = (rows.numpy() / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    order = np.random.default_rng(seed).permutation(len(x))
    rest = np.array([row for row in order if row not in references])
    d1, d2 = (1 - rows[rest] @ rows[references].T for rows in (unit_x, unit_y))
    scores = []
    for test in np.array_split(np.arange(len(rest)), 10):
        train = np.setdiff1d(np.arange(len(rest)), test)
        guess = Ridge(alpha).fit(d1[train], d2[train]).predict(d1[test])
        pearson = np.mean([pearsonr(*pair).statistic for pair in zip(guess.T, d2[test].T, strict=True)])
        residual, total = (guess - d2[test]) ** 2, (d2[test] - d2[test].mean(0)) ** 2
        scores.append((pearson, np.mean(1 - residual.sum(0) / total.sum(0)), residual.mean()))
    return RegressionScores(*np.mean(scores, axis=0), alpha)


@pytest.mark.parametrize("noise", [0.1, 4])
def test_regression_equals_the_grid_search_of_sklearn(noise):
    x, y = related(rows=97, noise=noise)
    found = rsa_regress(x, y, references=(references := [3, 50, 8, 96, 20]), seed=2)
    rest = [row for row in np.random.default_rng(2).permutation(97) if row not in references]
    unit = [(rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (x, y)]
    distances = [1 - rows[rest] @ rows[references].T for rows in unit]
    scores = {"mse": "neg_mean_squared_error", "r2": "r2"}
    search = GridSearchCV(Ridge(), {"alpha": rsa_module._ALPHAS}, scoring=scores, refit="mse", cv=KFold(10))
    search.fit(*distances)
    best = search.best_index_
    assert found.alpha == search.best_params_["alpha"]
    assert found.mse == pytest.approx(-search.cv_results_["mean_test_mse"][best], rel=1e-9)
    assert found.r2 == pytest.approx(search.cv_results_["mean_test_r2"][best], rel=1e-9)


@pytest.mark.parametrize("noise", [0.1, 4])
def test_regression_equals_folds_by_hand(noise):
    x, y = related(rows=97, noise=noise)
    references = [3, 50, 8, 96, 20]
    expected = [by_hand(x, y, references, 5, alpha) for alpha in (0.001, 0.01, 0.1, 1, 10)]
    best = min(expected, key=lambda scores: scores.mse)
    assert rsa_regress(x, y, references=references, seed=5) == pytest.approx(best, abs=1e-9)


def test_drawn_references_are_those_of_the_generator():
    x, y = related()
    drawn = np.random.default_rng(4).permutation(60)[:7].tolist()
    found = rsa_regress(x, y, references=7, seed=4)
    assert found == rsa_regress(x, y, references=drawn, seed=4)
    assert found != rsa_regress(x, y, references=7, seed=3)


def test_regression_finds_what_is_there_and_nothing_else():
    x = gaussian(400, 8)
    same, noise = rsa_regress(x, 3 * x @ rotation(8), references=20), rsa_regress(x, gaussian(400, 8, 1), references=20)
    assert same.pearson > 0.999
    assert same.r2 > 0.999
    assert same.alpha == 0.001
    assert abs(noise.pearson) < 0.1
    assert noise.r2 < 0


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (0, "references: expected 1 to 30 examples, as 10 folds of the rest need 30, got 0 of 60"),
        (31, "as 10 folds of the rest need 30, got 31 of 60"),
        (-1, "got 0 of 60"),
        ([], "got 0 of 60"),
        ([1, 60], "references: expected different row numbers from 0 to 59, got [1, 60]"),
        ([-1], "different row numbers from 0 to 59, got [-1]"),
        ([2, 2], "different row numbers from 0 to 59, got [2, 2]"),
    ],
)
def test_errors_of_references(references, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rsa_regress(*related(), references=references)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosin"}, "distance: expected one of cosine, euclidean, got 'cosin'; did you mean 'cosine'?"),
        ({"method": "kendall"}, "method: expected one of pearson, spearman, got 'kendall'"),
    ],
)
def test_options_of_rsa(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rsa(*related(), **options)
