"""Measures by hand, against scikit-learn and scipy, and what chance gives, by simulation."""

import inspect
from itertools import combinations
from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from sklearn.metrics import cohen_kappa_score, jaccard_score

from xsub_utils.heads.masks import random_mask
from xsub_utils.similarity import overlap
from xsub_utils.similarity.overlap import (
    adjusted_jaccard,
    by_layer,
    chance_test,
    compare,
    expected_jaccard,
    jaccard,
    joint_jaccard,
    kappa,
    matching,
    never_used,
    overlap_coefficient,
    survival,
)

ALL = ("jaccard", "matching", "overlap", "kappa", "expected", "adjusted", "p")
ALL += ("expected_within", "adjusted_within", "p_within")
SINGLE = {"jaccard": jaccard, "matching": matching, "overlap": overlap_coefficient, "kappa": kappa}
SINGLE |= {
    "expected": expected_jaccard,
    "adjusted": adjusted_jaccard,
    "p": lambda *pair, **options: chance_test(*pair, **options).p,
}


def bits(text):
    return torch.tensor([[bit == "1" for bit in row] for row in text.split()])


def make_masks(count, *, shape=(4, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(*shape, generator=generator) < (0.2 + 0.6 * i / count) for i in range(count)]


def test_measures_by_hand():
    a, b = bits("110 100"), bits("011 100")  # 3 and 3 of 6, 2 shared
    assert jaccard(a, b) == 2 / 4
    assert matching(a, b) == 4 / 6
    assert overlap_coefficient(a, b) == 2 / 3
    assert kappa(a, b) == pytest.approx((4 / 6 - 1 / 2) / (1 - 1 / 2))
    # 0 to 3 shared in 1, 9, 9, 1 of 20 placements
    assert expected_jaccard(a, b) == pytest.approx((9 / 5 + 9 * 2 / 4 + 1) / 20)
    assert chance_test(a, b) == (2, pytest.approx(1.5), pytest.approx(10 / 20))
    # within layers: 1 or 2 shared in the first with chances 2/3 and 1/3, 0 or 1 in the second with 2/3 and 1/3
    assert chance_test(a, b, within_layers=True) == (2, pytest.approx(5 / 3), pytest.approx(5 / 9))
    assert expected_jaccard(a, b, within_layers=True) == pytest.approx((4 / 5 + 4 * 2 / 4 + 1) / 9)
    assert adjusted_jaccard(a, b) == pytest.approx((0.5 - 0.365) / (1 - 0.365))


@pytest.mark.parametrize(("kept", "expected"), [(130, 0.823), (116, 0.674), (102, 0.548), (88, 0.440), (74, 0.346)])
def test_chance_values_of_the_sizes_of_a_search(kept, expected):
    mask = torch.arange(144).view(12, 12) < kept
    assert expected_jaccard(mask, mask) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("within", [False, True])
def test_expectations_are_those_of_random_masks(within):
    a, b = make_masks(2, shape=(12, 12), seed=1)
    draws = [random_mask(b, seed=seed, per_layer=within) for seed in range(200)]
    found = np.array([jaccard(a, draw) for draw in draws])
    assert abs(found.mean() - expected_jaccard(a, b, within_layers=within)) < 4 * found.std() / 200**0.5
    adjusted, p = zip(
        *(
            (adjusted_jaccard(a, m, within_layers=within), chance_test(a, m, within_layers=within).p)
            for m in draws[:100]
        ),
        strict=True,
    )
    assert abs(np.mean(adjusted)) < 4 * np.std(adjusted) / 100**0.5
    for level in (0.1, 0.5):
        assert np.mean(np.array(p) <= level) < level + 4 * (level * (1 - level) / 100) ** 0.5


def test_half_of_all_weights_share_a_third():
    a = torch.arange(4_000_000) % 2 == 0
    assert expected_jaccard(a, a) == pytest.approx(1 / 3, abs=1e-6)


def test_measures_match_scikit_learn_and_scipy():
    for a, b in combinations(make_masks(8), 2):
        one, other = a.flatten().numpy(), b.flatten().numpy()
        assert jaccard(a, b) == pytest.approx(jaccard_score(one, other), abs=1e-15)
        assert kappa(a, b) == pytest.approx(cohen_kappa_score(one, other), abs=1e-15)
        assert matching(a, b) == (one == other).mean()
        shared = int((one & other).sum())
        known = hypergeom(24, int(one.sum()), int(other.sum()))
        assert chance_test(a, b) == (shared, pytest.approx(known.mean()), pytest.approx(known.sf(shared - 1)))


@pytest.mark.parametrize("name", SINGLE)
def test_measures_are_symmetric_and_reach_one(name):
    measure = SINGLE[name]
    for a, b in combinations(make_masks(5), 2):
        assert measure(a, b) == pytest.approx(measure(b, a))
        if name not in ("expected", "p"):
            assert measure(a, a) == 1 >= measure(a, b)
    assert measure(a.flatten(), b.flatten()) == measure(a, b)


def test_what_is_undefined_is_nan():
    none, full, some = bits("00 00"), bits("11 11"), bits("10 01")
    for measure in (jaccard, overlap_coefficient, kappa, expected_jaccard, adjusted_jaccard):
        assert isnan(measure(none, none))
    for measure in (kappa, adjusted_jaccard):
        assert isnan(measure(full, full))
    assert isnan(overlap_coefficient(none, some)) and isnan(matching(none[:0], none[:0]))
    assert jaccard(none, some) == expected_jaccard(none, some) == adjusted_jaccard(none, some) == 0
    assert matching(none, none) == expected_jaccard(full, full) == 1
    assert kappa(none, full) == 0
    assert chance_test(none, some) == (0, 0, 1) and chance_test(full, some) == (2, 2, 1)
    forced = bits("11 00")
    assert isnan(adjusted_jaccard(forced, forced, within_layers=True)) and adjusted_jaccard(forced, forced) == 1


def test_joint_jaccard():
    a, b, c = bits("110 100"), bits("011 100"), bits("010 001")
    assert joint_jaccard(iter([a, b, c])) == 1 / 5
    assert joint_jaccard([a, b]) == jaccard(a, b)
    assert joint_jaccard([a]) == 1
    assert isnan(joint_jaccard([a & ~a, a & ~a]))


def test_by_layer():
    a, b = bits("110 100 000"), bits("011 100 000")
    found = by_layer(a, b)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([1 / 3, 1, nan], nan_ok=True)
    assert by_layer(a, b, matching).tolist() == pytest.approx([1 / 3, 1, 1])


@pytest.mark.parametrize("block", [5, 2**20])
def test_compare_is_every_measure_of_every_pair(monkeypatch, block):
    monkeypatch.setattr(overlap, "_BLOCK", block)
    empty = torch.zeros(4, 6, dtype=torch.bool)
    masks = {("nli", seed): mask for seed, mask in enumerate([*make_masks(4), ~empty, empty, empty])}
    table = compare(masks, ALL)
    assert list(table.columns) == ["a", "b", *ALL]
    assert list(zip(table["a"], table["b"], strict=True)) == list(combinations(masks, 2))
    for row in table.to_dict("records"):
        a, b = masks[row["a"]], masks[row["b"]]
        for name in ALL:
            options = {"within_layers": True} if name.endswith("_within") else {}
            expected = SINGLE[name.removesuffix("_within")](a, b, **options)
            assert row[name] == pytest.approx(expected, rel=1e-12, abs=1e-14, nan_ok=True)
    assert compare(masks).equals(table[["a", "b", "jaccard", "expected", "adjusted", "p"]])
    assert compare(masks, ["p_within", "kappa"]).equals(table[["a", "b", "p_within", "kappa"]])


def test_compare_takes_flat_masks():
    masks = dict(zip("abc", make_masks(3), strict=True))
    flat = {name: mask.flatten() for name, mask in masks.items()}
    assert compare(flat).equals(compare(masks))


def test_survival_and_never_used():
    masks = [bits("110 000"), bits("100 000")]
    assert survival(iter(masks)).tolist() == [[1, 0.5, 0], [0, 0, 0]]
    assert never_used(iter(masks)).tolist() == [1, 3]


@pytest.mark.parametrize("name", SINGLE)
def test_masks_of_other_shapes_or_types(name):
    a = bits("110 100")
    with pytest.raises(ValueError, match=r"mask 'b': expected the shape of the first mask, \(2, 3\), got \(3, 2\)"):
        SINGLE[name](a, a.reshape(3, 2))
    if name not in ("adjusted", "p"):  # they call the others
        with pytest.raises(ValueError, match=r"mask 'b': expected torch\.bool, got torch\.int64"):
            inspect.unwrap(SINGLE[name])(a, a.long())


def test_refusals():
    a, b = bits("110 100"), bits("011 100")
    for call in (by_layer, lambda *pair: expected_jaccard(*pair, within_layers=True)):
        with pytest.raises(ValueError, match=r"masks: expected layers, as in \(layers, heads\), got shape \(6,\)"):
            call(a.flatten(), b.flatten())
    with pytest.raises(ValueError, match=r"measures: expected one of .*, got 'kapa'; did you mean 'kappa'"):
        compare({"a": a, "b": b}, ["kapa"])
    with pytest.raises(ValueError, match="masks: expected at least two masks, got 1"):
        compare({"a": a})
    with pytest.raises(ValueError, match=r"mask \('b', 0\): expected the shape"):
        compare({("a", 0): a, ("b", 0): b[:1]})
    for call in (joint_jaccard, survival, never_used):
        with pytest.raises(ValueError, match=r"^masks: .*none"):
            call([])
    with pytest.raises(ValueError, match="mask 1: expected the shape"):
        survival([a, b[:1]])
