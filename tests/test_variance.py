"""Variance components: by hand, against textbook formulas, and recovered from simulated effects."""

from itertools import product
from math import nan

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.statistics.variance import DESIGN, variance_shares

SIZES = {"task": 4, "seed": 3, "language": 5, "mask_seed": 2}


def design(**sizes):
    sizes = SIZES | sizes
    return pd.DataFrame(list(product(*map(range, sizes.values()))), columns=list(sizes))


def simulate(table, variances, *, heads=4000, seed=0):
    """Sum of a random effect per cell of each component."""
    rng = np.random.default_rng(seed)
    total = np.zeros((len(table), heads))
    for name, variance in variances.items():
        cell = table.groupby(list(DESIGN[name])).ngroup()
        total += variance**0.5 * rng.normal(size=(cell.max() + 1, heads))[cell]
    return total


def shares(table, values, *args, **options):
    return variance_shares(table, values, *args, **options).set_index("component")


def test_known_components_are_recovered():
    variances = dict(zip(DESIGN, [1, 0.3, 0.2, 0.8, 0.1, 0.6], strict=True))
    table = design()
    found = variance_shares(table, simulate(table, variances) + 7, resamples=200)
    assert list(found.columns) == ["component", "share", "low", "high"]
    assert list(found["component"]) == list(DESIGN)
    assert found["share"].to_numpy() == pytest.approx(np.array(list(variances.values())) / 3, abs=0.01)
    assert found["share"].sum() == pytest.approx(1)
    assert (found["low"] < found["share"]).all() and (found["share"] < found["high"]).all()


def test_one_factor_is_the_textbook_formula():
    values = np.random.default_rng(0).normal(size=(12, 3)) + np.repeat(np.arange(4), 3)[:, None]
    table = pd.DataFrame({"group": np.repeat(list("abcd"), 3), "copy": [0, 1, 2] * 4})
    found = shares(table, values, {"group": ["group"], "residual": ["group", "copy"]})
    cells = values.reshape(4, 3, 3)
    within = cells.var(axis=1, ddof=1).mean(axis=0)
    between = cells.mean(axis=1).var(axis=0, ddof=1) - within / 3
    assert found.loc["group", "share"] == pytest.approx(between.sum() / (between + within).sum())


def test_two_crossed_factors_by_hand():
    """Rows 0, 2 and columns 0, 4 without interaction: variances 2 and 8, of two levels each."""
    table = pd.DataFrame({"r": [0, 0, 1, 1], "c": [0, 1, 0, 1]})
    parts = {"r": ["r"], "c": ["c"], "both": ["r", "c"]}
    found = shares(table, np.array([[0.0], [4], [2], [6]]), parts)
    assert found["share"].tolist() == pytest.approx([0.2, 0.8, 0])
    assert found["low"].isna().all(), "one head cannot be resampled"


def test_negative_components_are_cut_after_the_sum():
    """Residual -1, 1 within both groups of head one: its group component is -1; head two has +3 and no residual."""
    table = pd.DataFrame({"g": [0, 0, 1, 1], "copy": [0, 1, 0, 1]})
    values = np.array([[-1, 0], [1, 0], [-1, 6**0.5], [1, 6**0.5]])
    found = shares(table, values, {"g": ["g"], "residual": ["g", "copy"]})
    assert found["share"].tolist() == pytest.approx([2 / 4, 2 / 4])
    assert shares(table, values[:, :1], {"g": ["g"], "residual": ["g", "copy"]})["share"].tolist() == [0, 1]


def test_order_of_rows_names_of_levels_and_kinds_of_values_do_not_matter():
    table = design()
    values = simulate(table, dict.fromkeys(DESIGN, 1.0), heads=20) > 0
    found = variance_shares(table, values, resamples=50)
    order = np.random.default_rng(0).permutation(len(table))
    named = table.assign(task=table["task"].map(dict(enumerate(["nli", "ner", "reviews", "a"]))))
    again = variance_shares(named.iloc[order], torch.from_numpy(values[order]), resamples=50)
    pd.testing.assert_frame_equal(found, again)


@pytest.mark.parametrize(
    ("sizes", "confounded"),
    [
        ({"task": 1}, {"task", "task × language"}),
        ({"language": 1}, {"language", "task × language", "model × language"}),
        ({"seed": 1}, {"model", "model × language"}),
        ({"mask_seed": 1}, {"data"}),
    ],
)
def test_what_a_design_cannot_tell_apart_is_nan(sizes, confounded):
    table = design(**sizes)
    found = shares(table, simulate(table, dict.fromkeys(DESIGN, 1.0), heads=3000), resamples=20)
    assert set(found.index[found["share"].isna()]) == confounded == set(found.index[found["low"].isna()])
    assert found["share"].sum() == pytest.approx(1)


def test_confounded_components_count_with_the_earlier_one():
    table = design(mask_seed=1)
    found = shares(table, simulate(table, {"model × language": 1.0, "data": 3.0, "task": 4.0}), resamples=20)
    assert found.loc["model × language", "share"] == pytest.approx(0.5, abs=0.02)


def test_nothing_varies():
    table = design()
    assert shares(table, np.ones((len(table), 3)))["share"].tolist() == pytest.approx([nan] * 6, nan_ok=True)


def test_intervals_shrink_with_heads_and_depend_on_the_seed():
    table = design()
    values = simulate(table, dict.fromkeys(DESIGN, 1.0), heads=400)
    few, many = (shares(table, values[:, :heads]) for heads in (25, 400))
    ratio = (few["high"] - few["low"]) / (many["high"] - many["low"])
    assert ratio.mean() == pytest.approx(4, rel=0.3)
    assert not few.equals(shares(table, values[:, :25], seed=1))


def test_refusals():
    table, factors = design(), {"task": ["task"]}
    values = np.zeros((len(table), 2))
    with pytest.raises(ValueError, match="table: expected columns task, language, seed, mask_seed, got no mask_seed"):
        variance_shares(table.drop(columns="mask_seed"), values)
    with pytest.raises(
        ValueError,
        match=r"table: expected one mask of every combination of 4 task × 5 language × 3 seed × 2 .*, got 119",
    ):
        variance_shares(table[1:], values[1:])
    with pytest.raises(ValueError, match=r"table: expected .* got 120 masks; number nested levels alike"):
        variance_shares(pd.concat([table[1:], table[1:2]]), values)
    with pytest.raises(ValueError, match=r"table: expected .* got 0 masks"):
        variance_shares(table[:0], values[:0])
    with pytest.raises(
        ValueError, match=r"values: expected a row of finite numbers for each of 120 masks, got 119 rows$"
    ):
        variance_shares(table, values[1:])
    with pytest.raises(ValueError, match=r"values: expected .*, got 120 rows, some of them not finite"):
        variance_shares(table, values * nan)
    with pytest.raises(ValueError, match="factors: expected a last component of every column: seed, task, got 'task'"):
        variance_shares(table, values, {"seed": ["seed"], **factors})
    with pytest.raises(ValueError, match=r"level: expected a number between 0 and 1, such as 0\.95, got 2"):
        variance_shares(table, values, level=2)
