"""Which factor moves a mask: components of variance of a crossed and nested design."""

from collections.abc import Mapping, Sequence
from math import nan, prod
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from torch import Tensor

# A model is a fine-tuning seed of one task: seed 0 of nli and seed 0 of ner have nothing in common.
DESIGN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "task": ("task",),
        "language": ("language",),
        "task × language": ("task", "language"),
        "model": ("task", "seed"),
        "model × language": ("task", "seed", "language"),
        "data": ("task", "seed", "language", "mask_seed"),
    }
)


def variance_shares(
    table: pd.DataFrame,
    values: Shaped[np.ndarray, "masks heads"] | Shaped[Tensor, "masks heads"],
    factors: Mapping[str, Sequence[str]] = DESIGN,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Shares of the variance of masks, or of importances, that lie between tasks, languages, models and data.

    All effects are random. Each component is estimated without bias by the method of moments: the expected mean
    square of the means of all cells is a known sum of components, whose equations are solved; in such balanced
    designs that is the classical analysis of variance. Components are summed over the heads, and only then are
    negative sums, which unbiased estimates of small components have half the time, set to 0 and shares taken.

    Args:
        table: One row per mask, with the columns that `factors` names.
        values: Kept or not, or importance, of each head in the masks of these rows, in the order of the rows.
        factors: Component → columns whose combinations are its cells. A factor nested in another is named with it,
            as in `DESIGN`, where models are nested in tasks and draws of data in task, model and language. The last
            component is the residual.
        resamples: How many samples of as many heads the intervals come from.
        level: Of confidence, between 0 and 1.
        seed: Of the resamples.

    Returns:
        component, share, low, high, one row per component in the order of `factors`. A component that the design
        cannot tell from an earlier one, or from the mean of all, is nan and counted there: of one task "task" is
        part of the mean, and "task × language" of "language"; of one mask seed, "data" is part of "model ×
        language". All are nan if nothing varies, and the limits are with a single head. They are percentiles over
        resampled heads: what other heads of such models would give, for these very tasks, languages and seeds.
        They say nothing about other tasks, languages or seeds, of which there are too few to resample.

    Raises:
        ValueError: If a column is missing, there is not one row for every combination of levels (levels of a nested
            factor have to be numbered alike in all cells), or values are missing or not one row per mask.

    Source: Searle, Casella and McCulloch 1992, chapter 4.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1, such as 0.95")
    cells = _cells(table, values, factors)
    names = _identifiable(cells.shape[:-1], factors)
    components = _components(cells, list(names.values()))
    shares, heads = _shares(components.sum(axis=0)), len(components)
    limits = np.full((2, len(names)), nan)
    if heads > 1 and np.isfinite(shares).all():
        drawn = np.random.default_rng(seed).multinomial(heads, np.full(heads, 1 / heads), size=resamples)
        limits = np.nanquantile(_shares(drawn @ components), [(1 - level) / 2, (1 + level) / 2], axis=0)
    found = pd.DataFrame({"share": shares, "low": limits[0], "high": limits[1]}, index=list(names))
    return found.reindex(list(factors)).rename_axis("component").reset_index()


def _cells(
    table: pd.DataFrame, values: np.ndarray | Tensor, factors: Mapping[str, Sequence[str]]
) -> Float[np.ndarray, "*levels heads"]:
    """The values, one axis per column of the design, and the heads last."""
    columns = _columns(factors)
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"table: has no column {', '.join(missing)}; the design needs {', '.join(columns)}")
    values = np.asarray(values, dtype=float)
    if len(values) != len(table) or not np.isfinite(values).all():
        raise ValueError(
            f"values: {len(values)} rows for {len(table)} masks; one of finite numbers each would be right"
        )
    codes = [pd.factorize(table[column])[0] for column in columns]
    levels = [int(code.max(initial=-1)) + 1 for code in codes]
    if len(table) != prod(levels) or not len(table) or table.duplicated(columns).any():
        sizes = " × ".join(f"{count} {column}" for count, column in zip(levels, columns, strict=True))
        raise ValueError(
            f"table: {len(table)} masks are not balanced over {sizes}; one mask of every combination would be right "
            "(nested levels numbered alike in all cells)"
        )
    return values[np.lexsort(codes[::-1])].reshape(*levels, -1)


def _columns(factors: Mapping[str, Sequence[str]]) -> list[str]:
    columns = list(dict.fromkeys(column for cell in factors.values() for column in cell))
    last = list(factors)[-1] if factors else None
    if last is None or set(factors[last]) != set(columns):
        raise ValueError(f"factors: the last, {last!r}, must name every column: {', '.join(columns)}")
    return columns


def _identifiable(levels: tuple[int, ...], factors: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
    """Axes of each component that has cells of its own: those of columns with one level make no difference."""
    columns = _columns(factors)
    found: dict[str, frozenset[int]] = {}
    for name, cell in factors.items():
        axes = frozenset(axis for axis, column in enumerate(columns) if column in cell and levels[axis] > 1)
        if axes and axes not in found.values():
            found[name] = axes
    return found


def _components(
    cells: Float[np.ndarray, "*levels heads"], effects: Sequence[frozenset[int]]
) -> Float[np.ndarray, "heads components"]:
    """Unbiased variance components of each head.

    The mean of a cell of u holds all effects v, each averaged over as many levels as v has within that cell; so the
    mean square of these means is the squared grand mean plus every component of v divided by that number.
    """
    axes = range(cells.ndim - 1)
    effects = [frozenset(), *effects]  # the grand mean comes first
    centred = cells - cells.mean(axis=tuple(axes), keepdims=True)
    squares = [
        (centred.mean(axis=tuple(a for a in axes if a not in u), keepdims=True) ** 2).mean(axis=tuple(axes))
        for u in effects
    ]
    within = [[1 / prod(cells.shape[axis] for axis in v - u) for v in effects] for u in effects]
    return np.linalg.solve(np.array(within), np.array(squares))[1:].T


def _shares(sums: Float[np.ndarray, "*samples components"]) -> Float[np.ndarray, "*samples components"]:
    positive = np.maximum(sums, 0)
    total = positive.sum(axis=-1, keepdims=True)
    return np.divide(positive, total, out=np.full_like(positive, nan), where=total > 0)
