"""The distribution of shared entries: against scipy, against all placements, and by simulation."""

from itertools import combinations
from math import comb, nan

import numpy as np
import pytest
from scipy.stats import hypergeom

from xsub_utils.similarity.chance import chance_overlap, ratio


def chance(size, a, b, found):
    return chance_overlap(size, np.array([a]), np.array([b]), np.array([found]))


@pytest.mark.parametrize(("size", "a", "b"), [(144, 72, 72), (144, 130, 30), (12, 0, 5), (12, 12, 5), (2000, 700, 900)])
def test_one_stratum_is_hypergeometric(size, a, b):
    known = hypergeom(size, a, b)
    shared = np.arange(max(0, a + b - size), min(a, b) + 1)
    for found in shared[:: max(1, len(shared) // 20)]:
        result = chance(size, [a], [b], int(found))
        assert result.p[0] == pytest.approx(known.pmf(shared[shared >= found]).sum(), rel=1e-9)
    assert result.shared[0] == pytest.approx(a * b / size)
    assert result.jaccard[0] == pytest.approx(known.pmf(shared) @ (shared / (a + b - shared)), rel=1e-12)


def test_strata_against_all_placements():
    a = [{0, 1}, {0, 1, 2}, set()]
    overlaps, jaccards = [], []
    for one in combinations(range(4), 3):
        for two in combinations(range(4), 2):
            for three in combinations(range(4), 1):
                both = sum(len(kept & set(b)) for kept, b in zip(a, (one, two, three), strict=True))
                overlaps.append(both)
                jaccards.append(both / (5 + 6 - both))
    for found in range(6):
        result = chance(4, [2, 3, 0], [3, 2, 1], found)
        assert result.p[0] == pytest.approx(np.mean(np.array(overlaps) >= found))
    assert result.jaccard[0] == pytest.approx(np.mean(jaccards))
    assert result.shared[0] == pytest.approx(np.mean(overlaps))


def test_tails_are_exact_far_out():
    """Masks equal in all of twelve layers: one placement of each layer's binomially many."""
    assert chance(12, [6] * 12, [6] * 12, 72).p[0] == pytest.approx(comb(12, 6) ** -12.0, rel=1e-10)
    assert chance(144, [72], [72], 72).p[0] == pytest.approx(1 / comb(144, 72), rel=1e-10)


def test_huge_strata_meet_the_normal_limit():
    size, a, b = 85_000_000, 42_500_000, 8_500_000
    mean = a * b / size
    sd = (mean * (size - a) * (size - b) / size / (size - 1)) ** 0.5
    at = chance(size, [a], [b], round(mean))
    assert at.p[0] == pytest.approx(0.5, abs=1e-3)
    assert at.jaccard[0] == pytest.approx(mean / (a + b - mean), rel=1e-6)
    assert chance(size, [a], [b], round(mean + 2 * sd)).p[0] == pytest.approx(0.02275, rel=0.01)
    assert chance(size, [a], [b], b).p[0] == 0
    assert chance(size, [a], [b], 0).p[0] == 1


def test_the_fourier_transform_agrees_with_the_sum(monkeypatch):
    kept = [300, 500, 100], [400, 350, 777]
    direct = chance(1000, *kept, 400)
    monkeypatch.setattr("xsub_utils.similarity.chance._DIRECT", 1)
    fourier = chance(1000, *kept, 400)
    assert fourier.jaccard == pytest.approx(direct.jaccard, rel=1e-12)
    assert fourier.p == pytest.approx(direct.p, abs=1e-13)


def test_many_pairs_are_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, size=(2, 50, 3))
    found = np.maximum(a + b - 8, 0).sum(axis=1) + 1
    monkeypatch.setattr("xsub_utils.similarity.chance._CHUNK", 100)
    together = chance_overlap(8, a, b, found)
    for row in range(50):
        alone = chance(8, a[row].tolist(), b[row].tolist(), int(found[row]))
        for one, other in zip(together, alone, strict=True):
            assert one[row] == pytest.approx(other[0], nan_ok=True)


def test_empty_masks():
    assert chance(5, [0], [0], 0).jaccard == pytest.approx([nan], nan_ok=True)
    assert chance(0, [0], [0], 0).p[0] == 1
    assert chance(5, [0], [3], 0).jaccard[0] == 0


def test_ratio():
    assert ratio(1, 2) == 0.5
    assert np.isnan(ratio(1, 0))
    assert ratio(np.array([1, 2]), np.array([0, 4])) == pytest.approx([nan, 0.5], nan_ok=True)
