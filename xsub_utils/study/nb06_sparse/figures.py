"""The figures of notebook 06: what sparse fine-tuning does to scores, and to whose data predictions rely on."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xsub_utils.study.conditions import Dial
from xsub_utils.study.labels import LABELS, labelled
from xsub_utils.study.plots import (
    LINE,
    RANGE,
    bars,
    in_order,
    legend_above,
    mean_and_range,
    panels,
    share_by_epoch,
    task_panels,
)
from xsub_utils.study.registry import register_figure

_TITLES = {"score": "score", "share": "own language's share"}


@register_figure("variants")
def variants(table: pd.DataFrame) -> Figure:
    """Score of each way of fine-tuning: task, seed, variant, heads, language, score; range over seeds and languages."""
    table = labelled(table, "variant", "heads")
    names, tasks = in_order(table["variant"]), in_order(table["task"])
    figure, axes = panels(tasks, columns=3, width=2.9, height=0.36 * len(names) + 1.1, sharey=True)
    for task, ax in axes:
        views = in_order(table["heads"])
        for place, view in enumerate(views):
            rows = mean_and_range(table[table["task"].eq(task) & table["heads"].eq(view)], "variant", "score", names)
            heights = np.arange(len(names)) + 0.2 * (place - (len(views) - 1) / 2)
            bars(ax, rows, heights, color=sns.color_palette()[place], label=view)
        _chance(ax, table[table["task"] == task])
        ax.set(title=task, xlabel="score", yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    return legend_above(figure)


@register_figure("by_language")
def by_language(table: pd.DataFrame) -> Figure:
    """Full, pruned and sparse, language by language: task, seed, model, language, score; range over seeds."""
    figure, axes = task_panels(labelled(table, "model"), columns=3, width=3.0)
    for task, rows, ax in axes:
        options = {"dodge": 0.5, "linestyle": "none", "markersize": 4}
        sns.pointplot(rows, x="language", y="score", hue="model", ax=ax, **options, **RANGE)
        ax.set(title=task, xlabel="", ylabel="score")
    return legend_above(figure, columns=2)


@register_figure("own_shares")
@register_figure("each_shares")  # of examples that run each through heads of its own language
def own_shares(table: pd.DataFrame) -> Figure:
    """In-language share: task, variant, condition, mean, low, high, chance; a row for each set of heads."""
    table = labelled(table, "variant", "condition")
    order = in_order(table["variant"])
    keys = list(dict.fromkeys(zip(table["variant"], table["condition"], strict=True)))
    keys.sort(key=lambda key: order.index(key[0]))
    heights = np.array([place + 0.8 * order.index(variant) for place, (variant, _) in enumerate(keys)])
    labels, tasks = [condition for _, condition in keys], in_order(table["task"])
    figure, axes = panels(tasks, columns=3, width=3.0, height=0.22 * heights[-1] + 1.5, sharey=True, sharex=True)
    for task, ax in axes:
        rows = table[table["task"] == task].set_index(["variant", "condition"])
        for number, variant in enumerate(order):
            places = [i for i, key in enumerate(keys) if key[0] == variant]
            of_variant = rows.reindex([keys[i] for i in places])
            bars(ax, of_variant, heights[places], color=sns.color_palette()[number], label=variant)
        ax.axvline(table["chance"].iloc[0], ls=":", label="chance", **LINE)
        ax.set(title=task, xlabel="share of the own language", yticks=heights, yticklabels=labels)
        ax.set(ylim=(heights[-1] + 0.5, -0.5))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(0, 1), xticks=(0, 0.25, 0.5, 0.75))  # of all panels, once all bars are there
    return legend_above(figure, columns=3)


@register_figure("differences")
@register_figure("each_differences")  # likewise
def differences(table: pd.DataFrame) -> Figure:
    """What differs by how much, within a model seed and language: task, what, mean, low, high."""
    table = labelled(table, "what")
    names, tasks = in_order(table["what"]), in_order(table["task"])
    figure, axes = panels(tasks, columns=3, width=3.2, height=0.26 * len(names) + 1, sharey=True, sharex=True)
    for task, ax in axes:
        rows = table[table["task"] == task].set_index("what").reindex(names)
        bars(ax, rows, np.arange(len(names), dtype=float))
        ax.axvline(0, **LINE)
        ax.set(title=task, xlabel="difference [points]", yticks=range(len(names)), yticklabels=names)
        ax.set(ylim=(len(names) - 0.5, -0.5))
        ax.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return figure


@register_figure("dynamics")
def dynamics(table: pd.DataFrame) -> Figure:
    """In-language share at each checkpoint alone: task, seed, model, epoch, share, chance; range over seeds."""
    figure, axes = task_panels(labelled(table, "model"), columns=3, width=3.1, height=3.0)
    for task, rows, ax in axes:
        share_by_epoch(ax, rows, by="model", top=1.08 * table["share"].max())
        ax.set(title=task, ylabel="own language's share")
    return legend_above(figure, columns=3)


@register_figure("dials")
def dials(table: pd.DataFrame) -> Figure:
    """Full beside sparse along each dial: dial, value, kept, variant, language, score, share; range over languages.

    Their chance levels are in score_chance and share_chance.
    """
    table = labelled(table, "variant")
    keys = [(measure, dial) for measure in _TITLES for dial in in_order(table["dial"])]
    columns = table["dial"].nunique()
    figure, axes = panels(keys, columns=columns, width=2.6, height=2.3)
    for (measure, dial), ax in axes:
        rows = table[table["dial"] == dial]
        if dial == Dial.SPARSITY:  # a search comes near to what is asked of it
            rows = rows.assign(value=(1 - rows["kept"]).round(2))
        sns.lineplot(rows, x="value", y=measure, hue="variant", style="variant", markers=True, ax=ax, **RANGE)
        levels = rows.groupby("value")[f"{measure}_chance"].mean()
        ax.plot(levels.index, levels, ls=":", label="chance", **LINE)
        top = 1.05 * max(1e-9, table[measure].max())
        ax.set(title="", xlabel=LABELS[dial], ylabel=_TITLES[measure], ylim=(0, top))
        ax.set_xticks(sorted(rows["value"].unique()))
        if measure == "share":
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_above(figure)


@register_figure("composition")
def composition(table: pd.DataFrame) -> Figure:
    """Two languages' heads, or models, together: task, pair, way, language, score; mean and range over seeds."""
    return _ways(table, {"score": "score"})


@register_figure("composed_shares")
def composed_shares(table: pd.DataFrame) -> Figure:
    """Whose data count through heads of both: task, pair, way, language, own, other (shares)."""
    return _ways(table, {"own": "own language's share", "other": "the other language's share"})


def _chance(ax: Axes, rows: pd.DataFrame, across: bool = False) -> None:
    """A dotted line at the mean of the column chance."""
    (ax.axhline if across else ax.axvline)(rows["chance"].mean(), ls=":", label="chance", **LINE)


def _ways(table: pd.DataFrame, values: dict[str, str]) -> Figure:
    """A panel for each task, value and pair; ways from top to bottom."""
    table = labelled(table, "way")
    names = in_order(table["way"])
    keys = [
        (task, value, pair) for task in in_order(table["task"]) for value in values for pair in in_order(table["pair"])
    ]
    columns = table["pair"].nunique() * len(values)
    size = {"width": 2.5, "height": 0.22 * len(names) + 1.1}
    figure, axes = panels(keys, columns=columns, sharex=True, sharey=True, **size)
    for (task, value, pair), ax in axes:
        rows = table[table["task"].eq(task) & table["pair"].eq(pair)]
        for number, code in enumerate(in_order(rows["language"])):
            of_language = mean_and_range(rows[rows["language"] == code], "way", value, names)
            heights = np.arange(len(names)) + 0.24 * (number - 0.5)
            bars(
                ax,
                of_language,
                heights,
                color=sns.color_palette()[number],
                label=("first", "second")[number] + " language",
            )
        _chance(ax, rows)
        ax.set(title=f"{task}, {pair}", xlabel=values[value], yticks=range(len(names)), yticklabels=names)
        ax.set(ylim=(len(names) - 0.5, -0.5))
        ax.label_outer()
    return legend_above(figure)


@register_figure("left_out")
def left_out(table: pd.DataFrame) -> Figure:
    """Scores on a language with and without it in training: task, variant, trained, heads, language, score."""
    table = labelled(table, "variant", "heads", "trained")
    keys = [(task, variant) for task in in_order(table["task"]) for variant in in_order(table["variant"])]
    table = table.assign(trained="trained " + table["trained"])
    figure, axes = panels(keys, columns=4, width=2.6, height=2.6, sharey=True)
    for (task, variant), ax in axes:
        rows = table[table["task"].eq(task) & table["variant"].eq(variant)]
        sns.barplot(rows, x="heads", y="score", hue="trained", ax=ax, **RANGE)
        _chance(ax, rows, across=True)
        ax.set(title=f"{task}\n{variant}", xlabel="", ylabel="score")
        ax.tick_params(axis="x", rotation=30)
    return legend_above(figure)
