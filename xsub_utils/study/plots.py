"""What the figures of the notebooks have in common: colours, panels, heat maps, legends."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

SEQUENTIAL, DIVERGING, QUALITATIVE = "cividis", "vlag", "colorblind"
CHANGE = f"{DIVERGING}_r"  # red is worse
RANGE = {"errorbar": ("pi", 100)}  # lines: from the lowest to the highest of all seeds
SPREAD = {"errorbar": "sd"}  # points: ± one standard deviation over all seeds
LINE: dict[str, Any] = {"color": ".4", "lw": 0.8}  # of a reference, such as 0 or chance
LEAST_WIDTH = 6.5  # inches; a legend of eight languages needs them


def in_order(values: pd.Series) -> list:
    """Distinct values in the order in which they first appear."""
    return list(dict.fromkeys(values))


def square(table: pd.DataFrame, index: str, columns: str, values: str) -> pd.DataFrame:
    """Mean of `values` in a matrix, rows and columns in the order of the table."""
    matrix = table.pivot_table(index=index, columns=columns, values=values, aggfunc="mean", sort=False)
    return matrix.reindex(index=in_order(table[index]), columns=in_order(table[columns]))


def heat(matrix: pd.DataFrame, ax: Axes, label: str, **kwargs: Any) -> Axes:
    """A matrix of numbers as colours and as two-digit text, with a labelled colour bar."""
    options = {
        "cmap": SEQUENTIAL,
        "annot": matrix.round(2) + 0.0 if matrix.size <= 150 else None,  # + 0.0: no "-0.00"
        "fmt": ".2f",
        "annot_kws": {"size": 7},
        "square": True,
        "linewidths": 0.4,
        "cbar_kws": {"label": label, "shrink": 0.8},
    }
    ax.figure.set_visible(False)  # seaborn draws the whole figure each time, to see whether labels overlap
    try:
        return sns.heatmap(matrix, ax=ax, **(options | kwargs))
    finally:
        ax.figure.set_visible(True)


def panels(
    keys: list, columns: int = 4, width: float = 3.0, height: float = 2.8, **kwargs: Any
) -> tuple[Figure, list[tuple[Any, Axes]]]:
    """A grid of axes, one for each key, the rest hidden: the figure, and pairs (key, axes)."""
    columns = min(columns, len(keys))
    rows = -(-len(keys) // columns)
    size = (max(width * columns, LEAST_WIDTH), height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **kwargs)
    for ax in axes.flat[len(keys) :]:
        ax.set_visible(False)
    return figure, list(zip(keys, axes.flat, strict=False))


def task_panels(
    table: pd.DataFrame, columns: int = 4, width: float = 2.5, height: float = 2.6, sharey: bool = True
) -> tuple[Figure, list[tuple[str, pd.DataFrame, Axes]]]:
    """A panel for each task of the table: the figure, and triples (task, its rows, its axes)."""
    figure, axes = panels(in_order(table["task"]), columns, width, height, sharey=sharey)
    return figure, [(task, table[table["task"] == task], ax) for task, ax in axes]


def mean_and_range(table: pd.DataFrame, by: str, value: str, order: list) -> pd.DataFrame:
    """Mean, lowest and highest of `value` for each of `by` in an order, as `bars` takes them: mean, low, high."""
    return table.groupby(by)[value].agg(mean="mean", low="min", high="max").reindex(order)


def bars(ax: Axes, rows: pd.DataFrame, heights: np.ndarray, color: Any = None, **kwargs: Any) -> None:
    """Means with their ranges, one under the other; an unknown range draws none, and a mean may lie outside.

    Args:
        ax: Where to draw.
        rows: Columns mean, low, high.
        heights: Of the rows.
        color: By default the first of the palette.
        **kwargs: Of the points.
    """
    limits = (rows[name].fillna(rows["mean"]) for name in ("low", "high"))
    options = {"color": color or sns.color_palette()[0]}
    ax.hlines(heights, *limits, lw=1.4, **options)
    ax.plot(rows["mean"], heights, ls="", marker="o", ms=5, **options, **kwargs)


def is_first(ax: Axes) -> bool:
    """Whether a panel stands on the left, so that its axis is labelled for the whole row."""
    place = ax.get_subplotspec()
    return place is not None and place.is_first_col()


def legend_above(figure: Figure, columns: int = 8) -> Figure:
    """The figure with the legend of its first panel above all panels, in place of their own."""
    handles = figure.axes[0].get_legend_handles_labels()
    for ax in figure.axes:
        if legend := ax.get_legend():
            legend.remove()
    figure.legend(*handles, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def legend_right(figure: Figure) -> Figure:
    """The figure with one legend beside all panels, of every name that one of them has."""
    handles: dict[str, Artist] = {}
    for ax in figure.axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if legend := ax.get_legend():
            legend.remove()
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    return figure


def language_lines(table: pd.DataFrame, x: str, y: str, ylabel: str) -> Figure:
    """A panel for each task, a line for each language over whole numbers `x`; bands hold all seeds."""
    figure, axes = task_panels(table)
    for task, rows, ax in axes:
        sns.lineplot(rows, x=x, y=y, hue="language", ax=ax, marker="o", ms=4, **RANGE)
        ax.set(title=task, xlabel=x, ylabel=ylabel)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend_above(figure)


def share_by_epoch(ax: Axes, rows: pd.DataFrame, by: str, top: float) -> None:
    """The share of the own language at each checkpoint, a line for every value of a column, and the chance level."""
    sns.lineplot(rows, x="epoch", y="share", hue=by, style=by, markers=True, ax=ax, **RANGE)
    ax.axhline(rows["chance"].mean(), ls=":", label="chance", **LINE)
    ax.set(ylim=(0, top))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
