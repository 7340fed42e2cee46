"""Notebook 04, the tables: relative accuracy of stitched models, by what differs and beside other kinds of likeness."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from xsub_utils.stitching.scores import relative_accuracy
from xsub_utils.study.conditions import Differs, Front, FrontKind, Likeness, Map, PairLikeness
from xsub_utils.study.nb04_stitching.stitched import CONTROLS, SUBNETWORKS

FRONTS = {  # kinds of condition
    FrontKind.SUBNETWORK_OF_TASK: (Front.ITSELF, Front.MASK_SEED, Front.LANGUAGE, Front.MODEL_SEED),
    FrontKind.SUBNETWORK_OF_OTHER_TASK: (Front.TASK, Front.TASK_AND_LANGUAGE),
    FrontKind.HEADS_SHUFFLED: (
        Front.SHUFFLED_WITHIN,
        Front.SHUFFLED_OVER,
        Front.SHUFFLED,
        Front.MODEL_SEED_SHUFFLED,
    ),
    FrontKind.NO_HEADS_OR_UNTRAINED: (Front.FRONT_WITHOUT_HEADS, Front.UNTRAINED_FRONT),
    FrontKind.END_WITHOUT_HEADS: (Front.END_WITHOUT_HEADS,),
}


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `stitches` with relative accuracies.

    Returns:
        Further columns ra (score over that of the end's own subnetwork), ra_full (over that of the end's full model)
        and above_chance (score over that of the own subnetwork, both above chance). See `relative_accuracy`.
    """
    rows = zip(table["score"], table["own"], table["full"], table["chance"], strict=True)
    ratios = [
        (
            relative_accuracy(score, baseline=own),
            relative_accuracy(score, baseline=full),
            relative_accuracy(score, baseline=own, chance=chance),
        )
        for score, own, full, chance in rows
    ]
    return table.assign(**pd.DataFrame(ratios, table.index, ["ra", "ra_full", "above_chance"], dtype=float))


def means(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Relative accuracies of groups of stitched models, as ratios of sums: `by`, ra, ra_full, above_chance.

    An end that is hardly above chance so counts little, where a mean of ratios would let it decide.
    """
    scores = table.groupby(list(by), sort=False)[["score", "own", "full", "chance"]].sum().reset_index()
    return relative(scores).drop(columns=["score", "own", "full", "chance"])


def of_full_ends(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of those ends that fronts of every kind were stitched to, so that kinds are compared on equal ends."""
    keys = ["task", "seed", "language"]
    ends = table.loc[table["condition"] == Front.END_WITHOUT_HEADS, keys].drop_duplicates()
    return table.merge(ends, on=keys)


def by_condition(table: pd.DataFrame) -> pd.DataFrame:
    """Relative accuracies on the ends that have all fronts: group (of conditions), condition, map, level, task, …"""
    accuracies = means(of_full_ends(table), ["condition", "map", "level", "task"])
    parts = [
        accuracies[accuracies["condition"] == condition].assign(group=group)
        for group, conditions in {"subnetworks": SUBNETWORKS, "controls": (Front.ITSELF, *CONTROLS)}.items()
        for condition in conditions
    ]
    return pd.concat(parts, ignore_index=True)


def beside_likeness(table: pd.DataFrame) -> pd.DataFrame:
    """Relative accuracy of trained maps beside the likeness of masks and states, on the ends that have all fronts.

    Returns:
        kind (of `PairLikeness`), front (kinds of condition, see `FRONTS`), condition, task (of the end), level,
        likeness, above_chance: over models and languages.
    """
    keys = ["condition", "task", "level"]
    trained = of_full_ends(table[table["map"] == Map.TRAINED])
    likeness = trained.groupby(keys, sort=False)[list(PairLikeness)].mean().reset_index()
    wide = means(trained, keys).merge(likeness, on=keys)
    parts = [wide[wide["condition"].isin(names)].assign(front=front) for front, names in FRONTS.items()]
    return pd.concat(parts).melt(["front", *keys, "above_chance"], list(PairLikeness), "kind", "likeness")


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of relative accuracy, trained, with other likeness: kind, level, all, within, pairs.

    Over pairs of `SUBNETWORKS` but "itself"; kinds are those of `PairLikeness`. "all" ranks the pairs of a task
    together, other tasks beside the own one; "within" those of a task and condition. Each is the mean of its groups.
    """
    stitched = relative(table[(table["map"] == Map.TRAINED) & table["condition"].isin(SUBNETWORKS[1:])])
    rows = []
    for kind, (level, at_level) in product(PairLikeness, stitched.groupby("level")):
        rhos = [
            pd.Series([_rho(pairs[kind], pairs["above_chance"]) for _, pairs in at_level.groupby(groups)]).mean()
            for groups in (["task"], ["task", "condition"])
        ]
        rows.append((kind, level, *rhos, len(at_level)))
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
    return _crossed(table, (Front.MASK_SEED, Front.LANGUAGE), "front_language", "language")


def between_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Trained maps from the front of a task to the end of another, same language: level, a, b, above_chance.

    On the diagonal the same task with another seed of fine-tuning.
    """
    return _crossed(table, (Front.MODEL_SEED, Front.TASK), "front_task", "task")


def _crossed(table: pd.DataFrame, conditions: Sequence[str], a: str, b: str) -> pd.DataFrame:
    stitched = table[table["condition"].isin(conditions) & (table["map"] == Map.TRAINED)]
    accuracies = means(stitched, ["level", a, b]).set_index(["level", a, b])["above_chance"]
    order = list(dict.fromkeys(table[b]))
    fronts = order + [name for name in dict.fromkeys(stitched[a]) if name not in order]
    names = pd.MultiIndex.from_product([sorted(set(table["level"])), fronts, order], names=["level", "a", "b"])
    return accuracies.reindex(names).reset_index()


def stability(table: pd.DataFrame) -> pd.DataFrame:
    """Rows for `kinship.stability`: relative accuracy of trained maps, over levels, with another seed.

    Chance is a front of as many heads in each layer at random, the ceiling a subnetwork stitched to itself. On the ends
    that have all fronts.
    """
    accuracies, rows = means(of_full_ends(table[table["map"] == Map.TRAINED]), ["condition", "task"]), []
    measures = {"ra": Likeness.RELATIVE_ACCURACY, "above_chance": Likeness.RELATIVE_ACCURACY_ABOVE_CHANCE}
    seeds = (
        (Differs.MASK_SEED, Front.MASK_SEED, Front.SHUFFLED_WITHIN),
        (Differs.MODEL_SEED, Front.MODEL_SEED, Front.MODEL_SEED_SHUFFLED),
    )
    for (column, measure), (differs, other, chance) in product(measures.items(), seeds):
        by_condition = {condition: part[column] for condition, part in accuracies.groupby("condition")}
        if other in by_condition:
            same = by_condition[other]
            limits = by_condition[chance].mean(), by_condition[Front.ITSELF].mean()
            rows.append((measure, differs, same.mean(), same.min(), same.max(), *limits))
    return pd.DataFrame(rows, columns=["measure", "seed", "mean", "low", "high", "chance", "ceiling"])
