"""Permutation p and bootstrap intervals: by hand, against scipy and plain loops, and calibrated."""

import inspect
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, pearsonr, spearmanr

from xsub_utils.statistics.inference import bootstrap_interval, crossed_interval, mantel

OFF = ~np.eye(6, dtype=bool)
ORACLES = {"spearman": spearmanr, "pearson": pearsonr}


def matrices(*, objects=6, seed=0, symmetric=False, holes=0):
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, objects, objects))
    y = x + noise
    if symmetric:
        x, y = x + x.T, y + y.T
    for _ in range(holes):
        x[tuple(rng.integers(objects, size=2))] = np.nan
        y[tuple(rng.integers(objects, size=2))] = np.nan
    return x, y


def cells_correlation(x, y, method):
    found = OFF[: len(x), : len(x)] & ~np.isnan(x) & ~np.isnan(y)
    return ORACLES[method](x[found], y[found]).statistic


@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("holes", [0, 4])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_exact_p_is_that_of_a_loop(method, holes, alternative):
    x, y = matrices(objects=5, holes=holes, seed=3)
    orders = [list(order) for order in permutations(range(5))]
    found = np.array([cells_correlation(x, y[np.ix_(order, order)], method) for order in orders])
    side = {"greater": found, "less": -found, "two-sided": abs(found)}[alternative]
    result = mantel(x, y, method=method, alternative=alternative)
    assert result.r == pytest.approx(cells_correlation(x, y, method), abs=1e-14)
    assert result.p == pytest.approx(np.mean(side >= side[0] - 1e-12), abs=1e-15)
    assert result.permutations == 119 and result.exact


def test_by_hand():
    """Of the six orders of three objects on a line, two keep the middle one: equal distances in both."""
    line = np.abs(np.subtract.outer([0.0, 1, 3], [0.0, 1, 3]))
    assert mantel(line, line) == (pytest.approx(1), pytest.approx(1 / 6), 5, True)
    even = np.abs(np.subtract.outer([0.0, 1, 2], [0.0, 1, 2]))
    assert mantel(even, even).p == pytest.approx(2 / 6)
    assert mantel(even, -even, alternative="less") == (pytest.approx(-1), pytest.approx(2 / 6), 5, True)


def test_random_p_agrees_with_the_exact_one(monkeypatch):
    x, y = matrices(objects=6, seed=5)
    exact = mantel(x, 0.4 * y + matrices(seed=9)[0])
    monkeypatch.setattr("xsub_utils.statistics.inference._EXACT", 2)
    for holes in (0, 1):
        y2 = 0.4 * y + matrices(seed=9)[0]
        if holes:
            y2[0, 0] = np.nan  # on the diagonal: no cell
        found = mantel(x, y2, permutations=4999)
        assert not found.exact and found.permutations == 4999
        assert found.r == exact.r
        assert abs(found.p - exact.p) < 4 * (exact.p * (1 - exact.p) / 4999) ** 0.5


@pytest.mark.parametrize("holes", [0, 3])
def test_parts_of_the_orders_make_no_difference(monkeypatch, holes):
    x, y = matrices(objects=9, holes=holes)
    whole = mantel(x, y, permutations=99)
    monkeypatch.setattr("xsub_utils.statistics.inference._CELLS", 81 * 7)
    assert mantel(x, y, permutations=99) == whole
    assert whole.p * 100 == pytest.approx(round(whole.p * 100))


def test_p_is_uniform_for_unrelated_matrices():
    p = [mantel(*np.random.default_rng(seed).normal(size=(2, 8, 8)), permutations=99).p for seed in range(300)]
    assert kstest(np.array(p) - 0.005, "uniform").pvalue > 0.01
    assert min(p) >= 0.01


def test_halves_of_symmetric_matrices_are_not_needed():
    x, y = matrices(symmetric=True)
    upper = np.triu_indices(6, 1)
    assert mantel(x, y).r == pytest.approx(spearmanr(x[upper], y[upper]).statistic)


def test_labels_decide_which_objects_belong_together():
    x, y = matrices()
    names = list("abcdef")
    frame, other = pd.DataFrame(x, names, names), pd.DataFrame(y, names, names)
    shuffled = other.sample(frac=1, random_state=0).sample(frac=1, axis=1, random_state=1)
    assert mantel(frame, shuffled) == mantel(frame, other) == mantel(x, y)
    assert mantel(frame[names[::-1]], other) == mantel(x, y)
    assert mantel(x.astype(int), y.astype(int)).exact


def test_the_diagonal_does_not_count():
    x, y = matrices()
    assert mantel(x + 9 * np.eye(6), y) == mantel(x, y)


@pytest.mark.parametrize("method", ORACLES)
def test_constant_matrices_have_no_correlation(method):
    x, _ = matrices()
    for one, other in ((x, np.full((6, 6), 0.1)), (np.full((6, 6), 0.1), x), (x, np.full((6, 6), np.nan))):
        with pytest.warns(RuntimeWarning, match="the cells of one are all equal"):
            found = mantel(one, other, method=method)
        assert np.isnan(found.r) and np.isnan(found.p)


def test_orders_without_a_correlation_count():
    """Of 3 objects, all cells but those of one pair and one more are missing; other orders meet fewer of them."""
    x, y = np.full((2, 3, 3), np.nan)
    x[0, 1], x[1, 0], y[0, 1], y[1, 0] = 1, 2, 1, 2
    assert mantel(x, y).p == pytest.approx(5 / 6)  # only the order that swaps both gives -1


def test_mantel_refuses():
    x, y = matrices()
    names = list("abcdef")
    frame = pd.DataFrame(x, names, names)
    with pytest.raises(ValueError, match=r"method: expected one of spearman, pearson, got 'kendall'"):
        mantel(x, y, method="kendall")
    with pytest.raises(ValueError, match=r"alternative: expected one of .*, got 'more'"):
        mantel(x, y, alternative="more")
    with pytest.raises(ValueError, match=r"y: expected a square matrix over at least 3 objects, got shape \(2, 2\)"):
        _plain(x, y[:2, :2])
    with pytest.raises(ValueError, match=r"x: expected a square matrix .* got shape \(6, 5\)"):
        _plain(x[:, :5], y)
    with pytest.raises(
        ValueError, match=r"x, y: expected matrices over the same objects, got shapes \(6, 6\) and \(5, 5\)"
    ):
        _plain(x, y[:5, :5])
    with pytest.raises(ValueError, match="x, y: expected two DataFrames or two arrays"):
        mantel(frame, y)
    with pytest.raises(ValueError, match=r"y: expected each of the labels \['a', .*'f'\] once, got \['a', .*'g'\]"):
        mantel(frame, frame.rename(index={"f": "g"}))
    with pytest.raises(ValueError, match=r"x: expected .* got \['a', 'a'"):
        mantel(frame.rename(index={"b": "a"}), frame)
    with pytest.raises(ValueError, match="y: expected finite cells, got infinity; write nan"):
        mantel(x, np.where(OFF, y, np.inf))
    with pytest.raises(ValueError, match=r"permutations: expected at least 1, got 0"):
        mantel(*matrices(objects=8), permutations=0)


def _plain(x, y):
    """Without the check of shapes that only tests have."""
    return inspect.unwrap(mantel)(x, y)


def test_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, size=200)
    found = bootstrap_interval(values, np.mean, resamples=1000)
    error = values.std() / 200**0.5
    assert found.estimate == values.mean()
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    narrow = bootstrap_interval(values, np.mean, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * error, rel=0.1)
    assert bootstrap_interval(values, np.mean, resamples=1000) == found
    assert bootstrap_interval(values, np.mean, resamples=1000, seed=1) != found


def test_groups_are_drawn_whole():
    """Copies within groups add nothing: the interval is that of the groups' own values."""
    own = np.array([1.0, 2, 4, 8, 16])
    plain = bootstrap_interval(own, np.mean)
    copies = bootstrap_interval(np.repeat(own, 10), np.mean, groups=np.repeat(list("abcde"), 10))
    assert copies == pytest.approx(plain)
    mixed = np.random.default_rng(0).permutation(50)
    labels = pd.Series(np.repeat(list("abcde"), 10)[mixed])
    assert bootstrap_interval(np.repeat(own, 10)[mixed], np.mean, groups=labels).estimate == plain.estimate
    alone = bootstrap_interval(np.repeat(own, 10), np.mean)
    assert alone.high - alone.low < 0.5 * (plain.high - plain.low)


def test_groups_of_unequal_size_by_hand():
    seen = set()
    bootstrap_interval([1, 2, 3], lambda drawn: seen.add(tuple(drawn)) or 0.0, groups=["a", "b", "a"], resamples=50)
    assert seen == {(1, 2, 3), (1, 3, 1, 3), (1, 3, 2), (2, 1, 3), (2, 2)}


def test_rows_of_a_table_stay_together():
    table = pd.DataFrame({"x": [1.0, 2, 3, 4], "y": [2.0, 4, 6, 8]}, index=list("abcd"))
    found = bootstrap_interval(table, lambda rows: (rows["y"] / rows["x"]).mean(), resamples=100)
    assert found == (2, 2, 2)
    assert bootstrap_interval(table["x"], lambda rows: rows.max(), resamples=200).high == 4


def test_undefined_resamples_are_left_out():
    found = bootstrap_interval([1.0, 2.0], lambda drawn: np.nan if drawn[0] == drawn[1] else drawn.mean())
    assert found == (1.5, 1.5, 1.5)
    assert np.isnan(bootstrap_interval([1.0, 2.0], lambda drawn: np.nan)).all()


def test_one_unit_cannot_be_resampled():
    for groups in (None, ["a"]):
        found = bootstrap_interval([2.0], np.mean, groups=groups)
        assert found.estimate == 2 and np.isnan(found[1:]).all()
    assert np.isnan(bootstrap_interval([2.0, 4.0], np.mean, groups=["a", "a"]).low)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values: expected at least one value, got none"),
        ([1.0, 2.0], {"groups": ["a"]}, "groups: expected one label for each of 2 values, got 1 labels"),
        ([1.0], {"level": 95.0}, r"level: expected a number between 0 and 1, such as 0\.95, got 95\.0"),
        ([1.0], {"resamples": 0}, "resamples: expected at least 1, got 0"),
    ],
)
def test_bootstrap_refuses(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, np.mean, **options)


def test_crossed_intervals_know_that_rows_and_columns_are_shared():
    rng, inside, narrow = np.random.default_rng(0), 0, 0
    for _ in range(200):
        cells = rng.normal(size=(1, 4, 1)) + rng.normal(size=(1, 1, 6)) + rng.normal(size=(1, 4, 6))
        found = crossed_interval(cells, resamples=200)
        inside += found.low <= 0 <= found.high
        narrow += abs(cells.mean()) <= 1.96 * cells.std() / np.sqrt(cells.size)
    assert inside > 0.8 * 200 > narrow + 30


def test_crossed_intervals_leave_out_what_is_missing():
    cells = np.array([[[1.0, np.nan], [3.0, 5.0]], [[np.nan, np.nan], [7.0, 7.0]]])
    found = crossed_interval(cells)
    assert found.estimate == pytest.approx((3 + 7) / 2)
    assert found.low <= found.estimate <= found.high
    assert np.isnan(crossed_interval(np.ones((1, 1, 1))).low)
