"""Notebook 05, the tables: does a language rely on its own data, and does its subnetwork make it do so more?"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from xsub_utils.statistics.inference import bootstrap_interval, crossed_interval, mantel
from xsub_utils.study.conditions import AttributedHeads, true_relatedness
from xsub_utils.study.nb05_attribution.controls import CONDITIONS
from xsub_utils.study.nb05_attribution.tables import BY_EPOCH

RANDOM = (AttributedHeads.RANDOM_ANY_SIZE, AttributedHeads.RANDOM_HEADS, AttributedHeads.RANDOM_AS_ACCURATE)
EXAMPLE = ["task", "seed", "language", "id"]
RESAMPLES = 1000


def matrices(shares: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Share of each training language in each test language: task, condition, a (test), b (training), share.

    Strongest proponents over all epochs. Of the own subnetwork, and of random heads as accurate, each row is through
    the heads of the row's language.
    """
    rows = shares[shares["condition"].isin(BY_EPOCH) & _proponents(shares)]
    keys = ["condition", "task", "language", "train"]
    table = rows.groupby(keys, sort=False, as_index=False)["share"].mean()
    return in_order(table.rename(columns={"language": "a", "train": "b"}), languages)


def in_order(table: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """The rows with their languages a and b in this order."""
    place = {code: number for number, code in enumerate(languages)}
    return table.sort_values(["a", "b"], key=lambda codes: codes.map(place), kind="stable").reset_index(drop=True)


def in_language(shares: pd.DataFrame) -> pd.DataFrame:
    """In-language share, that of the test example's own language, beside that in the full model.

    Returns:
        Rows of `tables.shares` where both languages are one: further columns full (share in the full model, same
        example, epoch and sign) and rise (share − full).
    """
    own = shares[shares["train"] == shares["language"]].drop(columns="train")
    keys = [*EXAMPLE, "epoch", "sign"]
    full = own[own["condition"] == AttributedHeads.FULL].set_index(keys)["share"].rename("full")
    table = own.join(full, on=keys)
    return table.assign(rise=table["share"] - table["full"])


def rises(own: pd.DataFrame, epoch: int = 0) -> pd.DataFrame:
    """How much more a prediction relies on its own language through a set of heads than in the full model.

    Args:
        own: From `in_language`.
        epoch: 0 for all checkpoints, −1 for all weighted by their learning rates, or one of them.

    Returns:
        task ("all" too), sign, condition, mean, low, high: 95 % intervals of a bootstrap over pairs of model and
        language, each with its sets of heads and test examples, so that they hold what other random heads would change.
    """
    return _estimates(own[own["epoch"] == epoch], _conditions_but(AttributedHeads.FULL), "rise")


def contrasts(own: pd.DataFrame) -> pd.DataFrame:
    """By how much the own subnetwork's in-language share exceeds that through each control; as `rises`."""
    rows = own[_all_epochs(own)]
    keys = [*EXAMPLE, "sign"]
    reference = rows[rows["condition"] == AttributedHeads.OWN].set_index(keys)["share"].rename("own")
    controls = _conditions_but(AttributedHeads.OWN)
    table = rows[rows["condition"].isin(controls)].join(reference, on=keys)
    table = table.dropna(subset="own").assign(excess=table["own"] - table["share"])
    return _estimates(table, controls, "excess")


def _conditions_but(condition: str) -> list[str]:
    return [other for other in CONDITIONS if other != condition]


def _estimates(table: pd.DataFrame, conditions: Sequence[str], value: str) -> pd.DataFrame:
    keys = ["sign", "condition", *EXAMPLE]
    means = table[table["condition"].isin(conditions)].groupby(keys, sort=False, as_index=False)[value].mean()
    means, rows = means.assign(unit=means.groupby(["task", "seed", "language"]).ngroup()), []
    for task, of_task in _each_task_and_all(means):
        groups = dict(list(of_task.groupby(["sign", "condition"])))
        for key in ((sign, condition) for sign in ("positive", "negative") for condition in conditions):
            if key in groups:
                values, units = groups[key][value].to_numpy(), groups[key]["unit"].to_numpy()
                rows.append((task, *key, *bootstrap_interval(values, np.mean, groups=units, resamples=RESAMPLES)))
    return pd.DataFrame(rows, columns=["task", "sign", "condition", "mean", "low", "high"])


def _each_task_and_all(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each task with its rows and, if there are several, "all" with all rows."""
    tasks = list(dict.fromkeys(table["task"]))
    for task in tasks:
        yield task, table[table["task"] == task]
    if len(tasks) > 1:
        yield "all", table


def crossed_estimates(table: pd.DataFrame, keys: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of each condition over seeds and languages, for each task and for all, with its interval.

    Args:
        table: task, seed, language, the keys, and the value.
        keys: Columns that hold the conditions.
        value: Column whose mean is taken.

    Returns:
        task ("all" too), the keys, mean, low, high: 95 % intervals of `crossed_interval`.
    """
    rows = []
    for task, of_task in _each_task_and_all(table):
        for condition, of_condition in of_task.groupby(list(keys), sort=False):
            wide = of_condition.pivot_table(index=["task", "seed"], columns="language", values=value)
            strata = [part.to_numpy() for _, part in wide.groupby(level="task", sort=False)]
            most = max(map(len, strata))
            cells = np.full((len(strata), most, wide.shape[1]), np.nan)
            for place, part in enumerate(strata):
                cells[place, : len(part)] = part
            rows.append((task, *condition, *crossed_interval(cells)))
    return pd.DataFrame(rows, columns=["task", *keys, "mean", "low", "high"])


def against_accuracy(own: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """What a set of heads does to the in-language share, beside what it does to the score.

    Args:
        own: From `in_language`.
        scores: From `tables.accuracies`.

    Returns:
        task, seed, condition, whose, kept, language, rise (mean over test examples; proponents, all epochs),
        retained (score over that of the full model).
    """
    keys = ["task", "seed", "condition", "whose", "kept", "language"]
    rise = own[_proponents(own)].groupby(keys, sort=False)["rise"].mean().reset_index()
    full = (
        scores[scores["condition"] == AttributedHeads.FULL]
        .set_index(["task", "seed", "language"])["score"]
        .rename("full")
    )
    joined = scores.join(full, on=["task", "seed", "language"])
    joined = joined.assign(retained=joined["score"] / joined["full"])
    table = rise.merge(joined[[*keys, "retained"]].drop_duplicates(keys), on=keys)
    return table[table["condition"] != AttributedHeads.FULL].reset_index(drop=True)


def damage(points: pd.DataFrame) -> pd.DataFrame:
    """Whether random heads raise the in-language share the more, the more of the score they lose.

    Args:
        points: From `against_accuracy`.

    Returns:
        One row a task: rho (Spearman's, of rise with the score lost, over the random masks of a language and model,
        mean over these), retaining_90 and below_70 (mean rise of random masks that retain 90 % of the score or more,
        and less than 70 %), masks (their number).
    """
    rows = []
    for task, table in points[points["condition"].isin(RANDOM)].groupby("task", sort=False):
        rhos = [
            spearmanr(1 - part["retained"], part["rise"])[0]
            for _, part in table.groupby(["seed", "language"])
            if part["rise"].nunique() > 1 and part["retained"].nunique() > 1
        ]
        good, bad = table[table["retained"] >= 0.9], table[table["retained"] < 0.7]
        rho = np.mean(rhos) if rhos else np.nan
        rows.append((task, rho, good["rise"].mean(), bad["rise"].mean(), len(table)))
    return pd.DataFrame(rows, columns=["task", "rho", "retaining_90", "below_70", "masks"])


def over_epochs(own: pd.DataFrame) -> pd.DataFrame:
    """In-language share at each checkpoint alone: task, seed, condition, language, epoch, share."""
    rows = own[(own["epoch"] > 0) & (own["sign"] == "positive") & (own["condition"].isin(BY_EPOCH))]
    keys = ["task", "seed", "condition", "language", "epoch"]
    return rows.groupby(keys, sort=False, as_index=False)["share"].mean()


def cross_language(
    shares: pd.DataFrame, likeness: pd.DataFrame, truth: Mapping[str, pd.DataFrame], languages: Sequence[str]
) -> pd.DataFrame:
    """Influence of one language on another, in the full model, beside likeness of the two.

    Args:
        shares: From `tables.shares`.
        likeness: measure, task, seed, a, b, value: rows of `kinship.of_masks`, `of_function` and the like.
        truth: Kind -> true relatedness.
        languages: In their order.

    Returns:
        task, measure, a (test language), b (training language), likeness, share (of b among a's strongest proponents
        that are not of a); means over models.
    """
    of_others = _proponents(shares) & (shares["train"] != shares["language"])
    full = shares[(shares["condition"] == AttributedHeads.FULL) & of_others]
    share = full.groupby(["task", "language", "train"])["share"].mean().rename("share").reset_index()
    total = share.groupby(["task", "language"])["share"].transform("sum")
    share = share.assign(share=share["share"] / total).rename(columns={"language": "a", "train": "b"})
    both = pd.concat([likeness, likeness.rename(columns={"a": "b", "b": "a"})[likeness.columns]])
    means = both.groupby(["measure", "task", "a", "b"], sort=False)["value"].mean().rename("likeness").reset_index()
    tables = [means.merge(share, on=["task", "a", "b"])]
    for kind, matrix in truth.items():
        cells = matrix.rename_axis(index="a", columns="b").stack().rename("likeness").reset_index()
        tables.append(share.merge(cells, on=["a", "b"]).assign(measure=true_relatedness(kind)))
    table = pd.concat(tables)[["task", "measure", "a", "b", "likeness", "share"]]
    return in_order(table, languages)


def correlations(pairs: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Spearman's ρ of cross-language influence with each likeness: task ("all": tasks standardised), measure, rho, p.

    p is that of a Mantel test for positive ρ, which permutes the languages; not corrected for the number of tests.

    Args:
        pairs: From `cross_language`.
        languages: In their order.
    """
    rows = []
    for measure, table in pairs.groupby("measure", sort=False):
        wide = {task: _square(of_task, languages) for task, of_task in table.groupby("task", sort=False)}
        if len(wide) > 1:
            likenesses, influences = zip(*wide.values(), strict=True)
            wide["all"] = _mean_standardised(likenesses), _mean_standardised(influences)
        for task, (likeness, share) in wide.items():
            off = ~np.eye(len(languages), dtype=bool)
            varies = all(np.nanstd(side.to_numpy()[off]) > 0 for side in (likeness, share))
            test = mantel(likeness, share) if varies and len(languages) > 2 else None
            rows.append((task, measure, *(test[:2] if test else (np.nan, np.nan))))
    return pd.DataFrame(rows, columns=["task", "measure", "rho", "p"])


def _square(table: pd.DataFrame, languages: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Likeness and share, each in a row for a language a and a column for a language b."""
    wide = (table.pivot(index="a", columns="b", values=value) for value in ("likeness", "share"))
    likeness, share = (matrix.reindex(index=languages, columns=languages) for matrix in wide)
    return likeness, share


def _mean_standardised(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    off = ~np.eye(len(tables[0]), dtype=bool)
    cells = [table.to_numpy(dtype=float) for table in tables]
    mean = np.mean([(cell - np.nanmean(cell[off])) / (np.nanstd(cell[off]) or 1) for cell in cells], axis=0)
    return pd.DataFrame(mean, tables[0].index, tables[0].columns)


def _proponents(table: pd.DataFrame) -> pd.Series:
    """Rows of the strongest proponents by all checkpoints together."""
    return _all_epochs(table) & (table["sign"] == "positive")


def _all_epochs(table: pd.DataFrame) -> pd.Series:
    """Rows of all checkpoints together."""
    return table["epoch"] == 0
