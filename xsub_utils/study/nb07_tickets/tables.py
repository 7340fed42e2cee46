"""Notebook 07, tables: the overlap and the transfer of tickets beside kinship, each other and what was published."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pandas as pd
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from xsub_utils.data.published import published_tickets
from xsub_utils.evaluation.metrics import Metric, metric_named
from xsub_utils.study.conditions import (
    DEPARTURES_ABOVE_CHANCE,
    PublishedMask,
    Source,
    TicketKind,
    TicketOf,
    TicketsDiffer,
    true_kinship,
)
from xsub_utils.study.nb03_similarity import kinship
from xsub_utils.study.nb07_tickets.transfer import BY_SOURCE
from xsub_utils.study.study import Study

MOST = 7  # languages of which all permutations are tried
ANOTHER_SEED = (TicketOf.OWN_ANOTHER_SEED, TicketOf.FAMILY_ANOTHER_SEED, TicketOf.ANOTHER_FAMILY_ANOTHER_SEED)
_SAME_SEED = (TicketKind.TICKET, TicketOf.FAMILY, TicketOf.ANOTHER_FAMILY)  # its own, and as above


def winning(table: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """The highest sparsity up to which every ticket wins, its mean over seeds against the full model's.

    The standard deviation is that of the full models over seeds, pooled over the languages of a task: that of two or
    three seeds of one language may be zero by accident.

    Args:
        table: From `curves`, of two seeds at least.
        metrics: Task → the metric of its scores.

    Returns:
        task, language, sparsity (0 where not even the first ticket wins), deviation.
    """
    rows = []
    for task, of_task in table.groupby("task", sort=False):
        full = of_task[of_task["sparsity"] == 0].groupby("language")["score"]
        deviation, sign = float(np.sqrt(full.var().mean())), metrics[task].sign
        for language, of_language in of_task[of_task["sparsity"] > 0].groupby("language", sort=False):
            means = of_language.groupby("sparsity")["score"].mean().sort_index()
            wins = (sign * (full.mean()[language] - means) <= deviation).tolist()
            last = wins.index(False) if False in wins else len(wins)
            rows.append((task, language, [0.0, *means.index][last], deviation))
    return pd.DataFrame(rows, columns=["task", "language", "sparsity", "deviation"])


def relatives(transferred: pd.DataFrame, study: Study) -> pd.DataFrame:
    """From whom the mask comes, in place of its language: `transfer` without the targets' own tickets.

    Returns:
        As `transfer`, with a column whose: an id of `TicketOf`, or the kind of a mask that is no ticket.
    """
    kin, order = kinship.family(study), {name: place for place, name in enumerate(TicketOf)}
    whose = [
        _whose(mask, 0 if source == target else 1 if kin.loc[source, target] else 2)
        for mask, source, target in zip(*(transferred[name] for name in ("mask", "source", "target")), strict=True)
    ]
    table = transferred.assign(whose=whose)
    table = table[table["whose"] != TicketKind.TICKET]
    return table.sort_values("whose", key=lambda names: names.map(order).fillna(len(order)), kind="stable")


def _whose(mask: str, distance: int) -> str:
    """Whose a ticket is that comes from the language itself (0), its family (1) or another one (2); else the mask."""
    if mask not in BY_SOURCE:
        return mask
    return (_SAME_SEED if mask == TicketKind.TICKET else ANOTHER_SEED)[distance]


def matrix(total: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean overlap of the tickets of two languages, of one with that of another seed: task, a, b, jaccard."""
    rows = total[total["differs"].isin([TicketsDiffer.ANOTHER_LANGUAGE, TicketsDiffer.ANOTHER_SEED])]
    symmetric = pd.concat([rows, rows[rows["a"] != rows["b"]].rename(columns={"a": "b", "b": "a"})])
    means = symmetric.groupby(["task", "a", "b"], sort=False)["jaccard"].mean()
    order = pd.MultiIndex.from_product([rows["task"].unique(), study.languages, study.languages])
    return means.reindex(order.set_names(["task", "a", "b"])).reset_index()


def predicted(overlap: pd.DataFrame, transferred: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Transfer beside what may predict it, for ordered pairs of languages, means over seeds.

    Args:
        overlap: From `departures`, whose chance knows what tickets share from the start.
        transferred: From `transfer`, of one sparsity. Where both tables have tickets of another seed, these count, as
            with the same one two languages also share the head at the start and the order of the examples.
        study: Gives the true kinship.

    Returns:
        As `specialisation.correlations` takes it: measure, task, a (target), b (source), likeness, share (the relative
        change of the score).
    """
    apart = TicketsDiffer.ANOTHER_LANGUAGE_AND_SEED, TicketKind.TICKET_OTHER_SEED
    if apart[0] not in set(overlap["differs"]) or apart[1] not in set(transferred["mask"]):
        apart = TicketsDiffer.ANOTHER_LANGUAGE, TicketKind.TICKET
    differs, kind = apart
    rows = overlap[overlap["differs"] == differs]
    symmetric = pd.concat([rows, rows.rename(columns={"a": "b", "b": "a"})])
    likeness = {DEPARTURES_ABOVE_CHANCE: symmetric.groupby(["task", "a", "b"])["above"].mean()}
    pairs = transferred[transferred["mask"].eq(kind) & transferred["source"].ne(transferred["target"])]
    share = pairs.groupby(["task", "target", "source"], sort=False)["relative"].mean().rename("share")
    share.index.names = ["task", "a", "b"]
    places = list(zip(share.index.get_level_values("a"), share.index.get_level_values("b"), strict=True))
    for name, table in kinship.true_relatedness(study).items():
        likeness[true_kinship(name)] = pd.Series([table.loc[place] for place in places], share.index)
    tables = [
        share.reset_index().assign(measure=measure, likeness=values.reindex(share.index).to_numpy())
        for measure, values in likeness.items()
    ]
    return pd.concat(tables, ignore_index=True)


def clusters(overlap: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Do clusters of a task's tickets find the families again? task, clusters, families, adjusted_rand, p.

    Average linkage on 1 − mean Jaccard of two languages, as many clusters as there are families; the adjusted Rand
    index is 0 for clusters at random and 1 for the families. p is the share of all permutations of the families over
    the languages that give as much. Languages of unknown kinship are left out.
    """
    kin = kinship.family(study)
    codes = [code for code in study.languages if kin.loc[code].any()]
    families, rows = kin.loc[codes, codes].to_numpy().argmax(1), []
    total = overlap[overlap["differs"].eq(TicketsDiffer.ANOTHER_LANGUAGE) & overlap["by"].eq("total")]
    for task, of_task in total.groupby("task", sort=False):
        wide = of_task.pivot_table(index="a", columns="b", values="jaccard").reindex(index=codes, columns=codes)
        distance = 1 - wide.fillna(wide.T).fillna(1).to_numpy()
        cut = AgglomerativeClustering(len(set(families)), metric="precomputed", linkage="average")
        labels = cut.fit_predict(distance)
        groups = [" ".join(code for code, label in zip(codes, labels, strict=True) if label == i) for i in set(labels)]
        orders = [np.array(order) for order in permutations(range(len(codes)))] if len(codes) <= MOST else []
        rand = adjusted_rand_score(families, labels)
        others = [adjusted_rand_score(families[order], labels) for order in orders]
        p = float(np.mean(np.array(others) >= rand - 1e-12)) if orders else np.nan
        rows.append((task, " | ".join(sorted(groups)), len(set(families)), rand, p))
    return pd.DataFrame(rows, columns=["task", "clusters", "families", "adjusted_rand", "p"])


def beside_published(transferred: pd.DataFrame) -> pd.DataFrame:
    """Relative changes against the target's own ticket, ours and the published ones, at a sparsity of one half.

    Returns:
        where (an id of `Source`), task, mask (an id of `PublishedMask`), source (language, or "random_weights"),
        target, relative.
    """
    ours, published = _ours(transferred), _published()
    both = pd.concat([ours, published])[["where", "task", "source", "target", "relative"]]
    in_both = both["task"].isin(set(ours["task"]) & set(published["task"]))
    both = both[both["source"].ne(both["target"]) & in_both]
    random = both["source"] == PublishedMask.RANDOM_WEIGHTS
    masks = np.where(random, PublishedMask.RANDOM_WEIGHTS, PublishedMask.ANOTHER_LANGUAGES_TICKET)
    return both.assign(mask=masks).reset_index(drop=True)


def _ours(transferred: pd.DataFrame) -> pd.DataFrame:
    masks = [TicketKind.TICKET, TicketKind.RANDOM_WEIGHTS]
    rows = transferred[transferred["sparsity"].eq(0.5) & transferred["mask"].isin(masks)]
    random = rows["mask"] == TicketKind.RANDOM_WEIGHTS
    rows = rows.assign(source=rows["source"].mask(random, TicketKind.RANDOM_WEIGHTS))
    means = rows.groupby(["task", "source", "target"], sort=False, as_index=False)["relative"].mean()
    return means.assign(where=Source.OURS)


def _published() -> pd.DataFrame:
    table = published_tickets().query("model == 'mBERT' and table in (2, 3, 4, 5)")
    crossed = table[table["table"] > 2]
    own = crossed[crossed["source"] == crossed["target"]].set_index(["task", "target"])["value"]
    random = table[table["mask"].eq("random") & table["sparsity"].eq(50)]  # table 2 has some of other sparsities
    rows = pd.concat([crossed, random.assign(source=TicketKind.RANDOM_WEIGHTS)])
    rows = rows[rows.set_index(["task", "target"]).index.isin(own.index)]
    baseline = own.reindex(rows.set_index(["task", "target"]).index).to_numpy()
    sign = rows["metric"].map(lambda name: metric_named(name).sign)
    return rows.assign(relative=sign * (rows["value"] - baseline) / baseline, where=Source.PUBLISHED)
