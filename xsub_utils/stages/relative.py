"""Notebook 04, the tables: relative accuracy of stitched models, by what differs and beside other kinds of likeness."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from xsub_utils.stages.stitching import CONTROLS, SUBNETWORKS, TRAINED
from xsub_utils.stitch import relative_accuracy


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `stitches` with relative accuracies.

    Returns:
        Further columns ra (score over that of the end's own subnetwork), ra_full (over that of the end's whole model)
        and above_chance (score over that of the own subnetwork, both above chance). See `stitch.relative_accuracy`.
    """
    rows = zip(table["score"], table["own"], table["full"], table["chance"], strict=True)
    found = [
        (relative_accuracy(score, own), relative_accuracy(score, full), relative_accuracy(score, own, chance))
        for score, own, full, chance in rows
    ]
    return table.assign(**dict(zip(("ra", "ra_full", "above_chance"), zip(*found, strict=True), strict=True)))


def by_condition(table: pd.DataFrame, values: Sequence[str] = ("ra", "above_chance")) -> pd.DataFrame:
    """Mean of each value: group (of conditions), condition, map, level, task, and a column for each value."""
    means = table.groupby(["condition", "map", "level", "task"], sort=False)[list(values)].mean().reset_index()
    parts = [
        means[means["condition"] == name].assign(group=group)
        for group, names in {"subnetworks": SUBNETWORKS, "controls": (SUBNETWORKS[0], *CONTROLS)}.items()
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


def beside_likeness(table: pd.DataFrame) -> pd.DataFrame:
    """Relative accuracy of trained maps beside the likeness of masks and states: kind, condition, level, likeness, …

    One row for each condition, end task and level: mean over models and languages.
    """
    kinds = {"jaccard": "Jaccard index of the masks", "cka": "CKA, mean of tokens", "cka_first": "CKA, first token"}
    trained = table[table["map"] == TRAINED]
    means = trained.groupby(["condition", "task", "level"], sort=False)[["above_chance", *kinds]].mean().reset_index()
    order = [name for name in (*SUBNETWORKS, *CONTROLS) if name in set(means["condition"])]
    means = means.set_index("condition").loc[order].reset_index()
    wide = means.melt(["condition", "task", "level", "above_chance"], list(kinds), "kind", "likeness")
    return wide.replace({"kind": kinds})


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of relative accuracy (trained, above chance) with other likeness: level, kind, rho, pairs.

    Pairs are those of `SUBNETWORKS` but "itself"; end tasks are ranked apart and averaged.
    """
    some = table[(table["map"] == TRAINED) & table["condition"].isin(SUBNETWORKS[1:])]
    rows = []
    for (level, at), kind in product(some.groupby("level"), ("jaccard", "cka", "cka_first")):
        ranked = [_rho(pairs[kind], pairs["above_chance"]) for _, pairs in at.groupby("task")]
        rows.append((level, kind, pd.Series(ranked).mean(), len(at)))
    return pd.DataFrame(rows, columns=["level", "kind", "rho", "pairs"])


def _rho(x: pd.Series, y: pd.Series) -> float:
    """Spearman's ρ; nan where one side does not vary."""
    known = x.notna() & y.notna()
    x, y = x[known], y[known]
    return float(spearmanr(x, y)[0]) if x.nunique() > 1 and y.nunique() > 1 else np.nan


def between_languages(table: pd.DataFrame, value: str = "above_chance") -> pd.DataFrame:
    """Trained maps from the front of a language to the end of another: level, a, b, value.

    On the diagonal the same language with other search data.
    """
    return _crossed(table, ("data seed", "language"), "front_language", "language", value)


def between_tasks(table: pd.DataFrame, value: str = "above_chance") -> pd.DataFrame:
    """Trained maps from the front of a task to the end of another, same language: level, a, b, value.

    On the diagonal the same task with another seed of fine-tuning.
    """
    return _crossed(table, ("model seed", "task"), "front_task", "task", value)


def _crossed(table: pd.DataFrame, conditions: Sequence[str], a: str, b: str, value: str) -> pd.DataFrame:
    some = table[table["condition"].isin(conditions) & (table["map"] == TRAINED)]
    order = list(dict.fromkeys(table[b]))
    means = some.groupby(["level", a, b], sort=False)[value].mean()
    names = pd.MultiIndex.from_product([sorted(set(table["level"])), order, order], names=["level", "a", "b"])
    return means.reindex(names).reset_index()


def stability(table: pd.DataFrame) -> pd.DataFrame:
    """Rows for `kinship.stability`: relative accuracy of trained maps, mean over levels, with another seed.

    Chance is a front of as many heads in each layer at random, the ceiling a subnetwork stitched to itself.
    """
    trained, rows = table[table["map"] == TRAINED], []
    for value, name in (("ra", "relative accuracy"), ("above_chance", "relative accuracy above chance")):
        means = trained.groupby(["condition", "task"])[value].mean()
        whole = means.groupby("condition").mean()
        for seed, chance in (("data seed", "shuffled within layers"), ("model seed", "model seed, shuffled within")):
            if seed in whole:
                spread = whole[seed], means[seed].min(), means[seed].max()
                rows.append((name, seed, *spread, whole.get(chance, np.nan), whole["itself"]))
    return pd.DataFrame(rows, columns=["measure", "seed", "mean", "low", "high", "chance", "ceiling"])
