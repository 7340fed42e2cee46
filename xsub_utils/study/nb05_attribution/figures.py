"""The figures of notebook 05: whose training data count, through which heads, and what else moves with that."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from xsub_utils.study.conditions import AttributedHeads, Removed
from xsub_utils.study.labels import LABELS, labelled
from xsub_utils.study.plots import (
    LINE,
    RANGE,
    bars,
    heat,
    in_order,
    is_first,
    legend_above,
    legend_right,
    mean_and_range,
    panels,
    share_by_epoch,
    square,
    task_panels,
)
from xsub_utils.study.registry import register_figure

SIGNS = {"positive": 0, "negative": 3}  # colours


@register_figure("influence")
def influence(table: pd.DataFrame) -> Figure:
    """Whose data count for whom: condition, task, a (test language), b (training language), share."""
    table = labelled(table, "condition")
    conditions, tasks = in_order(table["condition"]), in_order(table["task"])
    side = 0.36 * table["a"].nunique() + 0.8
    keys = [(task, condition) for task in tasks for condition in conditions]
    figure, axes = panels(keys, columns=len(conditions), width=side + 0.2, height=side + 0.2)
    scale = {"vmin": 0, "vmax": table["share"].max()}
    for (task, condition), ax in axes:
        rows = table[table["task"].eq(task) & table["condition"].eq(condition)]
        heat(square(rows, "a", "b", "share"), ax, "", cbar=False, **scale)
        ax.set(title=f"{task}, {condition}", xlabel="training language")
        ax.set_ylabel("test language" if is_first(ax) else "")
        ax.tick_params(axis="y", rotation=0)
        ax.tick_params(axis="x", rotation=90)
    return figure


@register_figure("specialisation")
def specialisation(table: pd.DataFrame) -> Figure:
    """Rise of the in-language share over the full model: task, sign, condition, mean, low, high."""
    return _estimates(table, "rise of the share [points]")


@register_figure("contrasts")
def contrasts(table: pd.DataFrame) -> Figure:
    """Excess of the own subnetwork over each other set of heads: task, sign, condition, mean, low, high."""
    return _estimates(table, "own − these [points]")


def _estimates(table: pd.DataFrame, label: str) -> Figure:
    table = labelled(table, "condition")
    names, tasks = in_order(table["condition"]), in_order(table["task"])
    figure, axes = panels(tasks, columns=3, width=2.6, height=0.4 * len(names) + 1.1, sharey=True, sharex=True)
    for task, ax in axes:
        for place, (sign, colour) in enumerate(SIGNS.items()):
            rows = table[table["task"].eq(task) & table["sign"].eq(sign)].set_index("condition").reindex(names)
            heights = np.arange(len(names)) + 0.12 * (2 * place - 1)
            bars(ax, rows, heights, color=sns.color_palette()[colour], label=f"most {sign} examples")
        ax.axvline(0, **LINE)
        ax.set(title=task, xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return legend_above(figure)


def _tones(names: list[str]) -> dict[str, str | tuple]:
    """Grey for random masks of any size, a colour for each other set of heads."""
    colours = iter(sns.color_palette("Dark2", len(names)))
    any_size = LABELS[AttributedHeads.RANDOM_ANY_SIZE]
    return {name: ".75" if name == any_size else next(colours) for name in names}


@register_figure("damage")
def damage(table: pd.DataFrame) -> Figure:
    """Rise of the in-language share beside the score kept: task, condition, retained, rise; a point a mask."""
    table = labelled(table, "condition")
    figure, axes = panels(in_order(table["task"]), columns=3, width=3.2, height=3.1, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        order = in_order(table["condition"])[::-1]  # the own subnetwork on top
        options = {"s": 22, "linewidth": 0.2, "hue_order": order, "style_order": order, "palette": _tones(order)}
        rows = rows.sort_values("condition", key=lambda names: names.map(order.index), kind="stable")
        sns.scatterplot(rows, x="retained", y="rise", hue="condition", style="condition", ax=ax, **options)
        ax.axhline(0, **LINE)
        ax.set(title=task, xlabel="score / full model's", ylabel="rise of the own language's share")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_right(figure)


@register_figure("epochs")
def epochs(table: pd.DataFrame) -> Figure:
    """In-language share at each checkpoint: task, condition, epoch, share, chance; bands hold all models."""
    table = labelled(table, "condition")
    figure, axes = task_panels(table, columns=3, width=3.0)
    means = table.groupby(["task", "seed", "condition", "epoch"], sort=False, as_index=False)[
        ["share", "chance"]
    ].mean()
    for task, _, ax in axes:
        rows = means[means["task"] == task]
        share_by_epoch(ax, rows, by="condition", top=1.08 * means["share"].max())
        ax.set(title=task, ylabel="share of the own language")
    return legend_above(figure, columns=4)


@register_figure("groups")
def groups(table: pd.DataFrame) -> Figure:
    """In-language share when one group of parameters ranks: task, group, share, chance; bars hold languages."""
    names = in_order(table["group"])
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.8, height=0.24 * len(names) + 1, sharey=True)
    for task, ax in axes:
        rows = mean_and_range(table[table["task"] == task], "group", "share", names)
        bars(ax, rows, np.arange(len(names)), label="mean and range over languages")
        ax.axvline(table["chance"].mean(), ls=":", label="chance", **LINE)
        ax.set(title=task, xlabel="share of the own language", yticks=range(len(names)))
        ax.set_yticklabels(["task head" if name == "head" else name for name in names])
        ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, None))
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_above(figure)


@register_figure("translations")
def translations(table: pd.DataFrame) -> Figure:
    """Top examples whose translation is among them, too: task, condition, translated, chance."""
    long = labelled(table, "condition").melt(["task", "seed", "condition"], ["translated", "chance"], "what", "share")
    long = long.replace({"what": {"translated": "found", "chance": "by chance"}})
    figure, axes = panels(in_order(long["condition"]), columns=3, width=3.0, height=2.6, sharey=True)
    for condition, ax in axes:
        rows = long[long["condition"] == condition]
        sns.barplot(rows, x="task", y="share", hue="what", ax=ax, **RANGE)
        ax.set(title=condition, xlabel="", ylabel="share of the top examples")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_above(figure)


@register_figure("influence_pairs")
def influence_pairs(table: pd.DataFrame) -> Figure:
    """Influence of one language on another beside their likeness: measure, task, likeness, share; a point a pair.

    With a column model (notebook 06) a panel for each measure and model.
    """
    titles = labelled(table, "measure")["measure"]
    if "model" in table:
        titles = titles + ",\n" + labelled(table, "model")["model"]
    figure, axes = panels(in_order(titles), columns=3, width=2.8, height=2.6, sharey=True)
    for title, ax in axes:
        rows = table[titles == title]
        sns.scatterplot(rows, x="likeness", y="share", hue="task", style="task", s=22, alpha=0.8, ax=ax)
        ax.set(title=title, xlabel="value for the pair of languages", ylabel="share among other languages")
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_above(figure)


@register_figure("imbalance")
def imbalance(table: pd.DataFrame) -> Figure:
    """Share of a language beside its share of the training data: changed, examples (own or others), chance, share."""
    table = labelled(table, "examples")
    figure, axes = panels(in_order(table["changed"]), columns=3, width=2.9, height=2.7, sharey=True)
    for changed, ax in axes:
        rows = table[table["changed"] == changed]
        sns.lineplot(rows, x="chance", y="share", hue="examples", style="examples", markers=True, ax=ax, **RANGE)
        ends = [0, rows["chance"].max()]
        ax.plot(ends, ends, ls=":", label="chance", **LINE)
        ax.set(title=f"more or less of {changed}", ylabel="its share of the top examples")
        ax.set_xlabel("its share of the training data")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return legend_above(figure)


@register_figure("unseen")
def unseen(table: pd.DataFrame) -> Figure:
    """Whose data count for a language that was not trained on: a (that language), b (training language), share."""
    figure, [(_, ax)] = panels(["all"], width=5.5, height=0.45 * table["a"].nunique() + 1.2)
    matrix = square(table, "a", "b", "share")  # a language that was left out has no column in its own row
    heat(matrix[sorted(matrix)], ax, "", vmin=0, cbar=False)
    ax.set(title="share of the top examples", xlabel="training language", ylabel="test language\n(not trained on)")
    ax.tick_params(axis="y", rotation=0)
    return figure


@register_figure("removals")
def removals(table: pd.DataFrame) -> Figure:
    """Confidence and loss after training without some examples: language, removed, seed, change, loss."""
    full = table[table["removed"] == Removed.NOTHING].set_index(["language", "seed"])["loss"].rename("full")
    changed = labelled(table[table["removed"] != Removed.NOTHING], "removed").join(full, on=["language", "seed"])
    changed = changed.assign(rise=changed["loss"] - changed["full"], removed=changed["removed"].str.replace(" ", "\n"))
    measures = {"change": "change of confidence", "rise": "change of loss [nats]"}
    languages = in_order(changed["language"])
    keys = [(name, language) for name in measures for language in languages]
    figure, axes = panels(keys, columns=len(languages), width=3.3, height=2.3, sharey="row", sharex=True)
    for (name, language), ax in axes:
        rows = changed[changed["language"] == language]
        sns.stripplot(rows, x="removed", y=name, hue="removed", ax=ax, jitter=False, size=6, legend=False)
        sns.pointplot(rows, x="removed", y=name, ax=ax, color=".3", ls="", marker="_", ms=18, errorbar=None)
        ax.axhline(0, **LINE)
        ax.set(title=f"test examples in {language}" if name == "change" else "", xlabel="training examples removed")
        ax.set_ylabel(measures[name] if is_first(ax) else "")
    return figure
