"""Notebook 03, the truth: which measure of likeness tells how the languages are related, and how stable each is."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xsub_utils.data import languages as invented
from xsub_utils.data import typology
from xsub_utils.stages import finetuning, overlaps, pruning
from xsub_utils.statistics import bootstrap_interval, mantel
from xsub_utils.study import Study, collect

RESAMPLES = 500
KIN = {True: "related", False: "unrelated"}
SIDES = {"full": "", "own": ", own subnetworks", "untrained": ", untrained twin"}
CELLS = ["measure", "task", "seed", "a", "b", "value"]


def true_relatedness(study: Study) -> dict[str, pd.DataFrame]:
    """Kind -> 1 − distance of every two languages: MiniBabel's own, or for natural languages those of URIEL+."""
    if study.source == "minibabel":
        return {kind: 1 - invented.distances(kind, study.languages) for kind in invented.DISTANCES}
    return {kind: 1 - typology.typological_distances(kind, study.languages) for kind in typology.KINDS}


def with_relation(across: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Likeness of translations, mean over pairs of languages: task, seed, measure, relation, level, value.

    Relations are "related" (one family) and "unrelated", both also through the own subnetworks and in the untrained
    twin, and "shuffled sentences".
    """
    kin = family(study)
    pairs = zip(across["a"], across["b"], across["heads"], strict=True)
    names = [
        "shuffled sentences" if heads == "shuffled" else KIN[kin.loc[a, b]] + SIDES[heads] for a, b, heads in pairs
    ]
    order = [name + suffix for name in KIN.values() for suffix in SIDES.values()] + ["shuffled sentences"]
    table = across.assign(relation=pd.Categorical(names, order)).sort_values("relation", kind="stable")
    keys = ["task", "seed", "measure", "relation", "level"]
    return table.astype({"relation": str}).groupby(keys, sort=False, as_index=False)["value"].mean()


def family(study: Study) -> pd.DataFrame:
    """Whether two languages are of one family."""
    truth = true_relatedness(study)
    return truth["tree" if study.source == "minibabel" else "genetic"] > 0


def of_masks(pairs: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the masks of two languages, same model and data seed: measure, task, seed, a, b, value."""
    names = {"jaccard": "mask Jaccard", "adjusted_within": "mask Jaccard above chance"}
    some = pairs[pairs["differs"] == "language"].rename(columns={"language": "a", "language_b": "b"})
    return some.melt(["task", "seed", "a", "b"], list(names), "measure").replace({"measure": names})[CELLS]


def of_importance(importance: pd.DataFrame) -> pd.DataFrame:
    """Cosine of the head importances of two languages, same model and data seed; columns as above."""
    vectors = overlaps.vectors_of(importance)
    rows = []
    for (task, seed, _), some in vectors.groupby(level=["task", "seed", "mask_seed"], sort=False):
        unit = some.to_numpy() / np.linalg.norm(some.to_numpy(), axis=1, keepdims=True)
        codes = some.index.get_level_values("language")
        cosine = unit @ unit.T
        rows += [(task, seed, a, b, cosine[i, j]) for i, a in enumerate(codes) for j, b in enumerate(codes) if i < j]
    return pd.DataFrame(rows, columns=CELLS[1:]).assign(measure="head importance, cosine")[CELLS]


def of_states(within: pd.DataFrame, across: pd.DataFrame) -> pd.DataFrame:
    """Likeness of representations, mean over the layers; columns as above.

    Args:
        within: From `states.within_model`: two subnetworks on the same sentences.
        across: From `states.across_languages`: translations, in the full model, its subnetworks and the twin.
    """
    masked = within.query(
        "against == 'own subnetwork' and other == \"another language's\" and pool == 'mean' and level > 0"
    )
    masked = masked.rename(columns={"language": "a", "whose": "b", "cka": "value"}).assign(measure="CKA of subnetworks")
    some = across[across["heads"].isin(SIDES) & (across["level"] > 0)]
    names = some["measure"] + " of translations" + some["heads"].map(SIDES)
    table = pd.concat([masked, some.assign(measure=names)])
    return table.groupby(CELLS[:-1], sort=False, as_index=False)["value"].mean()


def of_function(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seeds: Sequence[int]) -> pd.DataFrame:
    """What is left of the score of b's data through a's subnetwork instead of its own; columns as above."""
    table = collect(pruning.cross_evaluation, study, tasks, seeds, mask_seeds).query("control == 'other'")
    share = table["score"] / (table["score"] - table["difference"])
    lower_is_better = [study.task(task).metric == "perplexity" for task in table["task"]]
    table = table.assign(
        value=share.where(np.invert(lower_is_better), 1 / share), measure="score through the other's mask"
    )
    return table.rename(columns={"mask": "a", "language": "b"})[CELLS]


def of_transfer(study: Study, tasks: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Zero-shot score of models trained on a and tested on b."""
    table = collect(finetuning.transfer, study, tasks, seeds).rename(
        columns={"source": "a", "target": "b", "score": "value"}
    )
    return table[table["a"] != table["b"]].assign(measure="zero-shot transfer")[CELLS]


def against_truth(likeness: pd.DataFrame, truth: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Spearman's ρ of each measure with each kind of true relatedness over the pairs of languages.

    Each task's matrix is standardised, then they are averaged. The interval resamples models (task × seed), so it
    covers their noise, not the choice of languages; p is that of a Mantel test, which permutes the languages.

    Returns:
        measure, kind, rho, low, high, p.
    """
    rows = []
    for measure, table in likeness.groupby("measure", sort=False):
        stack, models = _stack(table, list(next(iter(truth.values()))))
        if len(models):
            rows += [(measure, kind, *_correlation(stack, models, related)) for kind, related in truth.items()]
    return pd.DataFrame(rows, columns=["measure", "kind", "rho", "low", "high", "p"])


def _correlation(stack: np.ndarray, models: Sequence[str], related: pd.DataFrame) -> tuple[float, float, float, float]:
    """ρ, the limits of its interval, and p; nan if all pairs of languages are equally related, or unknown."""
    known = ~np.eye(len(related), dtype=bool) & related.notna().to_numpy()
    target = related.to_numpy()[known]
    mean = stack.mean(0)
    if not target.size or np.ptp(target) == 0 or np.ptp(mean[known]) == 0:
        return (np.nan,) * 4
    test = mantel(pd.DataFrame(mean, related.index, related.columns), related)
    rho = partial(_spearman, ranks=rankdata(target))
    interval = bootstrap_interval(stack[:, known], rho, groups=models, resamples=RESAMPLES)
    return test.r, interval.low, interval.high, test.p


def _spearman(stack: np.ndarray, ranks: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # nan where resampled models find all languages equally alike
        return np.corrcoef(rankdata(stack.mean(0)), ranks)[0, 1]


def _stack(table: pd.DataFrame, codes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """One standardised language × language matrix for each model, symmetric where only one order was measured.

    Models are left out of which a value is unknown, such as the overlap of two masks that keep no head.
    """
    off, matrices, models = ~np.eye(len(codes), dtype=bool), [], []
    for (task, seed), some in table.groupby(["task", "seed"], sort=False):
        wide = some.pivot_table(index="a", columns="b", values="value").reindex(index=codes, columns=codes)
        full = wide.fillna(wide.T).to_numpy()
        if np.isfinite(full[off]).all():
            matrices.append((full - full[off].mean()) / (full[off].std() or 1))
            models.append(f"{task} {seed}")
    return np.array(matrices), models


def stability(pairs: pd.DataFrame, within: pd.DataFrame, between: pd.DataFrame) -> pd.DataFrame:
    """How alike the same thing comes out with another seed: measure, seed, mean, low, high, chance, ceiling.

    Args:
        pairs: From `overlaps.pairs`; chance is what masks with as many heads in each layer share, the ceiling what
            masks of their sizes could share at most.
        within, between: From `states.within_model` and `states.between_models`; mean over layers, mean pooling.
            Chance is the likeness to random heads; the ceiling that of a thing to itself or, for another model, of
            the two full models. Intervals are over tasks.
    """
    rows = []
    for differs in ("data seed", "model seed"):
        some = pairs[pairs["differs"] == differs].dropna(subset="jaccard")
        if len(some):
            interval = bootstrap_interval(some["jaccard"].to_numpy(), np.mean, groups=some["task"])
            rows.append(("mask Jaccard", differs, *interval, some["expected_within"].mean(), some["ceiling"].mean()))
    states = pd.concat([within, between]).query("pool == 'mean' and level > 0")
    cka = states.groupby(["against", "other"])["cka"].mean()
    for differs, chance, ceiling in (
        ("data seed", "random heads", 1.0),
        ("model seed", "other model seed, random heads", cka.get(("full model", "other model seed"))),
    ):
        some = states[(states["against"] == "own subnetwork") & (states["other"] == f"other {differs}")].dropna(
            subset="cka"
        )
        if len(some):
            interval = bootstrap_interval(some["cka"].to_numpy(), np.mean, groups=some["task"])
            rows.append(("CKA of states", differs, *interval, cka["own subnetwork", chance], ceiling))
    return pd.DataFrame(rows, columns=["measure", "seed", "mean", "low", "high", "chance", "ceiling"])
