"""The figures of notebook 03: overlap of masks, likeness of representations, and both against the truth."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xsub_utils.study.conditions import Compared
from xsub_utils.study.labels import labelled, labels_in_order
from xsub_utils.study.plots import (
    DIVERGING,
    RANGE,
    bars,
    heat,
    in_order,
    is_first,
    legend_above,
    legend_right,
    panels,
    square,
    task_panels,
)
from xsub_utils.study.registry import register_figure

CONTROLS = (  # drawn in grey
    Compared.RANDOM_HEADS,
    Compared.OTHER_MODEL_SEED_RANDOM,
    Compared.OTHER_TASK_RANDOM,
    Compared.UNTRAINED,
    Compared.SHUFFLED_SENTENCES,
)
CHANCE: dict[str, Any] = {"color": ".55", "marker": "|", "ms": 11, "mew": 2, "ls": ""}
CEILING: dict[str, Any] = {"color": ".2", "marker": "x", "ls": ""}


@register_figure("overlap")
def overlap(table: pd.DataFrame) -> Figure:
    """Overlap of masks by what differs: differs, measure, mean, low, high."""
    figure, axes = panels(
        ["Jaccard index", "Jaccard index above chance"], columns=2, width=3.9, height=2.6, sharey=True
    )
    parts = (("jaccard", "expected_within"), ("adjusted_within",))
    table = labelled(table, "differs")
    names = in_order(table["differs"])
    for (title, ax), measures in zip(axes, parts, strict=True):
        for measure in measures:
            rows = table[table["measure"] == measure].set_index("differs").loc[names]
            if measure == "expected_within":
                ax.plot(rows["mean"], range(len(names)), label="chance", **CHANCE)
            else:
                bars(ax, rows, np.arange(len(names)), label="measured")
        ax.set(title=title, xlim=(min(0, *ax.get_xlim()), 1), yticks=range(len(names)), yticklabels=names)
        ax.set_ylim(len(names) - 0.5, -0.5)
    axes[0][1].set_ylabel("what differs")
    return legend_above(figure)


@register_figure("variance")
def variance(table: pd.DataFrame) -> Figure:
    """Shares of variance: quantity, component, share, low, high."""
    table = labelled(table, "quantity")
    figure, axes = panels(in_order(table["quantity"]), columns=2, width=3.9, height=2.5, sharey=True)
    names = in_order(table["component"])
    for title, ax in axes:
        rows = table[table["quantity"] == title].set_index("component").reindex(names)
        arms = np.clip([rows["share"] - rows["low"], rows["high"] - rows["share"]], 0, None)
        ax.barh(names, rows["share"], xerr=np.nan_to_num(arms), color=sns.color_palette()[0], error_kw={"lw": 1.2})
        ax.set(title=title, xlabel="share of variance", xlim=(0, None))
    axes[0][1].invert_yaxis()
    return figure


@register_figure("languages")
def languages(table: pd.DataFrame) -> Figure:
    """Overlap above chance: task, a, b, value column; the diagonal is another mask seed."""
    value = table.columns[-1]
    side = 0.35 * table["a"].nunique() + 0.6
    figure, axes = task_panels(table, width=side + 0.2, height=side, sharey=False)
    for task, rows, ax in axes:
        scale = {"vmin": min(0, table[value].min()), "vmax": table[value].max()}
        heat(square(rows, "a", "b", value), ax, "", cbar=False, **scale)
        ax.set(title=task, xlabel="overlap with", ylabel="mask of" if is_first(ax) else "")
    return figure


@register_figure("tasks")
def tasks(table: pd.DataFrame) -> Figure:
    """Overlap above chance between tasks: a, b, value column; the diagonal is another model seed."""
    figure, [(_, ax)] = panels(["all"], width=4.4, height=3.4)
    value = table.columns[-1]
    heat(square(table, "a", "b", value), ax, "overlap above chance", vmin=min(0, table[value].min()))
    ax.set(xlabel="task", ylabel="task")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=30)
    return figure


@register_figure("survivors")
def survivors(table: pd.DataFrame) -> Figure:
    """Heads that every search keeps: task, language, kept, expected (by chance)."""
    height = max(0.42 * table["task"].nunique() + 1, 2.6)  # room for the label of the colours
    figure, [(_, ax)] = panels(["all"], width=6.6, height=height)
    text = table.assign(
        text=[f"{kept} ({chance:.1f})" for kept, chance in zip(table["kept"], table["expected"], strict=True)]
    )
    labels = text.pivot(index="task", columns="language", values="text")
    matrix = square(table, "task", "language", "kept")
    heat(
        matrix,
        ax,
        "heads kept by all (by chance)",
        annot=labels.loc[matrix.index, matrix.columns],
        fmt="",
        square=False,
        vmin=0,
    )
    ax.set(xlabel="language", ylabel="task")
    ax.tick_params(axis="y", rotation=0)
    return figure


@register_figure("importance_map")
def importance_map(table: pd.DataFrame) -> Figure:
    """Importance vectors in two dimensions: method, task, language, x, y."""
    figure, axes = panels(in_order(table["method"]), columns=2, width=3.9, height=3.4)
    for method, ax in axes:
        rows = table[table["method"] == method]
        sns.scatterplot(rows, x="x", y="y", hue="task", style="language", ax=ax, s=26, legend=ax is axes[-1][1])
        ax.set(title=method, xlabel="", ylabel="", xticks=[], yticks=[])
    sns.move_legend(axes[-1][1], "center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


@register_figure("cka")
def cka(table: pd.DataFrame) -> Figure:
    """Likeness of states, level by level: against, other, task, pool, level, cka; bands hold all tasks."""
    names, controls = (labels_in_order(of, table["other"]) for of in (Compared, CONTROLS))
    table = labelled(table, "against", "other")
    colours = dict(zip([name for name in names if name not in controls], sns.color_palette(), strict=False))
    colours |= dict(zip(controls, sns.color_palette("Greys_r", len(controls) + 2), strict=False))
    dashes = {name: (2, 1.5) if name in controls else "" for name in names}
    keys = [(against, pool) for against in in_order(table["against"]) for pool in in_order(table["pool"])]
    figure, axes = panels(keys, columns=2, width=3.0, height=2.7, sharey=True, sharex=True)
    for (against, pool), ax in axes:
        rows = table[(table["against"] == against) & (table["pool"] == pool)]
        lines = {
            "hue_order": names,
            "palette": colours,
            "style": "other",
            "style_order": names,
            "dashes": dashes,
            "err_kws": {"alpha": 0.1},
        }
        sns.lineplot(rows, x="level", y="cka", hue="other", ax=ax, marker="o", ms=4, **lines, **RANGE)
        ax.set(title={"first": "first token", "mean": "mean of tokens"}[pool], xlabel="layer")
        ax.set_ylabel(f"CKA with the {against}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend_right(figure)


@register_figure("levels")
def levels(table: pd.DataFrame) -> Figure:
    """Every level with every level: other, level, level_b, cka."""
    table = labelled(table, "other")
    figure, axes = panels(in_order(table["other"]), columns=4, width=2.5, height=2.5)
    for other, ax in axes:
        heat(square(table[table["other"] == other], "level", "level_b", "cka"), ax, "", vmin=0, vmax=1, cbar=False)
        ax.set(title=other, xlabel="level", ylabel="level, full model" if is_first(ax) else "")
        ax.invert_yaxis()
    return figure


@register_figure("parallel")
def parallel(table: pd.DataFrame) -> Figure:
    """Likeness of translations: measure, relation, level, value; bands hold all tasks and models."""
    table = labelled(table, "measure", "relation")
    figure, axes = panels(in_order(table["measure"]), columns=4, width=2.3, height=2.5, sharey=True)
    names, last = in_order(table["relation"]), table["level"].max()
    for measure, ax in axes:
        rows = table[table["measure"] == measure]
        lines = {"hue_order": names, "marker": "o", "ms": 4, "err_kws": {"alpha": 0.1}}
        sns.lineplot(rows, x="level", y="value", hue="relation", ax=ax, **lines, **RANGE)
        ax.set(title=measure, xlabel="level", ylabel="likeness", xlim=(-0.2, last + 0.2))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend_above(figure, columns=4)


@register_figure("perplexity")
def perplexity(table: pd.DataFrame) -> Figure:
    """Perplexity of masked sub-words: model, language, seed, mask_seed, perplexity."""
    figure, [(_, ax)] = panels(["all"], width=6.8, height=2.8)
    table = labelled(table, "model")
    sns.stripplot(table, x="language", y="perplexity", hue="model", dodge=True, ax=ax, size=4.5, jitter=0.12, alpha=0.8)
    ax.set(ylim=(1, None), ylabel="perplexity of masked sub-words")
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    return figure


@register_figure("masked_crossed")
def masked_crossed(table: pd.DataFrame) -> Figure:
    """Every mask of the masked language model on every language: mask, language, ratio (to the own one)."""
    figure, [(_, ax)] = panels(["all"], width=4.6, height=3.6)
    matrix = square(table, "mask", "language", "ratio")
    bound = np.abs(np.log(matrix.to_numpy())).max()
    norm = {"vmin": -bound, "vmax": bound, "cmap": DIVERGING, "cbar": False}
    heat(np.log(matrix), ax, "", annot=matrix.round(2), **norm)
    ax.set(xlabel="perplexity on", ylabel="subnetwork of")
    return figure


@register_figure("truth")
def truth(table: pd.DataFrame) -> Figure:
    """Measures against true relatedness: measure, kind, rho, low, high, p; filled where p < .05."""
    table = labelled(table, "measure")
    names = in_order(table["measure"])
    height = 0.24 * len(names) + 0.9
    figure, axes = panels(in_order(table["kind"]), columns=4, width=1.9, height=height, sharey=True)
    for kind, ax in axes:
        rows = table[table["kind"] == kind].set_index("measure").loc[names].rename(columns={"rho": "mean"})
        sure = (rows["p"] < 0.05).to_numpy()
        for chosen, face in ((sure, None), (~sure, "white")):
            bars(ax, rows[chosen], np.flatnonzero(chosen), mfc=face)
        ax.axvline(0, color=".5", lw=0.8)
        ax.set(title=kind, xlabel="Spearman's ρ", xlim=(-1.08, 1.08), yticks=range(len(names)), yticklabels=names)
        ax.set_ylim(len(names) - 0.5, -0.5)
    return figure


@register_figure("stability")
def stability(table: pd.DataFrame) -> Figure:
    """Likeness over seeds: measure, seed, mean, low, high, chance, ceiling."""
    figure, [(_, ax)] = panels(["all"], width=6.6, height=0.45 * len(table) + 1.1)
    heights, table = np.arange(len(table)), labelled(table, "measure", "seed")
    bars(ax, table, heights, label="other seed")
    ax.plot(table["chance"], heights, label="chance", **CHANCE)
    ax.plot(table["ceiling"], heights, label="ceiling", **CEILING)
    names = [f"{measure}, {seed}" for measure, seed in zip(table["measure"], table["seed"], strict=True)]
    largest = max(1, table[["mean", "high", "ceiling"]].max(axis=None))
    low = min(0, *ax.get_xlim())
    ax.set(xlim=(low, largest + 0.03), yticks=heights, yticklabels=names, ylim=(len(table) - 0.5, -0.5))
    ax.set_xlabel("value of the measure")
    return legend_above(figure)
