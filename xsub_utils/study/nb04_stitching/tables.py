"""Notebook 04, the tables: relative accuracy of stitched models, by what differs and beside other kinds of likeness."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from xsub_utils.stitching.scores import relative_accuracy
from xsub_utils.study.nb04_stitching.stitched import CONTROLS, HEADLESS, SUBNETWORKS, TRAINED

KINDS = {"jaccard": "Jaccard index of the masks", "cka": "CKA, mean of tokens", "cka_first": "CKA, first token"}
FRONTS = {  # kinds of condition
    "subnetwork of the task": SUBNETWORKS[:4],
    "subnetwork of another task": SUBNETWORKS[4:],
    "heads shuffled": CONTROLS[:4],
    "no heads, or untrained": CONTROLS[4:6],
    "end without heads": CONTROLS[6:],
}


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `stitches` with relative accuracies.

    Returns:
        Further columns ra (score over that of the end's own subnetwork), ra_full (over that of the end's whole model)
        and above_chance (score over that of the own subnetwork, both above chance). See `stitching.relative_accuracy`.
    """
    rows = zip(table["score"], table["own"], table["full"], table["chance"], strict=True)
    found = [
        (
            relative_accuracy(score, baseline=own),
            relative_accuracy(score, baseline=full),
            relative_accuracy(score, baseline=own, chance=chance),
        )
        for score, own, full, chance in rows
    ]
    return table.assign(**pd.DataFrame(found, table.index, ["ra", "ra_full", "above_chance"], dtype=float))


def means(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Relative accuracies of groups of stitched models, as ratios of sums: `by`, ra, ra_full, above_chance.

    An end that is hardly above chance so counts little, where a mean of ratios would let it decide.
    """
    scores = table.groupby(list(by), sort=False)[["score", "own", "full", "chance"]].sum().reset_index()
    return relative(scores).drop(columns=["score", "own", "full", "chance"])


def of_full_ends(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of those ends that fronts of every kind were stitched to, so that kinds are compared on equal ends."""
    keys = ["task", "seed", "language"]
    full = table.loc[table["condition"] == HEADLESS, keys].drop_duplicates()
    return table.merge(full, on=keys)


def by_condition(table: pd.DataFrame) -> pd.DataFrame:
    """Relative accuracies on the ends that have all fronts: group (of conditions), condition, map, level, task, …"""
    found = means(of_full_ends(table), ["condition", "map", "level", "task"])
    parts = [
        found[found["condition"] == name].assign(group=group)
        for group, names in {"subnetworks": SUBNETWORKS, "controls": (SUBNETWORKS[0], *CONTROLS)}.items()
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


def beside_likeness(table: pd.DataFrame) -> pd.DataFrame:
    """Relative accuracy of trained maps beside the likeness of masks and states, on the ends that have all fronts.

    Returns:
        kind (of likeness), front (kinds of condition, see `FRONTS`), condition, task (of the end), level, likeness,
        above_chance: over models and languages.
    """
    keys = ["condition", "task", "level"]
    trained = of_full_ends(table[table["map"] == TRAINED])
    found = means(trained, keys).merge(trained.groupby(keys, sort=False)[list(KINDS)].mean().reset_index(), on=keys)
    parts = [found[found["condition"].isin(names)].assign(front=front) for front, names in FRONTS.items()]
    wide = pd.concat(parts).melt(["front", *keys, "above_chance"], list(KINDS), "kind", "likeness")
    return wide.replace({"kind": KINDS})


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of relative accuracy, trained, with other likeness: kind, level, all, within, pairs.

    Over pairs of `SUBNETWORKS` but "itself". "all" ranks the pairs of a task together, other tasks beside the own one;
    "within" those of a task and condition. Each is the mean of its groups.
    """
    some = relative(table[(table["map"] == TRAINED) & table["condition"].isin(SUBNETWORKS[1:])])
    rows = []
    for kind, (level, at) in product(KINDS, some.groupby("level")):
        found = [
            pd.Series([_rho(pairs[kind], pairs["above_chance"]) for _, pairs in at.groupby(groups)]).mean()
            for groups in (["task"], ["task", "condition"])
        ]
        rows.append((KINDS[kind], level, *found, len(at)))
    return pd.DataFrame(rows, columns=["kind", "level", "all", "within", "pairs"])


def _rho(x: pd.Series, y: pd.Series) -> float:
    """Spearman's ρ; nan where one side does not vary."""
    known = x.notna() & y.notna()
    x, y = x[known], y[known]
    return float(spearmanr(x, y)[0]) if x.nunique() > 1 and y.nunique() > 1 else np.nan


def between_languages(table: pd.DataFrame) -> pd.DataFrame:
    """Trained maps from the front of a language to the end of another: level, a, b, above_chance.

    On the diagonal the same language with another mask seed.
    """
    return _crossed(table, ("mask seed", "language"), "front_language", "language")


def between_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Trained maps from the front of a task to the end of another, same language: level, a, b, above_chance.

    On the diagonal the same task with another seed of fine-tuning.
    """
    return _crossed(table, ("model seed", "task"), "front_task", "task")


def _crossed(table: pd.DataFrame, conditions: Sequence[str], a: str, b: str) -> pd.DataFrame:
    some = table[table["condition"].isin(conditions) & (table["map"] == TRAINED)]
    found = means(some, ["level", a, b]).set_index(["level", a, b])["above_chance"]
    order = list(dict.fromkeys(table[b]))
    fronts = order + [name for name in dict.fromkeys(some[a]) if name not in order]
    names = pd.MultiIndex.from_product([sorted(set(table["level"])), fronts, order], names=["level", "a", "b"])
    return found.reindex(names).reset_index()


def stability(table: pd.DataFrame) -> pd.DataFrame:
    """Rows for `kinship.stability`: relative accuracy of trained maps, over levels, with another seed.

    Chance is a front of as many heads in each layer at random, the ceiling a subnetwork stitched to itself. On the ends
    that have all fronts.
    """
    found, rows = means(of_full_ends(table[table["map"] == TRAINED]), ["condition", "task"]), []
    for value, name in (("ra", "relative accuracy"), ("above_chance", "relative accuracy above chance")):
        of = {condition: part[value] for condition, part in found.groupby("condition")}
        for seed, chance in (("mask seed", "shuffled within layers"), ("model seed", "model seed, shuffled within")):
            if seed in of:
                spread = of[seed].mean(), of[seed].min(), of[seed].max()
                rows.append((name, seed, *spread, of[chance].mean(), of["itself"].mean()))
    return pd.DataFrame(rows, columns=["measure", "seed", "mean", "low", "high", "chance", "ceiling"])
