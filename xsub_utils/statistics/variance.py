"""Which factor moves a mask: components of variance of a crossed and nested design."""

from collections.abc import Mapping, Sequence
from math import nan, prod
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from torch import Tensor

from xsub_utils._internal.validation import invalid

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
    square of the means of all cells is a known sum of components, and these equations are solved. In balanced designs
    that is the classical analysis of variance. Components are summed over the heads. Only then are negative sums set
    to 0, which unbiased estimates of small components give half the time, and shares taken.

    Args:
        table: One row per mask, with the columns that `factors` names.
        values: Whether each head is kept, or its importance, in the masks of these rows, in the order of the rows.
        factors: Component → columns whose combinations are its cells. A factor nested in another is named with it,
            as in `DESIGN`, where models are nested in tasks, and draws of data in task, model and language. The last
            component is the residual.
        resamples: Number of samples of heads from which the intervals come.
        level: Level of confidence, between 0 and 1.
        seed: Seed of the resamples.

    Returns:
        component, share, low, high, one row per component in the order of `factors`. A component that the design
        cannot tell from an earlier one, or from the overall mean, is nan and counted there: with one task, "task" is
        part of the mean and "task × language" of "language"; with one mask seed, "data" is part of "model ×
        language". All numbers are nan if nothing varies, and limits are nan with a single head. Limits are percentiles
        over resampled heads: they say what other heads of such models would give for these tasks, languages and
        seeds, and nothing about other tasks, languages or seeds, of which there are too few to resample.

    Raises:
        ValueError: If a column is missing, there is not one row for every combination of levels (levels of a nested
            factor have to be numbered alike in all cells), or values are missing or not one row per mask.

    Source: Searle, Casella and McCulloch 1992, chapter 4.

    Example:
        >>> import xsub_utils as xs
        >>> import numpy as np
        >>> import pandas as pd
        >>> table = pd.DataFrame({"language": ["qaa", "qaa", "qba", "qba"], "seed": [0, 1, 0, 1]})
        >>> masks = np.array([[True, False, True], [True, False, True], [False, True, True], [False, True, True]])
        >>> factors = {"language": ["language"], "seed": ["language", "seed"]}
        >>> xs.variance_shares(table, masks, factors)["share"].tolist()  # the seeds of a language agree
        [1.0, 0.0]
    """
    if not 0 < level < 1:
        raise invalid("level", "a number between 0 and 1, such as 0.95", level)
    cells = _cells(table, values, factors)
    names = _identifiable(cells.shape[:-1], factors)
    components = _components(cells, list(names.values()))
    shares, heads = _shares(components.sum(axis=0)), len(components)
    limits = np.full((2, len(names)), nan)
    if heads > 1 and np.isfinite(shares).all():
        drawn = np.random.default_rng(seed).multinomial(heads, np.full(heads, 1 / heads), size=resamples)
        limits = np.nanquantile(_shares(drawn @ components), [(1 - level) / 2, (1 + level) / 2], axis=0)
    estimates = pd.DataFrame({"share": shares, "low": limits[0], "high": limits[1]}, index=list(names))
    return estimates.reindex(list(factors)).rename_axis("component").reset_index()


def _cells(
    table: pd.DataFrame, values: np.ndarray | Tensor, factors: Mapping[str, Sequence[str]]
) -> Float[np.ndarray, "*levels heads"]:
    """The values, one axis per column of the design, and the heads last."""
    columns = _columns(factors)
    if missing := [column for column in columns if column not in table]:
        raise invalid("table", f"columns {', '.join(columns)}", f"no {', '.join(missing)}")
    values = np.asarray(values, dtype=float)
    if len(values) != len(table) or not np.isfinite(values).all():
        rows = f"{len(values)} rows{'' if np.isfinite(values).all() else ', some of them not finite'}"
        raise invalid("values", f"a row of finite numbers for each of {len(table)} masks", rows)
    codes = [pd.factorize(table[column])[0] for column in columns]
    levels = [int(code.max(initial=-1)) + 1 for code in codes]
    if len(table) != prod(levels) or not len(table) or table.duplicated(columns).any():
        sizes = " × ".join(f"{count} {column}" for count, column in zip(levels, columns, strict=True))
        remedy = "number nested levels alike in all cells"
        raise invalid("table", f"one mask of every combination of {sizes}", f"{len(table)} masks", remedy)
    return values[np.lexsort(codes[::-1])].reshape(*levels, -1)


def _columns(factors: Mapping[str, Sequence[str]]) -> list[str]:
    columns = list(dict.fromkeys(column for cell in factors.values() for column in cell))
    last = list(factors)[-1] if factors else None
    if last is None or set(factors[last]) != set(columns):
        raise invalid("factors", f"a last component of every column: {', '.join(columns)}", repr(last))
    return columns


def _identifiable(levels: tuple[int, ...], factors: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
    """Axes of each component that has cells of its own: axes of columns with one level make no difference."""
    columns = _columns(factors)
    identifiable: dict[str, frozenset[int]] = {}
    for name, cell in factors.items():
        axes = frozenset(axis for axis, column in enumerate(columns) if column in cell and levels[axis] > 1)
        if axes and axes not in identifiable.values():
            identifiable[name] = axes
    return identifiable


def _components(
    cells: Float[np.ndarray, "*levels heads"], effects: Sequence[frozenset[int]]
) -> Float[np.ndarray, "heads components"]:
    """Unbiased variance components of each head.

    The mean of a cell of u holds all effects v, each averaged over as many levels as v has within that cell. So the
    mean square of these means is the squared grand mean plus every component v divided by that number.
    """
    axes = range(cells.ndim - 1)
    effects = [frozenset[int](), *effects]  # the grand mean comes first
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
