"""The drawings of notebook 07: lottery tickets by sparsity, kind, language and task."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xsub_utils.plots import (
    DIVERGING,
    RANGE,
    bars,
    drawing,
    heat,
    in_order,
    is_first,
    legend_above,
    mean_and_range,
    panels,
    square,
    task_panels,
)

_LINE = {"color": ".4", "lw": 0.8}
_PERCENT = PercentFormatter(1, decimals=0, symbol="")
_SCORES = {"nli": "accuracy", "paraphrase": "accuracy", "reviews": "accuracy", "ner": "F1", "mlm": "perplexity"}


@drawing("ticket_curves")
def curves(table: pd.DataFrame) -> Figure:
    """Score against sparsity: task, seed, language, sparsity, score, chance; bands are ranges over seeds."""
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.7, sharey=False)
    for task, rows, ax in axes:
        sns.lineplot(
            rows, x="sparsity", y="score", hue="language", style="language", markers=True, ax=ax, ms=4, **RANGE
        )
        ax.set(title=task, xlabel="weights dropped [%]", ylabel=_SCORES.get(task, "score"))
        ax.xaxis.set_major_formatter(_PERCENT)
        if task == "mlm":
            ax.set_yscale("log")  # chance would be far above
        else:
            ax.axhline(rows["chance"].mean(), ls=":", label="chance", **_LINE)
    return legend_above(figure)


@drawing("ticket_kinds")
def kinds(table: pd.DataFrame) -> Figure:
    """Change against the whole model of each kind of mask: task, kind, relative; range over seeds and languages."""
    names = in_order(table["kind"])
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=0.26 * len(names) + 1.0, sharey=True)
    for task, ax in axes:
        rows = mean_and_range(table[table["task"] == task], "kind", "relative", names)
        bars(ax, rows, np.arange(len(names), dtype=float))
        ax.axvline(0, **_LINE)
        ax.set(title=task, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        if rows["low"].min() < -1:  # perplexities many times as high
            ax.set_xscale("symlog", linthresh=0.2)
        ax.xaxis.set_major_formatter(_PERCENT)
    figure.supxlabel("change of the score against the whole model [%]; higher is better", fontsize="medium")
    return figure


@drawing("ticket_layers")
def layers(table: pd.DataFrame) -> Figure:
    """Overlap by layer: task, differs, part (layer), jaccard, expected; bands are ranges over pairs."""
    names = in_order(table["differs"])
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.7)
    for task, rows, ax in axes:
        of = {"hue": "differs", "hue_order": names, "style": "differs", "style_order": names, "markers": True}
        sns.lineplot(rows, x="part", y="jaccard", ax=ax, **of, **RANGE)
        chance = rows.groupby("part")["expected"].mean()
        ax.plot(chance.index, chance, ls=":", label="chance", **_LINE)
        ax.set(title=task, xlabel="layer", ylabel="Jaccard index", ylim=(0, 1))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend_above(figure, columns=3)


@drawing("ticket_components")
def components(table: pd.DataFrame) -> Figure:
    """Overlap by component: task, differs, part, jaccard, expected; lines are ranges over pairs."""
    parts, names = in_order(table["part"]), in_order(table["differs"])
    height = 0.09 * len(names) * len(parts) + 1.1
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=height, sharey=True)
    for task, ax in axes:
        for number, name in enumerate(names):
            rows = mean_and_range(table[table["task"].eq(task) & table["differs"].eq(name)], "part", "jaccard", parts)
            heights = np.arange(len(parts)) + 0.8 * ((number + 0.5) / len(names) - 0.5)
            bars(ax, rows, heights, color=sns.color_palette()[number], label=name)
        chance = table[table["task"] == task].groupby("part")["expected"].mean().reindex(parts)
        ax.plot(chance, np.arange(len(parts)), ls="", marker="|", ms=9, color=".4", label="chance")
        ax.set(title=task, xlabel="Jaccard index", yticks=range(len(parts)), yticklabels=parts, xlim=(0, 1))
        ax.set_ylim(len(parts) - 0.5, -0.5)
    return legend_above(figure, columns=3)


@drawing("ticket_overlap")
def overlap(table: pd.DataFrame) -> Figure:
    """Mean overlap of two languages' tickets, on the diagonal of two seeds: task, a, b, jaccard."""
    side = 0.42 * table["a"].nunique() + 0.9
    figure, axes = task_panels(table, columns=3, width=side + 0.4, height=side, sharey=False)
    for task, rows, ax in axes:
        heat(square(rows, "a", "b", "jaccard"), ax, "", vmin=0, vmax=1, cbar=False)
        ax.set(title=task, xlabel="", ylabel="ticket of" if is_first(ax) else "")
    return figure


@drawing("ticket_departures")
def departures(table: pd.DataFrame) -> Figure:
    """Overlap of departures from the start: task, differs, jaccard, expected; means and ranges over pairs."""
    names, what = in_order(table["differs"]), {"jaccard": "tickets", "expected": "by chance"}
    height = 0.35 * len(names) + 1.2
    figure, axes = panels(in_order(table["task"]), columns=3, width=2.9, height=height, sharey=True)
    for task, ax in axes:
        for number, (column, label) in enumerate(what.items()):
            rows = mean_and_range(table[table["task"] == task], "differs", column, names)
            heights = np.arange(len(names)) + 0.3 * (number - 0.5)
            bars(ax, rows, heights, color=[sns.color_palette()[0], ".6"][number], label=label)
        ax.set(title=task, xlabel="Jaccard index of departures", yticks=range(len(names)), yticklabels=names)
        ax.set(xlim=(0, None), ylim=(len(names) - 0.5, -0.5))
    return legend_above(figure)


@drawing("ticket_transfer")
def transfer(table: pd.DataFrame) -> Figure:
    """Change against the target's own ticket: sparsity, task, source, target, relative; source masks, target data."""
    keys = [(one, task) for one in in_order(table["sparsity"]) for task in in_order(table["task"])]
    side = 0.44 * table["target"].nunique() + 1.1
    figure, axes = panels(keys, columns=table["task"].nunique(), width=side + 0.5, height=side + 0.9)
    for (sparsity, task), ax in axes:
        rows = table[table["sparsity"].eq(sparsity) & table["task"].eq(task)]
        matrix = 100 * rows.pivot_table(index="source", columns="target", values="relative", sort=False)
        matrix = matrix.reindex(index=in_order(rows["source"]), columns=in_order(rows["target"]))
        bound = max(5.0, np.abs(matrix.loc[matrix.columns].to_numpy()).max())
        options = {"annot": matrix.round(0) + 0.0, "fmt": ".0f", "cmap": DIVERGING, "cbar": False}
        heat(matrix, ax, "", vmin=-bound, vmax=bound, **options)
        ax.set(title=f"{task}, {100 * sparsity:.0f} % dropped", xlabel="")
        ax.set_ylabel("mask of" if is_first(ax) else "")
    figure.supxlabel("trained and tested on", fontsize="medium")
    return figure


@drawing("ticket_sources")
def sources(table: pd.DataFrame) -> Figure:
    """Mean change on other languages by source of the mask: task, sparsity, source, target, relative; their range."""
    table = table.assign(dropped=(100 * table["sparsity"]).round().astype(int).astype(str) + " % dropped")
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.6, sharey=True)
    for task, rows, ax in axes:
        order = in_order(table["target"])
        sns.barplot(rows, x="source", y="relative", hue="dropped", order=order, ax=ax, **RANGE)
        ax.set(title=task, xlabel="mask of", ylabel="change on other languages [%]")
        ax.yaxis.set_major_formatter(_PERCENT)
        ax.axhline(0, **_LINE)
    return legend_above(figure)


@drawing("ticket_tasks")
def tasks(table: pd.DataFrame) -> Figure:
    """Mean change with another task's ticket of the same language: source, task, relative (against its own ticket)."""
    matrix = 100 * table.pivot_table(index="source", columns="task", values="relative", sort=False)
    matrix = matrix.reindex(index=in_order(table["source"]), columns=in_order(table["task"]))
    figure, [(_, ax)] = panels(["all"], width=4.2, height=0.5 * len(matrix) + 1.0)
    options = {"annot": matrix.round(1) + 0.0, "fmt": ".1f", "cmap": DIVERGING, "square": False}
    heat(matrix, ax, "change against own ticket [%]", vmin=-30, vmax=30, **options)
    ax.set(xlabel="trained and tested on", ylabel="mask of")
    return figure


@drawing("ticket_pairs")
def pairs(table: pd.DataFrame) -> Figure:
    """Transfer beside what may predict it: measure, task, a, b, likeness, share; a point an ordered pair."""
    figure, axes = panels(in_order(table["measure"]), columns=3, width=2.8, height=2.6, sharey=True)
    for measure, ax in axes:
        rows = table[table["measure"] == measure]
        sns.scatterplot(rows, x="likeness", y="share", hue="task", style="task", s=22, alpha=0.8, ax=ax)
        ax.axhline(0, **_LINE)
        ax.set(title=measure, xlabel="source and target", ylabel="change in the target [%]")
        ax.yaxis.set_major_formatter(_PERCENT)
    return legend_above(figure)


@drawing("ticket_retrieval")
def retrieval(table: pd.DataFrame) -> Figure:
    """Translations found first, by level: task, model, level, accuracy, chance; bands are ranges over seeds."""
    figure, axes = task_panels(table, columns=3, width=2.9, height=2.7)
    for task, rows, ax in axes:
        means = rows.groupby(["model", "seed", "level"], sort=False, as_index=False)["accuracy"].mean()
        sns.lineplot(means, x="level", y="accuracy", hue="model", style="model", markers=True, ax=ax, **RANGE)
        ax.axhline(table["chance"].iloc[0], ls=":", label="chance", **_LINE)
        ax.set(title=task, xlabel="after layer (0: embeddings)", ylabel="retrieval accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(ylim=(0, None))  # of all panels, once all lines are there
    return legend_above(figure, columns=3)


@drawing("ticket_published")
def published(table: pd.DataFrame) -> Figure:
    """Ours beside the published: task, where, mask, relative; a point a pair (or target), a bar their mean."""
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
        ax.axvline(0, **_LINE)
        ax.set(title=task, yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
        if table.loc[table["task"] == task, "relative"].min() < -1:  # perplexities
            ax.set_xscale("symlog", linthresh=0.1)
        ax.xaxis.set_major_formatter(_PERCENT)
    figure.supxlabel("change of the score against the target's own ticket [%]; higher is better", fontsize="medium")
    return figure
