"""Notebook 07, tables: the overlap and the transfer of tickets beside kinship, each other and what was published."""

from itertools import permutations

import numpy as np
import pandas as pd
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from xsub_utils.data.published import published_tickets
from xsub_utils.study.nb03_similarity import kinship
from xsub_utils.study.nb07_tickets.models import RANDOM, SEED, TICKET
from xsub_utils.study.nb07_tickets.transfer import DIFFERS
from xsub_utils.study.study import Study

MOST = 7  # languages of which all permutations are tried
OURS, THEIRS = "ours", "published (mBERT)"
AGAIN = ", another seed"


def relatives(transferred: pd.DataFrame, study: Study) -> pd.DataFrame:
    """From whom the mask comes, in place of its language: `transfer` without the targets' own tickets.

    Returns:
        As `transfer`, with a column whose: "family", "another family", with `AGAIN` "own", "family" and "another
        family" where the ticket is of another seed, or the kind of another mask.
    """
    kin, found = kinship.family(study), transferred["mask"].isin([TICKET, SEED])
    near = [kin.loc[place] for place in zip(transferred["source"], transferred["target"], strict=True)]
    own = transferred["source"] == transferred["target"]
    whose = pd.Series(np.where(own, "own", np.where(near, "family", "another family")), transferred.index)
    whose += np.where(transferred["mask"] == SEED, AGAIN, "")
    table = transferred.assign(whose=whose.where(found, transferred["mask"]))[~(own & transferred["mask"].eq(TICKET))]
    order = ["family", "another family", *(one + AGAIN for one in ("own", "family", "another family"))]
    rank = {name: place for place, name in enumerate(order)}
    return table.sort_values("whose", key=lambda names: names.map(rank).fillna(len(rank)), kind="stable")


def matrix(total: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Mean overlap of the tickets of two languages, of one with that of another seed: task, a, b, jaccard."""
    kept = total[total["differs"].isin([DIFFERS["language",], DIFFERS["seed",]])]
    both = pd.concat([kept, kept[kept["a"] != kept["b"]].rename(columns={"a": "b", "b": "a"})])
    means = both.groupby(["task", "a", "b"], sort=False)["jaccard"].mean()
    order = pd.MultiIndex.from_product([kept["task"].unique(), study.languages, study.languages])
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
    apart = DIFFERS["seed", "language"] in set(overlap["differs"]) and SEED in set(transferred["mask"])
    some = overlap[overlap["differs"] == DIFFERS[("seed", "language") if apart else ("language",)]]
    both = pd.concat([some, some.rename(columns={"a": "b", "b": "a"})])
    likeness = {"overlap of departures, above chance": both.groupby(["task", "a", "b"])["above"].mean()}
    kind = transferred["mask"] == (SEED if apart else TICKET)
    pairs = transferred[kind & transferred["source"].ne(transferred["target"])]
    share = pairs.groupby(["task", "target", "source"], sort=False)["relative"].mean().rename("share")
    share.index.names = ["task", "a", "b"]
    places = list(zip(share.index.get_level_values("a"), share.index.get_level_values("b"), strict=True))
    for kind, table in kinship.true_relatedness(study).items():
        likeness[f"true kinship: {kind}"] = pd.Series([table.loc[place] for place in places], share.index)
    tables = [share.reset_index().assign(measure=name, likeness=one.reindex(share.index).to_numpy())
              for name, one in likeness.items()]  # fmt: skip
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
    total = overlap[overlap["differs"].eq(DIFFERS["language",]) & overlap["by"].eq("total")]
    for task, some in total.groupby("task", sort=False):
        wide = some.pivot_table(index="a", columns="b", values="jaccard").reindex(index=codes, columns=codes)
        distance = 1 - wide.fillna(wide.T).fillna(1).to_numpy()
        cut = AgglomerativeClustering(len(set(families)), metric="precomputed", linkage="average")
        labels = cut.fit_predict(distance)
        groups = [" ".join(code for code, label in zip(codes, labels, strict=True) if label == i) for i in set(labels)]
        orders = [np.array(order) for order in permutations(range(len(codes)))] if len(codes) <= MOST else []
        rand, others = adjusted_rand_score(families, labels), [adjusted_rand_score(families[o], labels) for o in orders]
        p = float(np.mean(np.array(others) >= rand - 1e-12)) if orders else np.nan
        rows.append((task, " | ".join(sorted(groups)), len(set(families)), rand, p))
    return pd.DataFrame(rows, columns=["task", "clusters", "families", "adjusted_rand", "p"])


def beside_published(transferred: pd.DataFrame) -> pd.DataFrame:
    """Relative changes against the target's own ticket, ours and the published ones, at a sparsity of one half.

    Returns:
        where ("ours", "published (mBERT)"), task, mask ("another language's ticket", "random"), source, target,
        relative.
    """
    ours = transferred[transferred["sparsity"].eq(0.5) & transferred["mask"].isin([TICKET, RANDOM])]
    ours = ours.assign(source=ours["source"].mask(ours["mask"] == RANDOM, RANDOM))
    ours = ours.groupby(["task", "source", "target"], sort=False, as_index=False)["relative"].mean().assign(where=OURS)
    table = published_tickets().query("model == 'mBERT' and table in (2, 3, 4, 5)")
    crossed = table[table["table"] > 2]
    own = crossed[crossed["source"] == crossed["target"]].set_index(["task", "target"])["value"]
    random = table[table["mask"].eq("random") & table["sparsity"].eq(50)]  # table 2 has some of other sparsities
    rows = pd.concat([crossed, random.assign(source=RANDOM)])
    rows = rows[rows.set_index(["task", "target"]).index.isin(own.index)]
    base = own.reindex(rows.set_index(["task", "target"]).index).to_numpy()
    sign = np.where(rows["metric"] == "perplexity", -1, 1)
    theirs = rows.assign(relative=sign * (rows["value"] - base) / base, where=THEIRS)
    both = pd.concat([ours, theirs])[["where", "task", "source", "target", "relative"]]
    both = both[both["source"].ne(both["target"]) & both["task"].isin(set(ours["task"]) & set(theirs["task"]))]
    names = np.where(both["source"] == RANDOM, "random", "another language's ticket")
    return both.assign(mask=names).reset_index(drop=True)
