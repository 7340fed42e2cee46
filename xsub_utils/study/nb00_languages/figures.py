"""The figures of notebook 00: the invented languages, and what pre-training learned of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xsub_utils.study.labels import labelled
from xsub_utils.study.plots import heat, in_order, panels, square
from xsub_utils.study.registry import register_figure


@register_figure("family")
def family(table: pd.DataFrame) -> Figure:
    """The family tree and, beside each language, its grammar: node, parent, leaf, then one column a setting."""
    figure, ax = plt.subplots(figsize=(8.2, 2.9))
    leaves = table[table["leaf"]]
    height = {node: float(len(leaves) - i) for i, node in enumerate(leaves["node"])}
    parent = dict(zip(table["node"], table["parent"], strict=True))
    deepest = _tree(ax, parent, height)
    right = _grammar(ax, leaves.drop(columns=["parent", "leaf"]), height, deepest + 0.12)
    ax.set(xlim=(-0.5, right + 1.2), ylim=(0.4, len(leaves) + 1.1))
    ax.axis("off")
    return figure


def _tree(ax: Axes, parent: dict[str, str], height: dict[str, float]) -> int:
    """Draws the tree over its leaves, whose height is given, and gives the depth of the deepest."""
    leaves = set(height)
    depth = {node: _depth(node, parent) for node in parent}
    deepest = max(depth.values())
    for node in sorted(parent, key=lambda name: depth[name], reverse=True):
        children = [c for c in parent if parent[c] == node]
        if node not in height:
            height[node] = float(np.mean([height[c] for c in children]))
        for child in children:
            end = deepest if child in leaves else depth[child]
            ax.plot([depth[node], depth[node], end], [height[node], *[height[child]] * 2], color=".3", lw=1.4)
        if depth[node] == 0:
            ax.plot([-0.25, 0], [height[node]] * 2, color=".3", lw=1.4)
            ax.text(-0.3, height[node], node, ha="right", va="center", weight="bold")
    return deepest


def _depth(node: str, parent: dict[str, str]) -> int:
    return 0 if not isinstance(parent[node], str) or not parent[node] else 1 + _depth(parent[node], parent)


def _grammar(ax: Axes, leaves: pd.DataFrame, height: dict[str, float], left: float) -> float:
    """Writes languages and settings in columns from `left` on, and gives the place of the last column."""
    at = left + np.array([0, *np.cumsum([0.85, 0.75, 0.75, 0.95, 1.0, 1.1])])[: len(leaves.columns)]
    for x, key in zip(at, leaves, strict=True):
        title = "language" if key == "node" else key
        ax.text(x, len(leaves) + 0.75, title, va="center", weight="bold", size=8)
    for row in leaves.to_dict("records"):
        for x, key in zip(at, row, strict=True):
            ax.text(x, height[row["node"]], row[key], va="center", size=9 if key == "node" else 8)
    return float(at[-1])


@register_figure("distances")
def distances(table: pd.DataFrame) -> Figure:
    """True distances: kind, a, b, distance."""
    figure, axes = panels(in_order(table["kind"]), width=2.5, height=2.5)
    for kind, ax in axes:
        matrix = square(table[table["kind"] == kind], "a", "b", "distance")
        heat(matrix, ax, "", vmin=0, vmax=1, cbar=False).set(title=kind, xlabel="", ylabel="")
    return figure


@register_figure("pretraining")
def pretraining(table: pd.DataFrame) -> Figure:
    """What pre-training learned: model, language, perplexity of masked words (log scale)."""
    figure, ax = plt.subplots(figsize=(6, 2.8))
    sns.barplot(labelled(table, "model"), x="language", y="perplexity", hue="model", ax=ax, errorbar=None)
    ax.set(yscale="log", ylim=(1, None), ylabel="perplexity of masked words", xlabel="language")
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None, frameon=False)
    return figure
