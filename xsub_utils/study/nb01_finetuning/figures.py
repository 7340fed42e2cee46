"""The figures of notebook 01: scores, zero-shot transfer and learning curves of the fine-tuned models."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from xsub_utils.evaluation.metrics import metric_named
from xsub_utils.study.labels import labelled
from xsub_utils.study.plots import heat, is_first, language_lines, legend_above, square, task_panels
from xsub_utils.study.registry import register_figure


@register_figure("scores")
def scores(table: pd.DataFrame) -> Figure:
    """Scores on held-out data: task, metric, language, model, seed, score; one point a seed."""
    figure, panels = task_panels(labelled(table, "model"), columns=2, width=3.9, height=2.5)
    for task, rows, ax in panels:
        sns.stripplot(rows, x="language", y="score", hue="model", ax=ax, size=5, jitter=0.12, alpha=0.8)
        ax.set(title=f"{task} ({metric_named(rows['metric'].iloc[0]).label})", ylim=(0, 1.03), xlabel="language")
    return legend_above(figure, columns=4)


@register_figure("zero_shot")
def zero_shot(table: pd.DataFrame) -> Figure:
    """Zero-shot transfer: task, source, target, score (mean over seeds)."""
    figure, panels = task_panels(table, width=2.7, height=2.7, sharey=False)
    low, high = table["score"].min(), table["score"].max()
    for task, rows, ax in panels:
        heat(square(rows, "source", "target", "score"), ax, "", vmin=low, vmax=high, cbar=False)
        ax.set(title=task, xlabel="tested on", ylabel="fine-tuned on" if is_first(ax) else "")
    return figure


@register_figure("kinship")
def kinship(table: pd.DataFrame) -> Figure:
    """Transfer against true relatedness: task, source, target, score, relatedness, family."""
    figure, panels = task_panels(table[table["source"] != table["target"]])
    for task, rows, ax in panels:
        sns.scatterplot(rows, x="relatedness", y="score", hue="family", style="family", ax=ax)
        rho = rows["score"].corr(rows["relatedness"], method="spearman")
        ax.set(title=f"{task}: Spearman {rho:.2f}", xlabel="true relatedness", ylabel="zero-shot score")
    return legend_above(figure, columns=4)


@register_figure("learning")
def learning(table: pd.DataFrame) -> Figure:
    """Learning curves: task, metric, seed, language, epoch, score; bands from the lowest to the highest seed."""
    return language_lines(table, "epoch", "score", "score")
