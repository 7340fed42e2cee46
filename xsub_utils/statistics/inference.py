"""Inference where cells or rows are not independent: matrices over the same objects, and values in groups."""

import warnings
from collections.abc import Callable, Sequence
from itertools import permutations as all_orders
from math import factorial, nan
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from xsub_utils._internal.validation import invalid, one_of, whole

_EXACT = 7  # number of objects up to which all orders are tried: 5,040
_TOLERANCE = 1e-12  # orders that give the same correlation differ in its last bits
_CELLS = 2**21  # cells permuted at a time

Square: TypeAlias = pd.DataFrame | Shaped[np.ndarray, "objects objects"]
Values: TypeAlias = pd.DataFrame | pd.Series | np.ndarray | Sequence[Any]


class MantelResult(NamedTuple):
    """Correlation of two matrices and its permutation test.

    Attributes:
        r: The correlation.
        p: Share of the orders of the objects, the given order among them, whose correlation is as extreme.
        permutations: Number of orders tried beside the given one.
        exact: Whether these are all orders.
    """

    r: float
    p: float
    permutations: int
    exact: bool


class Interval(NamedTuple):
    """An estimate and the limits of its confidence interval."""

    estimate: float
    low: float
    high: float


def mantel(
    x: Square,
    y: Square,
    *,
    permutations: int = 9999,
    method: str = "spearman",
    seed: int = 0,
    alternative: str = "greater",
) -> MantelResult:
    """Correlation between two matrices over the same objects, with a p that allows for the dependence of their cells.

    The cells of one object move together. Under the null hypothesis the objects of `y` are exchangeable, so that rows
    and columns of `y` are permuted alike. All cells off the diagonal count; symmetric matrices need not be halved.

    Args:
        x: Square matrix, for example of distances; it may be asymmetric. A nan is a missing cell.
        y: Another square matrix. The labels of two DataFrames, or the order of two arrays, say which objects of x and
            y are the same.
        permutations: Number of random orders to try beside the given one. Of up to seven objects, all orders are tried.
        method: "spearman" or "pearson", over the cells present in both matrices under the order in question.
        seed: Seed of the random orders.
        alternative: Which orders count as extreme: those whose correlation is at least as high as that of the given
            order ("greater"), at least as low ("less") or at least as far from 0 ("two-sided"). An order counts too if
            too few cells remain for a correlation.

    Returns:
        r, p, the number of permutations and whether they are all. r and p are nan, with a warning, if the cells of
        one matrix are all equal.

    Raises:
        ValueError: If the matrices are not square, have other labels or sizes, infinite cells or fewer than three
            objects, or a choice is unknown.

    Source: Mantel 1967; the given order counted among the random ones: Phipson and Smyth 2010.

    Example:
        >>> import xsub_utils as xs
        >>> import numpy as np
        >>> place = np.array([0.0, 1.0, 3.0, 7.0])
        >>> distance = np.abs(place[:, None] - place)
        >>> result = xs.mantel(distance, distance**2)  # rising together
        >>> round(result.r, 3), round(result.p, 3), result.exact
        (1.0, 0.042, True)
    """
    one_of("method", method, ("spearman", "pearson"))
    one_of("alternative", alternative, ("greater", "less", "two-sided"))
    whole("permutations", permutations, 1)
    x, y = _same_objects(x, y)
    exact = len(x) <= _EXACT
    orders = _orders(len(x), factorial(len(x)) - 1 if exact else permutations, exact, seed)
    r = _correlations(x, y, orders, method == "spearman")
    if np.isnan(r[0]):
        warnings.warn("x, y: the cells of one are all equal; r and p are nan", RuntimeWarning, stacklevel=2)
        return MantelResult(nan, nan, len(orders) - 1, exact)
    extreme = {"greater": r, "less": -r, "two-sided": np.abs(r)}[alternative]
    share = np.mean(~(extreme < extreme[0] - _TOLERANCE))  # nan counts
    return MantelResult(float(r[0]), float(share), len(orders) - 1, exact)


def bootstrap_interval(
    values: Values,
    statistic: Callable[[Any], float],
    *,
    groups: Sequence[Any] | np.ndarray | pd.Series | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic with its percentile bootstrap interval over independent units.

    Args:
        values: One row or entry per value.
        statistic: A function of resampled values, which it gets in the type given here (rows of a DataFrame keep
            their index), or as an array if `values` is a sequence.
        groups: A label per value; values of one label depend on each other and are drawn together. None makes every
            value a unit of its own.
        resamples: Number of samples, each of as many units, to draw with replacement.
        level: Level of confidence, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        The statistic of all values, and its quantiles (1 ± level) / 2 over the resamples; resamples in which it is
        nan are left out. The limits are nan if there is a single unit.

    Raises:
        ValueError: If there are no values, not one group label per value, no resamples, or no such level.

    Source: Efron and Tibshirani 1993, section 13.3; whole groups: Davison and Hinkley 1997, section 3.8.

    Example:
        >>> import xsub_utils as xs
        >>> import numpy as np
        >>> scores = [0.70, 0.72, 0.81, 0.79, 0.64, 0.66]  # two languages of each of three models
        >>> interval = xs.bootstrap_interval(scores, np.mean, groups=["a", "a", "b", "b", "c", "c"])
        >>> [round(value, 2) for value in interval]
        [0.72, 0.65, 0.8]
    """
    if not 0 < level < 1:
        raise invalid("level", "a number between 0 and 1, such as 0.95", level)
    if resamples < 1:
        raise invalid("resamples", "at least 1", resamples)
    values = values if isinstance(values, pd.DataFrame | pd.Series) else np.asarray(values)
    units = _units(len(values), groups)
    estimate = float(statistic(values))
    if len(units) == 1:
        return Interval(estimate, nan, nan)
    rows = values.iloc if isinstance(values, pd.DataFrame | pd.Series) else values
    draws = np.random.default_rng(seed).integers(len(units), size=(resamples, len(units)))
    drawn = np.array([statistic(rows[np.concatenate([units[unit] for unit in draw])]) for draw in draws], dtype=float)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (nan, nan)
    return Interval(estimate, float(low), float(high))


def _units(count: int, groups: Any) -> list[np.ndarray]:
    """Positions of the values of every unit."""
    labels = np.arange(count) if groups is None else pd.factorize(np.asarray(groups), use_na_sentinel=False)[0]
    if len(labels) != count:
        raise invalid("groups", f"one label for each of {count} values", f"{len(labels)} labels")
    if not count:
        raise invalid("values", "at least one value", "none")
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])


def _same_objects(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both matrices as numbers, in the order of x, without their diagonals."""
    if isinstance(x, pd.DataFrame) != isinstance(y, pd.DataFrame):
        raise invalid("x, y", "two DataFrames or two arrays", "one of each")
    labels = x.index if isinstance(x, pd.DataFrame) else None
    x, y = _cells("x", x, labels), _cells("y", y, labels)
    if x.shape != y.shape:
        raise invalid("x, y", "matrices over the same objects", f"shapes {x.shape} and {y.shape}")
    return x, y


def _cells(name: str, matrix: Any, labels: pd.Index | None) -> np.ndarray:
    if labels is not None:
        for axis in (matrix.index, matrix.columns):
            if not axis.is_unique or set(axis) != set(labels):
                raise invalid(name, f"each of the labels {list(labels)} once", list(axis))
        matrix = matrix.loc[labels, labels]
    cells = np.array(matrix, dtype=float)
    if cells.ndim != 2 or cells.shape[0] != cells.shape[1] or len(cells) < 3:
        raise invalid(name, "a square matrix over at least 3 objects", f"shape {cells.shape}")
    if np.isinf(cells).any():
        raise invalid(name, "finite cells", "infinity", "write nan for a missing cell")
    np.fill_diagonal(cells, nan)
    return cells


def _orders(count: int, others: int, exact: bool, seed: int) -> Int[np.ndarray, "orders objects"]:
    """The given order, then all others or random ones."""
    if exact:
        return np.array(list(all_orders(range(count))))
    if others < 1:
        raise invalid("permutations", "at least 1, better 999 or more", others)
    given = np.tile(np.arange(count), (others + 1, 1))
    given[1:] = np.random.default_rng(seed).permuted(given[1:], axis=1)
    return given


def _correlations(x: np.ndarray, y: np.ndarray, orders: np.ndarray, ranked: bool) -> Float[np.ndarray, " orders"]:
    """Correlations of x with y under every order of y's objects."""
    complete = np.count_nonzero(np.isnan(x) | np.isnan(y)) == len(x)
    if complete:  # ranks and norms move with their cells: once is enough
        x, y = (_unit(matrix.reshape(1, -1), ranked).reshape(matrix.shape) for matrix in (x, y))
    step = max(1, _CELLS // x.size)
    blocks = []
    for start in range(0, len(orders), step):
        order = orders[start : start + step]
        permuted = y[order[:, :, None], order[:, None, :]].reshape(len(order), -1)
        blocks.append(permuted @ x.ravel() if complete else _row_correlations(x.reshape(1, -1), permuted, ranked))
    return np.concatenate(blocks)


def _row_correlations(x: np.ndarray, y: np.ndarray, ranked: bool) -> Float[np.ndarray, " rows"]:
    """Correlations of the one row of x with every row of y, over the cells that both have."""
    missing = np.isnan(x) | np.isnan(y)
    return (_unit(np.where(missing, nan, x), ranked) * _unit(np.where(missing, nan, y), ranked)).sum(axis=1)


def _unit(rows: np.ndarray, ranked: bool) -> Float[np.ndarray, "rows cells"]:
    """Rows (or their ranks) centred and of length 1, with 0 for missing cells; nan where all cells are equal."""
    if ranked:
        rows = rankdata(rows, axis=1, nan_policy="omit")
    missing = np.isnan(rows)
    mean = np.nansum(rows, axis=1, keepdims=True) / np.maximum((~missing).sum(axis=1, keepdims=True), 1)
    centred = np.where(missing, 0, rows - mean)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    varied = np.fmin.reduce(rows, axis=1, keepdims=True) < np.fmax.reduce(rows, axis=1, keepdims=True)
    return centred / np.where(varied, length, nan)


def crossed_interval(
    cells: Float[np.ndarray, "strata rows columns"], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean of a table whose rows and columns are both drawn, such as model seeds and languages, with its interval.

    Rows share their columns and columns their rows, so that cells are not independent. Both are resampled: rows within
    each stratum (such as a task, with models of its own), and columns, which all strata share, for all strata at once.

    Args:
        cells: The table, a stratum at a time; nan where a cell is missing.
        level: Level of confidence, between 0 and 1.
        resamples: Number of samples of rows and columns.
        seed: Seed of the draws.

    Returns:
        Mean over strata of the means of their cells, with percentile limits, which are nan for a single row and column.

    Source: Owen 2007, the pigeonhole bootstrap; conservative.
    """
    strata, rows, columns = cells.shape
    rng, known = np.random.default_rng(seed), ~np.isnan(cells)
    filled = np.where(known, cells, 0.0)

    def means(row_weights: np.ndarray, column_weights: np.ndarray) -> np.ndarray:
        total = np.einsum("bsr,bc,src->bs", row_weights, column_weights, filled)
        count = np.einsum("bsr,bc,src->bs", row_weights, column_weights, known.astype(float))
        with np.errstate(invalid="ignore"):
            return (total / count).mean(axis=1)

    estimate = float(means(np.ones((1, strata, rows)), np.ones((1, columns)))[0])
    if rows * columns < 2:
        return Interval(estimate, nan, nan)
    drawn = means(
        rng.multinomial(rows, np.full(rows, 1 / rows), (resamples, strata)).astype(float),
        rng.multinomial(columns, np.full(columns, 1 / columns), resamples).astype(float),
    )
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
