"""The drawings of notebooks 00 to 02, each made from one tidy table (columns named in its first line)."""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xsub_utils.plots import (
    DIVERGING,
    LEAST_WIDTH,
    METRICS,
    SEQUENTIAL,
    drawing,
    heat,
    in_order,
    panels,
    redraw,
    square,
)

RANGE = {"errorbar": ("pi", 100)}  # lines: from the lowest to the highest of all seeds
SPREAD = {"errorbar": "sd"}  # points: ± one standard deviation over all seeds
CONTROLS = {  # name in tables -> label in figures
    "own": "own subnetwork",
    "other": "another language's",
    "majority": "majority over seeds",
    "union": "union over seeds",
    "intersection": "intersection over seeds",
    "shuffled within": "shuffled within layers",
    "shuffled layers": "shuffled over layers",
    "random": "random, same size",
    "inverted": "what it leaves out",
    "constant": "constant answer",
}


# --- 00: the languages -------------------------------------------------------------------------------------


@drawing("family")
def family(table: pd.DataFrame) -> Figure:
    """The family tree and, beside each language, its grammar: node, parent, then one column a setting."""
    figure, ax = plt.subplots(figsize=(8.2, 2.9))
    leaves = table[table["leaf"]]
    height = {node: len(leaves) - i for i, node in enumerate(leaves["node"])}
    parent = dict(zip(table["node"], table["parent"], strict=True))
    depth = {node: _depth(node, parent) for node in parent}
    deepest = max(depth.values())
    for node in sorted(parent, key=depth.get, reverse=True):
        children = [c for c in parent if parent[c] == node]
        if node not in height:
            height[node] = float(np.mean([height[c] for c in children]))
        for child in children:
            end = deepest if child in set(leaves["node"]) else depth[child]
            ax.plot([depth[node], depth[node], end], [height[node], *[height[child]] * 2], color=".3", lw=1.4)
        if depth[node] == 0:
            ax.plot([-0.25, 0], [height[node]] * 2, color=".3", lw=1.4)
            ax.text(-0.3, height[node], node, ha="right", va="center", weight="bold")
    settings = [c for c in table.columns if c not in ("node", "parent", "leaf")]
    at = deepest + 0.12 + np.array([0, *np.cumsum([0.85, 0.75, 0.75, 0.95, 1.0, 1.1])])[: len(settings) + 1]
    for x, title in zip(at, ["language", *settings], strict=True):
        ax.text(x, len(leaves) + 0.75, title, va="center", weight="bold", size=8)
    for row in leaves.to_dict("records"):
        for x, key in zip(at, ["node", *settings], strict=True):
            ax.text(x, height[row["node"]], row[key], va="center", size=9 if key == "node" else 8)
    ax.set(xlim=(-0.5, at[-1] + 1.2), ylim=(0.4, len(leaves) + 1.1))
    ax.axis("off")
    return figure


def _depth(node: str, parent: dict[str, str]) -> int:
    return 0 if not isinstance(parent[node], str) or not parent[node] else 1 + _depth(parent[node], parent)


@drawing("distances")
def distances(table: pd.DataFrame) -> Figure:
    """True distances: kind, a, b, distance."""
    figure, axes = panels(in_order(table["kind"]), columns=4, width=2.5, height=2.5)
    for kind, ax in axes:
        matrix = square(table[table["kind"] == kind], "a", "b", "distance")
        heat(matrix, ax, "", vmin=0, vmax=1, cbar=False).set(title=kind, xlabel="", ylabel="")
    return figure


@drawing("pretraining")
def pretraining(table: pd.DataFrame) -> Figure:
    """What pre-training learned: model, language, perplexity of masked words (log scale)."""
    figure, ax = plt.subplots(figsize=(6, 2.8))
    sns.barplot(table, x="language", y="perplexity", hue="model", ax=ax, errorbar=None)
    ax.set(yscale="log", ylim=(1, None), ylabel="perplexity of masked words", xlabel="language")
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    return figure


# --- 01: fine-tuning ---------------------------------------------------------------------------------------


@drawing("scores")
def scores(table: pd.DataFrame) -> Figure:
    """Scores on held-out data: task, metric, language, model, seed, score; one point a seed."""
    figure, axes = panels(in_order(table["task"]), columns=2, width=3.9, height=2.5, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.stripplot(
            rows,
            x="language",
            y="score",
            hue="model",
            ax=ax,
            size=5,
            jitter=0.12,
            alpha=0.8,
            legend=ax is axes[0][1],
        )
        ax.set(title=f"{task} ({METRICS[rows['metric'].iloc[0]]})", ylim=(0, 1.03), xlabel="language")
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _take_legend(ax):
    handles = ax.get_legend_handles_labels()
    ax.get_legend().remove()
    return handles


@drawing("zero_shot")
def zero_shot(table: pd.DataFrame) -> Figure:
    """Zero-shot transfer: task, source, target, score (mean over seeds)."""
    tasks = in_order(table["task"])
    figure, axes = panels(tasks, columns=4, width=2.7, height=2.7)
    low, high = table["score"].min(), table["score"].max()
    for task, ax in axes:
        matrix = square(table[table["task"] == task], "source", "target", "score")
        heat(matrix, ax, "", vmin=low, vmax=high, cbar=False)
        ax.set(title=task, xlabel="tested on", ylabel="fine-tuned on" if task == tasks[0] else "")
    return figure


@drawing("kinship")
def kinship(table: pd.DataFrame) -> Figure:
    """Transfer against true relatedness: task, source, target, score, relatedness, family."""
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.5, height=2.6, sharey=True)
    for task, ax in axes:
        rows = table[(table["task"] == task) & (table["source"] != table["target"])]
        sns.scatterplot(rows, x="relatedness", y="score", hue="family", style="family", ax=ax, legend=ax is axes[0][1])
        rho = rows["score"].corr(rows["relatedness"], method="spearman")
        ax.set(title=f"{task}: Spearman {rho:.2f}", xlabel="true relatedness", ylabel="zero-shot score")
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=4, frameon=False)
    return figure


@drawing("learning")
def learning(table: pd.DataFrame) -> Figure:
    """Learning curves: task, metric, seed, language, epoch, score; bands from the lowest to the highest seed."""
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.5, height=2.6, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.lineplot(
            rows,
            x="epoch",
            y="score",
            hue="language",
            ax=ax,
            legend=ax is axes[0][1],
            marker="o",
            ms=4,
            **RANGE,
        )
        ax.set(title=task, xlabel="epoch", ylabel="score")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=8, frameon=False)
    return figure


# --- 02: subnetworks ---------------------------------------------------------------------------------------


def _head_maps(table: pd.DataFrame, value: str, label: str) -> Figure:
    """One layers × heads map for each task (row) and language (column)."""
    tasks, languages = in_order(table["task"]), in_order(table["language"])
    size = (max(1.35 * len(languages), LEAST_WIDTH) + 0.9, 1.3 * len(tasks) + 0.9)
    figure, axes = plt.subplots(len(tasks), len(languages), figsize=size, squeeze=False, sharex=True, sharey=True)
    high = table[value].max()
    for task, row in zip(tasks, axes, strict=True):
        for language, ax in zip(languages, row, strict=True):
            rows = table[(table["task"] == task) & (table["language"] == language)]
            matrix = rows.pivot_table(index="layer", columns="head", values=value)
            image = ax.imshow(matrix, cmap=SEQUENTIAL, vmin=0, vmax=high, origin="lower", aspect="auto")
            ax.set(xticks=[], yticks=range(len(matrix)), yticklabels=matrix.index)
            ax.tick_params(labelsize=6)
            ax.grid(False)
            if task == tasks[0]:
                ax.set_title(language)
        row[0].set_ylabel(f"{task}\nlayer")
    figure.supxlabel("head", size=9)
    figure.colorbar(image, ax=axes, label=label, shrink=0.6 if len(tasks) > 1 else 1.0)
    return figure


@drawing("importance")
def importance(table: pd.DataFrame) -> Figure:
    """Head importance of the full model: task, language, layer, head, importance (mean over seeds)."""
    return _head_maps(table, "importance", "importance")


@drawing("survival")
def survival(table: pd.DataFrame) -> Figure:
    """Share of the searches that keep a head: task, language, layer, head, survival."""
    return _head_maps(table, "survival", "share of searches")


@drawing("layers")
def layers(table: pd.DataFrame) -> Figure:
    """Heads kept per layer: task, language, seed, mask_seed, layer, kept; bands over all seeds."""
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.5, height=2.6, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.lineplot(
            rows,
            x="layer",
            y="kept",
            hue="language",
            ax=ax,
            legend=ax is axes[0][1],
            marker="o",
            ms=4,
            **RANGE,
        )
        ax.set(title=task, xlabel="layer", ylabel="heads kept")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=8, frameon=False)
    return figure


@drawing("retention")
def retention(table: pd.DataFrame) -> Figure:
    """Share of the full score kept: task, language, seed, mask_seed, removed, retention."""
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.5, height=2.6, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.lineplot(rows, x="removed", y="retention", hue="language", ax=ax, legend=ax is axes[0][1], **RANGE)
        for threshold in (0.90, 0.95, 0.98):
            ax.axhline(threshold, color=".5", lw=0.7, ls=":")
        ax.set(title=task, xlabel="share of heads removed", ylabel="score / full model's", ylim=(0, 1.1))
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=8, frameon=False)
    return figure


@drawing("sizes")
def sizes(table: pd.DataFrame) -> Figure:
    """Size of the subnetworks: task, language, seed, mask_seed, retain, kept (share of the heads)."""
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.5, height=2.6, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.pointplot(
            rows,
            x="retain",
            y="kept",
            hue="language",
            ax=ax,
            dodge=0.5,
            ls="",
            ms=4,
            legend=ax is axes[0][1],
            **SPREAD,
        )
        ax.set(title=task, xlabel="retention asked for", ylabel="share of heads kept", ylim=(0, 1.02))
    figure.legend(*_take_legend(axes[0][1]), loc="outside upper center", ncols=8, frameon=False)
    return figure


@drawing("cross_evaluation")
def cross_evaluation(table: pd.DataFrame) -> Figure:
    """Every mask on every language: task, mask, language, difference to the language's own mask (mean)."""
    tasks = in_order(table["task"])
    side = 0.35 * table["language"].nunique() + 0.6
    figure, axes = panels(tasks, columns=4, width=side + 0.2, height=side)
    bound = np.abs(table["difference"]).max()
    for task, ax in axes:
        matrix = square(table[table["task"] == task], "mask", "language", "difference")
        heat(matrix, ax, "", vmin=-bound, vmax=bound, cbar=False, cmap=DIVERGING)
        ax.set(title=task, xlabel="tested on", ylabel="subnetwork of" if task == tasks[0] else "")
    return figure


@drawing("controls")
def controls(table: pd.DataFrame) -> Figure:
    """Subnetworks beside their controls: task, language, seed, mask_seed, control, retention, kept."""
    table = table.assign(control=table["control"].map(CONTROLS))
    order = [label for label in CONTROLS.values() if label in set(table["control"])]
    figure, axes = panels(in_order(table["task"]), columns=4, width=2.3, height=3.0, sharey=True)
    for task, ax in axes:
        rows = table[table["task"] == task]
        sns.stripplot(rows, y="control", x="retention", order=order, ax=ax, size=2, alpha=0.35, color=".6", zorder=1)
        sns.pointplot(rows, y="control", x="retention", order=order, ax=ax, ls="", ms=5, zorder=3, **SPREAD)
        ax.axvline(1, color=".4", lw=0.8)
        ax.set(title=task, xlabel="score / full model's", ylabel="", xlim=(0, 1.2))
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Draw every figure below a folder again, from the CSV beside it: `python -m xsub_utils.drawings FOLDER`."""
    parser = argparse.ArgumentParser("python -m xsub_utils.drawings", description="Draw figures from their CSVs.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    drawn = redraw(folder)
    print(f"{len(drawn)} figures redrawn in {folder}")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
