"""The figures of notebook 02: which heads the searches keep, and what the subnetworks score."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from xsub_utils.study.conditions import Control
from xsub_utils.study.labels import labelled, labels_in_order
from xsub_utils.study.plots import (
    CHANGE,
    LEAST_WIDTH,
    RANGE,
    SEQUENTIAL,
    SPREAD,
    heat,
    in_order,
    is_first,
    language_lines,
    legend_above,
    square,
    task_panels,
)
from xsub_utils.study.registry import register_figure


@register_figure("importance")
def importance(table: pd.DataFrame) -> Figure:
    """Head importance of the full model: task, language, layer, head, importance (mean over seeds)."""
    return _head_maps(table, "importance", "importance")


@register_figure("survival")
def survival(table: pd.DataFrame) -> Figure:
    """Share of the searches that keep a head: task, language, layer, head, survival."""
    return _head_maps(table, "survival", "share of searches")


def _head_maps(table: pd.DataFrame, value: str, label: str) -> Figure:
    """One layers × heads map for each task (row) and language (column)."""
    tasks, languages = in_order(table["task"]), in_order(table["language"])
    size = (max(1.35 * len(languages), LEAST_WIDTH) + 0.9, 1.3 * len(tasks) + 0.9)
    figure, axes = plt.subplots(len(tasks), len(languages), figsize=size, squeeze=False, sharex=True, sharey=True)
    high = table[value].max()
    for task, row in zip(tasks, axes, strict=True):
        for language, ax in zip(languages, row, strict=True):
            rows = table[(table["task"] == task) & (table["language"] == language)]
            image = _head_map(rows, value, ax, high)
        row[0].set_ylabel(f"{task}\nlayer")
    for language, ax in zip(languages, axes[0], strict=True):
        ax.set_title(language)
    figure.supxlabel("head", size=9)
    figure.colorbar(image, ax=axes, label=label, shrink=0.6 if len(tasks) > 1 else 1.0)
    return figure


def _head_map(table: pd.DataFrame, value: str, ax: Axes, high: float) -> AxesImage:
    """One map, its first layer at the bottom."""
    matrix = table.pivot_table(index="layer", columns="head", values=value)
    ax.set(xticks=[], yticks=range(len(matrix)), yticklabels=matrix.index)
    ax.tick_params(labelsize=6)
    ax.grid(False)
    return ax.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=high, origin="lower", aspect="auto")


@register_figure("layers")
def layers(table: pd.DataFrame) -> Figure:
    """Heads kept per layer: task, language, seed, mask_seed, layer, kept; bands over all seeds."""
    return language_lines(table, "layer", "kept", "heads kept")


@register_figure("retention")
def retention(table: pd.DataFrame) -> Figure:
    """Share of the full score kept: task, language, seed, mask_seed, sparsity, retention."""
    figure, panels = task_panels(table)
    for task, rows, ax in panels:
        sns.lineplot(rows, x="sparsity", y="retention", hue="language", ax=ax, **RANGE)
        for threshold in (0.90, 0.95, 0.98):
            ax.axhline(threshold, color=".5", lw=0.7, ls=":")
        ax.set(title=task, xlabel="share of heads removed", ylabel="score / full model's", ylim=(0, 1.1))
    return legend_above(figure)


@register_figure("sizes")
def sizes(table: pd.DataFrame) -> Figure:
    """Size of the subnetworks: task, language, seed, mask_seed, retain, kept (share of the heads)."""
    figure, panels = task_panels(table)
    for task, rows, ax in panels:
        sns.pointplot(rows, x="retain", y="kept", hue="language", ax=ax, dodge=0.5, ls="", ms=4, **SPREAD)
        ax.set(title=task, xlabel="retention asked for", ylabel="share of heads kept", ylim=(0, 1.02))
    return legend_above(figure)


@register_figure("cross_evaluation")
def cross_evaluation(table: pd.DataFrame) -> Figure:
    """Every mask on every language: task, mask, language, difference to the language's own mask (mean)."""
    side = 0.35 * table["language"].nunique() + 0.6
    figure, panels = task_panels(table, width=side + 0.2, height=side, sharey=False)
    bound = np.abs(table["difference"]).max()
    for task, rows, ax in panels:
        matrix = square(rows, "mask", "language", "difference")
        heat(matrix, ax, "", vmin=-bound, vmax=bound, cbar=False, cmap=CHANGE)
        ax.set(title=task, xlabel="tested on", ylabel="subnetwork of" if is_first(ax) else "")
    return figure


@register_figure("controls")
def controls(table: pd.DataFrame) -> Figure:
    """Subnetworks beside their controls: task, language, seed, mask_seed, control, retention, kept."""
    order = labels_in_order(Control, table["control"])
    figure, panels = task_panels(labelled(table, "control"), width=2.3, height=3.0)
    for task, rows, ax in panels:
        sns.stripplot(rows, y="control", x="retention", order=order, ax=ax, size=2.5, alpha=0.5, color=".45", zorder=1)
        sns.pointplot(rows, y="control", x="retention", order=order, ax=ax, ls="", ms=5, zorder=3, **SPREAD)
        ax.axvline(1, color=".4", lw=0.8)
        ax.set(title=task, xlabel="score / full model's", ylabel="", xlim=(0, 1.2))
    return figure
