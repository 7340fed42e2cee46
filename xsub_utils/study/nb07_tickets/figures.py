"""The figures of notebook 07: lottery tickets by sparsity, kind, language and task."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from xsub_utils.data.schema import TASKS
from xsub_utils.evaluation.metrics import Metric, metric_named
from xsub_utils.study.conditions import TicketKind
from xsub_utils.study.labels import LABELS, labelled
from xsub_utils.study.plots import (
    CHANGE,
    LINE,
    RANGE,
    bars,
    heat,
    in_order,
    is_first,
    legend_above,
    mean_and_range,
    panels,
    square,
    task_panels,
)
from xsub_utils.study.registry import register_figure

_PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 3) + 0:g}".replace("-", "−"))


@register_figure("ticket_curves")
def curves(table: pd.DataFrame) -> Figure:
    """Score against sparsity: task, seed, language, sparsity, score, chance; bands are ranges over seeds."""
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.7, sharey=False)
    for task, rows, ax in axes:
        sns.lineplot(
            rows, x="sparsity", y="score", hue="language", style="language", markers=True, ax=ax, ms=4, mew=0, **RANGE
        )
        metric = _metric(task)
        ax.set(title=task, xlabel="weights dropped [%]", ylabel=metric.label if metric else "score")
        ax.xaxis.set_major_formatter(_PERCENT)
        if metric and metric.lower_is_better:
            ax.set_yscale("log")  # chance would be far above
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
        else:
            ax.axhline(rows["chance"].mean(), ls=":", label="chance", **LINE)
    return legend_above(figure)


def _metric(task: str) -> Metric | None:
    """The metric of a built-in task."""
    return metric_named(TASKS[task].metric) if task in TASKS else None


@register_figure("ticket_kinds")
def kinds(table: pd.DataFrame) -> Figure:
    """Change against the full model of each kind of mask: task, kind, relative; range over seeds and languages."""
    table = labelled(table, "kind")
    names = in_order(table["kind"])
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=0.26 * len(names) + 1.0, sharey=True)
    for task, ax in axes:
        rows = mean_and_range(table[table["task"] == task], "kind", "relative", names)
        bars(ax, rows, np.arange(len(names), dtype=float))
        ax.axvline(0, **LINE)
        ax.set(title=task, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        ax.set_xlabel("change of the score [%]")
        _changes(ax, rows["low"].min())
    return figure


def _changes(ax: Axes, lowest: float) -> None:
    """An axis of changes; those of perplexities may be many times as large as others, and are then on a logarithm."""
    if lowest < -1:
        ax.set_xscale("symlog", linthresh=0.2)
        ax.set_xlim(left=1.6 * lowest)
        ax.axvspan(-0.2, 0.2, color=".95", zorder=0)  # where it is linear
    ax.xaxis.set_major_formatter(_PERCENT)


@register_figure("ticket_layers")
def layers(table: pd.DataFrame) -> Figure:
    """Overlap by layer: task, differs, part (layer), jaccard; bands are ranges over pairs."""
    table = labelled(table, "differs")
    names = in_order(table["differs"])
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.7)
    for task, rows, ax in axes:
        looks = {"hue": "differs", "hue_order": names, "style": "differs", "style_order": names, "markers": True}
        sns.lineplot(rows, x="part", y="jaccard", ax=ax, **looks, **RANGE)
        ax.set(title=task, xlabel="layer", ylabel="Jaccard index", ylim=(table["jaccard"].min() - 0.02, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend_above(figure, columns=3)


@register_figure("ticket_components")
def components(table: pd.DataFrame) -> Figure:
    """Overlap by component: task, differs, part, jaccard; lines are ranges over pairs."""
    table = labelled(table, "differs")
    parts, names = in_order(table["part"]), in_order(table["differs"])
    height = 0.09 * len(names) * len(parts) + 1.1
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=height, sharey=True)
    for task, ax in axes:
        for number, name in enumerate(names):
            rows = mean_and_range(table[table["task"].eq(task) & table["differs"].eq(name)], "part", "jaccard", parts)
            heights = np.arange(len(parts)) + 0.8 * ((number + 0.5) / len(names) - 0.5)
            bars(ax, rows, heights, color=sns.color_palette()[number], label=name)
        ax.set(title=task, xlabel="Jaccard index", yticks=range(len(parts)), yticklabels=parts)
        ax.set_xlim(table["jaccard"].min() - 0.02, 1)
        ax.set_ylim(len(parts) - 0.5, -0.5)
    return legend_above(figure, columns=3)


@register_figure("ticket_overlap")
def overlap(table: pd.DataFrame) -> Figure:
    """Mean overlap of two languages' tickets, on the diagonal of two seeds: task, a, b, jaccard."""
    side = 0.42 * table["a"].nunique() + 0.9
    figure, axes = task_panels(table, columns=3, width=side + 0.4, height=side, sharey=False)
    for task, rows, ax in axes:
        heat(square(rows, "a", "b", "jaccard"), ax, "", vmin=0.5, vmax=1, cbar=False)
        ax.set(title=task, xlabel="and ticket of", ylabel="ticket of" if is_first(ax) else "")
    return figure


@register_figure("ticket_departures")
def departures(table: pd.DataFrame) -> Figure:
    """Overlap of departures from the start: task, differs, jaccard, expected; means and ranges over pairs."""
    table = labelled(table, "differs")
    names, what = in_order(table["differs"]), {"jaccard": "tickets", "expected": "by chance"}
    height = 0.35 * len(names) + 1.2
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=height, sharex=True, sharey=True)
    for task, ax in axes:
        for number, (column, label) in enumerate(what.items()):
            rows = mean_and_range(table[table["task"] == task], "differs", column, names)
            heights = np.arange(len(names)) + 0.3 * (number - 0.5)
            bars(ax, rows, heights, color=[sns.color_palette()[0], ".6"][number], label=label)
        ax.set(title=task, xlabel="Jaccard index of departures", yticks=range(len(names)), yticklabels=names)
        ax.set(ylim=(len(names) - 0.5, -0.5))
    ax.set(xlim=(0, None))  # of all panels, once all bars are there
    return legend_above(figure)


@register_figure("ticket_transfer")
def transfer(table: pd.DataFrame) -> Figure:
    """Change against the target's own ticket: sparsity, task, mask, source, target, relative; a row for each mask."""
    keys = [(sparsity, task) for sparsity in in_order(table["sparsity"]) for task in in_order(table["task"])]
    again = table["mask"].eq(TicketKind.TICKET_OTHER_SEED)
    other = ~again & table["mask"].ne(TicketKind.TICKET)
    masks = labelled(table, "mask")["mask"]
    table = table.assign(row=(table["source"] + np.where(again, ", another seed", "")).mask(other, masks))
    order = [name for group in (~again & ~other, again, other) for name in in_order(table.loc[group, "row"])]
    size = (0.44 * table["target"].nunique() + 1.6, 0.24 * len(order) + 0.9)
    figure, axes = panels(keys, table["task"].nunique(), *size, sharey=True)
    for (sparsity, task), ax in axes:
        rows = table[table["sparsity"].eq(sparsity) & table["task"].eq(task)]
        matrix = 100 * rows.pivot_table(index="row", columns="target", values="relative", sort=False)
        matrix = matrix.reindex(index=order, columns=in_order(rows["target"]))
        options = {"annot": matrix.round(0) + 0.0, "fmt": ".0f", "cmap": CHANGE, "cbar": False, "square": False}
        heat(matrix, ax, "", vmin=-30, vmax=30, **options)
        for count in (1, 2) if again.any() else (1,):  # tickets of one seed, of the other, other masks
            ax.axhline(count * len(matrix.columns), color=".2", lw=1)
        ax.set(title=f"{task}, {100 * sparsity:.0f} % dropped", xlabel="trained and tested on")
        ax.set_ylabel("mask of" if is_first(ax) else "")
    return figure


@register_figure("ticket_relatives")
def relatives(table: pd.DataFrame) -> Figure:
    """Change by whom the mask comes from: task, sparsity, whose, relative; ranges over pairs of languages and seeds."""
    table = labelled(table, "whose")
    names, dropped = in_order(table["whose"]), in_order(table["sparsity"])
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=0.32 * len(names) + 1.2, sharey=True)
    for task, ax in axes:
        for number, sparsity in enumerate(dropped):
            of_sparsity = table[table["task"].eq(task) & table["sparsity"].eq(sparsity)]
            heights = np.arange(len(names)) + 0.3 * (number - (len(dropped) - 1) / 2)
            label = f"{100 * sparsity:.0f} % dropped"
            rows = mean_and_range(of_sparsity, "whose", "relative", names)
            bars(ax, rows, heights, color=sns.color_palette()[number], label=label)
        ax.axvline(0, **LINE)
        ax.set(title=task, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        ax.set_xlabel("change against own ticket [%]")
        _changes(ax, table.loc[table["task"] == task, "relative"].min())
    return legend_above(figure)


@register_figure("ticket_tasks")
def tasks(table: pd.DataFrame) -> Figure:
    """Mean change with another task's ticket of the same language: source, task, relative (against its own ticket)."""
    table = table.assign(source=table["source"].replace(LABELS))
    matrix = 100 * table.pivot_table(index="source", columns="task", values="relative", sort=False)
    matrix = matrix.reindex(index=in_order(table["source"]), columns=in_order(table["task"]))
    figure, [(_, ax)] = panels(["all"], width=4.2, height=0.5 * len(matrix) + 1.0)
    options = {"annot": matrix.round(1) + 0.0, "fmt": ".1f", "cmap": CHANGE, "square": False}
    heat(matrix, ax, "change against own ticket [%]", vmin=-30, vmax=30, **options)
    ax.set(xlabel="trained and tested on", ylabel="mask of")
    return figure


@register_figure("ticket_pairs")
def pairs(table: pd.DataFrame) -> Figure:
    """Transfer beside what may predict it: measure, task, a, b, likeness, share; a point an ordered pair."""
    table = labelled(table, "measure")
    figure, axes = panels(in_order(table["measure"]), columns=3, width=2.8, height=2.6, sharey=True)
    for measure, ax in axes:
        rows = table[table["measure"] == measure]
        sns.scatterplot(rows, x="likeness", y="share", hue="task", style="task", s=22, alpha=0.8, ax=ax)
        ax.axhline(0, **LINE)
        ax.set(xlabel=measure.replace(", ", ",\n"), ylabel="change in the target [%]")
        ax.yaxis.set_major_formatter(_PERCENT)
    return legend_above(figure)


@register_figure("ticket_retrieval")
def retrieval(table: pd.DataFrame) -> Figure:
    """Translations found first, by level: task, model, level, accuracy, chance; bands are ranges over seeds."""
    figure, axes = task_panels(labelled(table, "model"), columns=3, width=2.9, height=2.7)
    for task, rows, ax in axes:
        means = rows.groupby(["model", "seed", "level"], sort=False, as_index=False)["accuracy"].mean()
        sns.lineplot(means, x="level", y="accuracy", hue="model", style="model", markers=True, ax=ax, **RANGE)
        ax.axhline(table["chance"].iloc[0], ls=":", label="chance", **LINE)
        ax.set(title=task, xlabel="after layer (0: embeddings)", ylabel="retrieval accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylim=(0, None))  # of all panels, once all lines are there
    return legend_above(figure, columns=3)


@register_figure("ticket_published")
def published(table: pd.DataFrame) -> Figure:
    """Ours beside the published: task, where, mask, relative; a point a pair (or target), a bar their mean."""
    table = labelled(table, "mask", "where")
    names = [(mask, where) for mask in in_order(table["mask"]) for where in in_order(table["where"])]
    labels = [f"{mask},\n{where}" for mask, where in names]
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=0.5 * len(names) + 1.1, sharey=True)
    colors = dict(zip(in_order(table["where"]), sns.color_palette(), strict=False))
    for task, ax in axes:
        for height, (mask, where) in enumerate(names):
            values = table.loc[table["task"].eq(task) & table["mask"].eq(mask) & table["where"].eq(where), "relative"]
            spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
            ax.scatter(values, height + spread, s=6, alpha=0.6, color=colors[where], linewidths=0)
            ax.plot([values.mean()] * 2, [height - 0.32, height + 0.32], color=".2", lw=1.2)
        ax.axvline(0, **LINE)
        ax.set(title=task, yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
        ax.set_xlabel("change against own ticket [%]")
        _changes(ax, table.loc[table["task"] == task, "relative"].min())
    return figure
