"""Retrieval equals a loop and hand cases."""

import math

import numpy as np
import pytest
import torch
from gaussian import gaussian
from scipy.spatial.distance import pdist

from xsub_utils.similarity.retrieval import retrieval_accuracy


@pytest.mark.parametrize("margin", [True, False])
def test_a_sentence_finds_itself(margin):
    x = gaussian(50, 10)
    assert retrieval_accuracy(x, x, margin=margin) == 1
    assert retrieval_accuracy(x, 3 * x, margin=margin) == 1
    assert retrieval_accuracy(x, x.roll(1, 0), margin=margin) == 0


@pytest.mark.parametrize("margin", [True, False])
def test_noise_is_found_by_chance(margin):
    found = [
        retrieval_accuracy(gaussian(50, 10, seed), gaussian(50, 10, seed + 99), margin=margin) for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx(1 / 50, abs=0.01)


def angles(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees).double())
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_margin_by_hand():
    # x at 40° is 9° from y at 31° and 10° from its translation at 50°.
    x, y = angles(0, 40), angles(31, 50)
    (a, b), (c, d) = [[math.cos(math.radians(gap)) for gap in row] for row in ((31, 50), (9, 10))]
    assert c > d
    assert retrieval_accuracy(x, y, margin=False) == 0.5
    # But 31° is near to 0° too: relative to all neighbours, 50° is the nearer one.
    assert d / ((c + d) / 4 + (b + d) / 4) > c / ((c + d) / 4 + (a + c) / 4)
    assert a / ((a + b) / 4 + (a + c) / 4) > b / ((a + b) / 4 + (b + d) / 4)
    assert retrieval_accuracy(x, y, k=2) == 1
    assert retrieval_accuracy(x, y, k=3) == retrieval_accuracy(x, y, k=99) == 1


@pytest.mark.parametrize("k", [1, 4, 100])
def test_margin_equals_a_loop(k):
    x = gaussian(30, 5).abs()
    y = x + 0.5 * gaussian(30, 5, 1).abs()
    cosines = 1 - np.array([[pdist([a, b], "cosine")[0] for b in y.numpy()] for a in x.numpy()])
    right = 0
    for i in range(30):
        ratios = []
        for j in range(30):
            near_x, near_y = sorted(cosines[i])[-k:], sorted(cosines[:, j])[-k:]
            ratios.append(cosines[i, j] / (sum(near_x) / (2 * len(near_x)) + sum(near_y) / (2 * len(near_y))))
        right += np.argmax(ratios) == i
    assert 3 < right < 28
    assert retrieval_accuracy(x, y, k=k) == pytest.approx(right / 30)


def test_neighbours_that_point_away():
    x, y = angles(0, 10), angles(180, 190)
    with pytest.warns(RuntimeWarning, match="x, y: neighbours point away from each other, so that the margin is nan"):
        assert math.isnan(retrieval_accuracy(x, y))
    assert retrieval_accuracy(x, y, margin=False) == 0


def test_errors_of_retrieval():
    x = gaussian(10, 3)
    with pytest.raises(ValueError, match="k: expected at least 1 neighbour, got 0"):
        retrieval_accuracy(x, x, k=0)
    with pytest.raises(ValueError, match=r"x, y: expected as many features of both, .*, got 3 and 2"):
        retrieval_accuracy(x, x[:, :2])
