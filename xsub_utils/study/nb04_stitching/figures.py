"""The figures of notebook 04: what stitched models score, and how that relates to other kinds of likeness."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xsub_utils.study.conditions import Map
from xsub_utils.study.labels import labelled
from xsub_utils.study.plots import RANGE, heat, in_order, is_first, legend_right, panels, square
from xsub_utils.study.registry import register_figure

TITLES = {"ra": "relative accuracy", "above_chance": "relative accuracy above chance"}
MARKERS = ["o", "s", "D", "^", "v", "P", "X", "h"]
LEGENDS = ("front differs in", "control")


@register_figure("conditions")
def conditions(table: pd.DataFrame) -> Figure:
    """Trained maps by level: group, condition, map, level, task, ra, above_chance; bands hold all tasks."""
    groups = in_order(table["group"])
    keys = [(group, value) for group in groups for value in TITLES]
    figure, axes = panels(keys, columns=2, width=4.3, height=2.9, sharex=True, sharey="col")
    for (group, value), ax in axes:
        rows = labelled(table[table["group"].eq(group) & table["map"].eq(Map.TRAINED)], "condition")
        names = in_order(rows["condition"])
        looks = {"style": "condition", "markers": MARKERS[: len(names)], "dashes": False, "ms": 6}
        rest = sns.color_palette()[1:] if group == groups[0] else sns.color_palette("Dark2")
        looks["palette"] = [sns.color_palette()[0], *rest][: len(names)]
        sns.lineplot(rows, x="level", y=value, hue="condition", ax=ax, err_kws={"alpha": 0.07}, **looks, **RANGE)
        ax.axhline(1, color=".4", lw=0.8)
        ax.set(title=TITLES[value] if group == groups[0] else "", xlabel="stitched after layer")
        ax.set_ylabel(group if is_first(ax) else "")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if is_first(ax):
            legend = ax.get_legend()
            if legend is not None:
                legend.remove()
        else:
            sns.move_legend(
                ax, "center left", bbox_to_anchor=(1, 0.5), title=LEGENDS[groups.index(group)], frameon=False
            )
    return figure


@register_figure("maps")
def maps(table: pd.DataFrame) -> Figure:
    """Relative accuracy above chance through both maps: condition, map, level, above_chance."""
    table = labelled(table, "condition", "map")
    names = in_order(table["map"])
    height = 0.24 * table["condition"].nunique() + 1
    figure, axes = panels(names, columns=2, width=4.2, height=height, sharey=True)
    for name, ax in axes:
        matrix = square(table[table["map"] == name], "condition", "level", "above_chance")
        heat(matrix, ax, "", square=False, vmin=min(0, table["above_chance"].min()), vmax=1, cbar=False)
        ax.set(title=f"{name} map", xlabel="stitched after layer", ylabel="front" if is_first(ax) else "")
    return figure


@register_figure("languages_stitched")
def languages_stitched(table: pd.DataFrame) -> Figure:
    """Fronts of one language, ends of another: level, a, b, value column; the diagonal is another mask seed."""
    return _by_level(table, "front, subnetwork of", "end, subnetwork of")


@register_figure("tasks_stitched")
def tasks_stitched(table: pd.DataFrame) -> Figure:
    """Fronts of one task, ends of another: level, a, b, value column; the diagonal is another model seed."""
    return _by_level(table, "front, task", "end, task")


def _by_level(table: pd.DataFrame, front: str, end: str) -> Figure:
    value, side = table.columns[-1], 0.43 * table["a"].nunique() + 0.7
    figure, axes = panels(in_order(table["level"]), columns=4, width=side + 0.1, height=side + 0.2)
    scale = {"vmin": min(0, table[value].min()), "vmax": 1}
    for level, ax in axes:
        heat(square(table[table["level"] == level], "a", "b", value), ax, "", cbar=False, **scale)
        ax.set(title=f"after layer {level}", xlabel=end, ylabel=front if is_first(ax) else "")
        ax.tick_params(axis="y", rotation=0)
        ax.tick_params(axis="x", rotation=90)
    return figure


@register_figure("pairs")
def pairs(table: pd.DataFrame) -> Figure:
    """Pairs of tasks by level: level, a, b, value column; the published form of the matrix."""
    value = table.columns[-1]
    named = table.assign(pair=table["a"] + " → " + table["b"])
    height = max(0.24 * named["pair"].nunique() + 0.9, 2.4)  # room for the label of the colours
    figure, [(_, ax)] = panels(["all"], width=4.4, height=height)
    heat(
        square(named, "pair", "level", value),
        ax,
        "relative accuracy above chance",
        square=False,
        vmin=min(0, table[value].min()),
        vmax=1,
    )
    ax.set(xlabel="stitched after layer", ylabel="front → end")
    return figure


@register_figure("against")
def against(table: pd.DataFrame) -> Figure:
    """Relative accuracy above chance beside other kinds of likeness: front, level, kind, likeness, above_chance."""
    table = labelled(table, "kind", "front")
    figure, axes = panels(in_order(table["kind"]), columns=3, width=3.0, height=3.1, sharey=True)
    for kind, ax in axes:
        rows = table[table["kind"] == kind]
        points = {"s": 22, "alpha": 0.8, "linewidth": 0.2, "markers": MARKERS[: rows["level"].nunique()]}
        sns.scatterplot(rows, x="likeness", y="above_chance", hue="front", style="level", ax=ax, **points)
        low = np.nanmin([0, rows["likeness"].min()])
        ax.set(title=kind, xlabel="likeness", ylabel="relative accuracy above chance", xlim=(low - 0.05, 1.05))
    return legend_right(figure)
