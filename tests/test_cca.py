"""Canonical correlations equal scipy, sklearn and hand cases, and keep their invariants."""

import math

import numpy as np
import pytest
import torch
from gaussian import gaussian, related, rotation
from scipy.linalg import orth, subspace_angles
from scipy.stats import pearsonr
from sklearn.cross_decomposition import CCA

from xsub_utils.similarity import cca
from xsub_utils.similarity.cca import canonical_scores, pwcca, svcca


def correlations_by_sklearn(x, y):
    size = min(x.shape[1], y.shape[1])
    a, b = CCA(size, scale=False, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    return np.array([pearsonr(a[:, i], b[:, i]).statistic for i in range(size)]), a


def test_cca_of_all_directions_equals_sklearn():
    x, y = related(rows=200, columns=4, others=3)
    expected, variates = correlations_by_sklearn(x, y)
    assert svcca(x, y, variance=1) == pytest.approx(expected.mean(), abs=1e-6)
    variates = variates / np.linalg.norm(variates, axis=0)
    weights = np.abs(variates.T @ (x - x.mean(0)).numpy()).sum(1)
    assert pwcca(x, y, variance=1) == pytest.approx(np.average(expected, weights=weights), abs=1e-5)


def test_svcca_equals_the_angles_between_principal_subspaces():
    x, y = (rows * torch.logspace(0, -3, rows.shape[1]) for rows in related(rows=100, columns=9, others=7))
    bases = []
    for rows in (x.numpy(), y.numpy()):
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        shares = np.cumsum(values[::-1]) / values.sum()
        size = next(size for size, share in enumerate(shares, 1) if share >= 0.95)
        assert 1 < size < rows.shape[1] - 1
        bases.append((rows - rows.mean(0)) @ vectors[:, ::-1][:, :size])
    expected = np.cos(subspace_angles(*map(orth, bases))).mean()
    assert svcca(x, y, variance=0.95) == pytest.approx(expected, abs=1e-10)


def test_cca_by_hand():
    # Orthogonal, mean-free columns of length 2: y has the first, and half way between the second and a third one.
    a, b, c = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).double().repeat(1, 2)
    x = torch.stack([3 * a, b], dim=1)
    y = torch.stack([a, (b + c) / math.sqrt(2)], dim=1)
    root = math.sqrt(0.5)
    assert svcca(x, y, variance=1) == pytest.approx((1 + root) / 2)
    assert pwcca(x, y, variance=1) == pytest.approx((3 + root) / 4)
    assert pwcca(y, x, variance=1) == pytest.approx((1 + root) / 2)
    # The first column of x holds 90 % of its variance.
    assert svcca(x, y, variance=0.89) == pytest.approx(1)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_cca_heeds_neither_rotation_nor_scale_nor_shift(measure):
    x, y = related(rows=100)
    turned = 5 * y @ rotation(6) - 3
    assert measure(x, turned) == pytest.approx(measure(x, y), abs=1e-12)
    assert measure(y, turned) == pytest.approx(1)
    assert 0.5 < measure(x, y) < 0.99


def test_svcca_is_symmetric_and_pwcca_is_not():
    x, y = related(rows=100)
    assert canonical_scores(x, y) == pytest.approx((svcca(x, y), pwcca(x, y), pwcca(y, x)), abs=1e-12)
    assert svcca(x, y) == pytest.approx(svcca(y, x), abs=1e-12)
    assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-3


def test_projection_weights_sum_to_one():
    x, y = related()
    correlations, variates, _ = cca._canonical(x, y, 0.99)
    weights = cca._projection_weights(variates, x)
    assert len(weights) == len(correlations) == 6
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.min() > 0
    torch.testing.assert_close(variates.T @ variates, torch.eye(6).double())


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_directions_of_rounding_do_not_count(measure):
    x, y = related(rows=100, columns=4, others=3)
    wide = x @ gaussian(4, 20, 7) + 100
    expected = measure(x, y, variance=1)
    doubled = torch.cat([x, x[:, :2]], dim=1) @ rotation(6)
    assert measure(doubled, y, variance=1) == pytest.approx(expected, abs=0.1)
    assert svcca(wide, y, variance=1) == pytest.approx(svcca(x, y, variance=1), abs=1e-9)
    assert svcca(wide.float(), y.float(), variance=1) == pytest.approx(svcca(x, y, variance=1), abs=1e-4)
    assert measure(x, x @ gaussian(4, 20, 7), variance=1) == pytest.approx(1)
    assert expected < 0.99


def test_svcca_of_noise_is_as_documented():
    found = [svcca(gaussian(200, 60, 2 * seed), gaussian(200, 40, 2 * seed + 1), variance=1) for seed in range(5)]
    x, y = gaussian(200, 60), gaussian(200, 40, 1)
    correlations, *_ = cca._canonical(x, y, 1)
    assert float(correlations.square().mean()) == pytest.approx(60 / 199, abs=0.02)
    assert max(found) < math.sqrt(60 / 199)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_errors_of_cca(measure):
    x, y = gaussian(20, 30), gaussian(20, 3, 1)
    with pytest.raises(
        ValueError, match=r"x: expected fewer directions .*, got 19 directions of 20 examples; .* below 1$"
    ):
        measure(x, y, variance=1)
    with pytest.raises(ValueError, match=r"y: expected fewer .* got 19 directions"):
        measure(y, x, variance=1)
    assert measure(x, y, variance=0.9) <= 1
    for variance in (0, 1.1, -1, math.nan):
        with pytest.raises(ValueError, match=f"variance: expected a share above 0 and at most 1, got {variance}"):
            measure(x, y, variance=variance)
