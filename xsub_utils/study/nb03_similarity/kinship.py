"""Notebook 03, the truth: which measure of likeness tells how the languages are related, and how stable each is."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from xsub_utils.data import typology
from xsub_utils.data.minibabel import languages as invented
from xsub_utils.statistics.inference import mantel
from xsub_utils.study.conditions import Compared, Control, Differs, Heads, Likeness, Measure, Relation, of_translations
from xsub_utils.study.nb01_finetuning import tables as finetuning
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity import overlaps
from xsub_utils.study.study import Study, collect

KIN = {  # whether two languages are of one family, and heads -> the relation
    (True, Heads.FULL): Relation.RELATED,
    (True, Heads.OWN): Relation.RELATED_OWN,
    (True, Heads.UNTRAINED): Relation.RELATED_UNTRAINED,
    (False, Heads.FULL): Relation.UNRELATED,
    (False, Heads.OWN): Relation.UNRELATED_OWN,
    (False, Heads.UNTRAINED): Relation.UNRELATED_UNTRAINED,
}
SIDES = (Heads.FULL, Heads.OWN, Heads.UNTRAINED)
CELLS = ["measure", "task", "seed", "a", "b", "value"]


def true_relatedness(study: Study) -> dict[str, pd.DataFrame]:
    """Kind -> 1 − distance of every two languages: MiniBabel's own, or for natural languages those of URIEL+."""
    if study.source == "minibabel":
        return {kind: 1 - invented.distances(kind, study.languages) for kind in invented.DISTANCES}
    known = [code for code in study.languages if code in typology.LANGUAGES]
    tables = {kind: 1 - typology.typological_distances(kind, known) for kind in typology.KINDS}
    return {kind: table.reindex(index=study.languages, columns=study.languages) for kind, table in tables.items()}


def with_relation(across: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Likeness of translations, mean over pairs of languages: task, seed, measure, relation, level, value.

    Relations (of `Relation`) are "related" (one family) and "unrelated", both also through the own subnetworks and in
    the untrained twin, and "shuffled_sentences".
    """
    kin = family(study)
    pairs = zip(across["a"], across["b"], across["heads"], strict=True)
    relations = [
        Relation.SHUFFLED_SENTENCES if heads == Heads.SHUFFLED else KIN[bool(kin.loc[a, b]), Heads(heads)]
        for a, b, heads in pairs
    ]
    table = across.assign(relation=pd.Categorical(relations, list(Relation))).sort_values("relation", kind="stable")
    keys = ["task", "seed", "measure", "relation", "level"]
    return table.astype({"relation": str}).groupby(keys, sort=False, as_index=False)["value"].mean()


def family(study: Study) -> pd.DataFrame:
    """Whether two languages are of one family."""
    truth = true_relatedness(study)
    return truth["tree" if study.source == "minibabel" else "genetic"] > 0


def of_masks(pairs: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the masks of two languages, same model and mask seed: measure, task, seed, a, b, value."""
    measures = {"jaccard": Likeness.MASK_JACCARD, "adjusted_within": Likeness.MASK_JACCARD_ABOVE_CHANCE}
    table = pairs[pairs["differs"] == Differs.LANGUAGE].rename(columns={"language": "a", "language_b": "b"})
    return table.melt(["task", "seed", "a", "b"], list(measures), "measure").replace({"measure": measures})[CELLS]


def of_importance(importance: pd.DataFrame) -> pd.DataFrame:
    """Cosine of the head importances of two languages, same model and mask seed; columns as above."""
    vectors = overlaps.vectors_of(importance)
    rows = []
    for (task, seed, _), table in vectors.groupby(level=["task", "seed", "mask_seed"], sort=False):
        unit = table.to_numpy() / np.linalg.norm(table.to_numpy(), axis=1, keepdims=True)
        codes = table.index.get_level_values("language")
        cosine = unit @ unit.T
        rows += [(task, seed, a, b, cosine[i, j]) for i, a in enumerate(codes) for j, b in enumerate(codes) if i < j]
    return pd.DataFrame(rows, columns=CELLS[1:]).assign(measure=Likeness.IMPORTANCE_COSINE)[CELLS]


def of_states(within: pd.DataFrame, across: pd.DataFrame) -> pd.DataFrame:
    """Likeness of representations, mean over the layers; columns as above. RSA-regress lacks most pairs.

    Args:
        within: From `representations.within_model`: two subnetworks on the same sentences.
        across: From `representations.across_languages`: translations, in the full model, its subnetworks and the twin.
    """
    masked = within[(within["against"] == Compared.OWN) & (within["other"] == Compared.OTHER_LANGUAGE)]
    masked = masked.query("pool == 'mean' and level > 0").assign(measure=Likeness.CKA_OF_SUBNETWORKS)
    masked = masked.rename(columns={"language": "a", "whose": "b", "cka": "value"})
    translated = across[across["heads"].isin(SIDES) & (across["level"] > 0)]
    translated = translated[translated["measure"] != Measure.RSA_REGRESS]
    measures = [of_translations(*pair) for pair in zip(translated["measure"], translated["heads"], strict=True)]
    table = pd.concat([masked, translated.assign(measure=measures)])
    return table.groupby(CELLS[:-1], sort=False, as_index=False)["value"].mean()


def of_function(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seeds: Sequence[int]) -> pd.DataFrame:
    """What is left of the score of b's data through a's subnetwork instead of its own; columns as above."""
    table = collect(pruning.cross_evaluation, study, tasks, seeds, mask_seeds)
    table = table[table["control"] == Control.OTHER_LANGUAGE]
    ratio = table["score"] / (table["score"] - table["difference"])
    value = [study.metric(task).oriented(share) for task, share in zip(table["task"], ratio, strict=True)]
    table = table.assign(value=value, measure=Likeness.SCORE_THROUGH_OTHER)
    return table.rename(columns={"mask": "a", "language": "b"})[CELLS]


def of_transfer(study: Study, tasks: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Zero-shot score of models trained on a and tested on b."""
    table = collect(finetuning.transfer, study, tasks, seeds).rename(
        columns={"source": "a", "target": "b", "score": "value"}
    )
    return table[table["a"] != table["b"]].assign(measure=Likeness.ZERO_SHOT_TRANSFER)[CELLS]


def against_truth(likeness: pd.DataFrame, truth: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Spearman's ρ of each measure with each kind of true relatedness over the pairs of languages.

    Each model's matrix is standardised, then they are averaged. p is that of a Mantel test, which permutes the
    languages; it is not corrected for the number of tests.

    Returns:
        measure, kind, rho, low and high (the least and the largest ρ of a single task), p.
    """
    rows = []
    for measure, table in likeness.groupby("measure", sort=False):
        stack, tasks = _stack(table, list(next(iter(truth.values()))))
        if len(tasks):
            rows += [(measure, kind, *_correlation(stack, tasks, related)) for kind, related in truth.items()]
    return pd.DataFrame(rows, columns=["measure", "kind", "rho", "low", "high", "p"])


def _correlation(stack: np.ndarray, tasks: np.ndarray, related: pd.DataFrame) -> tuple[float, float, float, float]:
    """ρ, its range over tasks, and p; nan if all pairs of languages are equally related, or unknown."""
    known = ~np.eye(len(related), dtype=bool) & related.notna().to_numpy()
    target = related.to_numpy()[known]
    mean = stack.mean(0)
    if not target.size or np.ptp(target) == 0 or np.ptp(mean[known]) == 0:
        return (np.nan,) * 4
    test = mantel(pd.DataFrame(mean, related.index, related.columns), related)
    single = [spearmanr(stack[tasks == task].mean(0)[known], target)[0] for task in np.unique(tasks)]
    return test.r, min(single), max(single), test.p


def _stack(table: pd.DataFrame, codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """One standardised language × language matrix for each model, symmetric where only one order was measured.

    Also the task of each. Models are left out that find all languages equally alike, or of which a value is unknown,
    such as the overlap of two masks that keep no head.
    """
    off, matrices, tasks = ~np.eye(len(codes), dtype=bool), [], []
    for (task, _), of_model in table.groupby(["task", "seed"], sort=False):
        wide = of_model.pivot_table(index="a", columns="b", values="value").reindex(index=codes, columns=codes)
        full = wide.fillna(wide.T).to_numpy()
        if np.isfinite(full[off]).all() and np.ptp(full[off]) > 0:
            matrices.append((full - full[off].mean()) / full[off].std())
            tasks.append(task)
    return np.array(matrices), np.array(tasks)


def stability(pairs: pd.DataFrame, within: pd.DataFrame, between: pd.DataFrame) -> pd.DataFrame:
    """How alike the same thing comes out with another seed: measure, seed, mean, low, high, chance, ceiling.

    Args:
        pairs: From `overlaps.pairs`; chance is what masks with as many heads in each layer share, the ceiling what
            masks of their sizes could share at most.
        within, between: From `representations`: `within_model` and `between_models`; mean over layers, mean pooling.
            Chance is the likeness to random heads; the ceiling that of a thing to itself or, for another model, of
            the two full models. Low and high are the tasks with the least and the largest mean.
    """
    rows = []
    for differs in (Differs.MASK_SEED, Differs.MODEL_SEED):
        masks = pairs[pairs["differs"] == differs].dropna(subset="jaccard")
        if len(masks):
            spread, limits = _spread(masks, "jaccard"), (masks["expected_within"].mean(), masks["ceiling"].mean())
            rows.append((Likeness.MASK_JACCARD, differs, *spread, *limits))
    states = pd.concat([within, between]).query("pool == 'mean' and level > 0")
    cka = states.groupby(["against", "other"])["cka"].mean()
    for differs, other, chance, ceiling in (
        (Differs.MASK_SEED, Compared.OTHER_MASK_SEED, Compared.RANDOM_HEADS, 1.0),
        (
            Differs.MODEL_SEED,
            Compared.OTHER_MODEL_SEED,
            Compared.OTHER_MODEL_SEED_RANDOM,
            cka.get((Compared.FULL, Compared.OTHER_MODEL_SEED)),
        ),
    ):
        same = states[(states["against"] == Compared.OWN) & (states["other"] == other)].dropna(subset="cka")
        if len(same):
            row = (Likeness.CKA_OF_STATES, differs, *_spread(same, "cka"), cka[Compared.OWN, chance], ceiling)
            rows.append(row)
    return pd.DataFrame(rows, columns=["measure", "seed", "mean", "low", "high", "chance", "ceiling"])


def _spread(table: pd.DataFrame, value: str) -> tuple[float, float, float]:
    """Mean over tasks, and the least and the largest mean of a task."""
    means = table.groupby("task")[value].mean()
    return means.mean(), means.min(), means.max()
