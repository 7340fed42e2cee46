"""Notebook 06: whose data predictions rely on after sparse fine-tuning, beside full fine-tuning."""

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from xsub_utils.similarity.overlap import jaccard
from xsub_utils.study.conditions import AttributedHeads, Difference, ModelThrough, Through, Training, Variant
from xsub_utils.study.nb05_attribution.controls import CONDITIONS, AttributionPlan, head_sets
from xsub_utils.study.nb05_attribution.specialisation import cross_language, crossed_estimates
from xsub_utils.study.nb05_attribution.tables import shares_in
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.nb06_sparse.own_heads import EACH, EACH_RANDOM, as_trained, each_through_its_own, model_of
from xsub_utils.study.study import Study

FEW = (AttributedHeads.FULL, AttributedHeads.OWN, AttributedHeads.RANDOM_HEADS)
MODULAR = (Difference.MODULAR_A, Difference.MODULAR_B, Difference.MODULAR_B_BEYOND_ALL)
EACH_DIFFERENCES = tuple(Difference)[tuple(Difference).index(Difference.EACH_SPARSE_ONE_LANGUAGE) :]
EACH_CONDITIONS = (*EACH, *EACH_RANDOM)
_MINUS = {  # the sparse model through its own heads, minus this control
    AttributedHeads.OTHER_LANGUAGE: Difference.MODULAR_A,
    AttributedHeads.OWN_OTHER_MASK_SEED: Difference.SPARSE_OWN_OTHER_MASK_SEED,
    AttributedHeads.SHUFFLED_WITHIN: Difference.SPARSE_OWN_SHUFFLED,
    AttributedHeads.RANDOM_HEADS: Difference.SPARSE_OWN_RANDOM,
    AttributedHeads.RANDOM_AS_ACCURATE: Difference.SPARSE_OWN_AS_ACCURATE,
}
UNIT = ["task", "seed", "language"]


def influences(
    study: Study, task: str, seed: int, plan: AttributionPlan, conditions: Sequence[str] = CONDITIONS
) -> pd.DataFrame:
    """Shares of the training languages in the models of `sparse.MAIN`, through all heads and through some.

    Args:
        study, task, seed: Of the models.
        plan: What is attributed to what.
        conditions: Sets of heads that are looked at in "sparse_own"; in the others all heads and own ones only.

    Returns:
        As `shares` of notebook 05, with a column variant. Test and training examples are the same for all variants. Of
        "sparse_random" the heads are those that it was trained through ("trained_heads"; on other languages' examples,
        "other_language"). In most conditions training examples run through the same heads as the test example; in
        "each_own", as in sparse fine-tuning itself, through those of their own language, and in "each_swapped" through
        those of another one; likewise through the random heads of "sparse_random" in a model that was trained through
        all heads ("each_random", "each_random_swapped").
    """
    own, drawn = sparse.subnetworks(study, task, seed), sparse.heads_of(study, task, seed, Variant.SPARSE_RANDOM)
    same, each = [], []
    for variant in sparse.MAIN:  # one after the other, as the checkpoints of one model are kept in memory
        model = model_of(study, task, seed, variant)
        if variant == Variant.SPARSE_RANDOM:
            shares = as_trained(study, task, seed, plan, variant)
        else:
            full_and_own = (AttributedHeads.FULL, AttributedHeads.OWN)
            shares = shares_in(model, plan, conditions if variant == Variant.SPARSE_OWN else full_and_own, own)
        same.append(shares.assign(variant=variant))
        heads = drawn if variant == Variant.SPARSE_RANDOM else own
        each.append(each_through_its_own(model, plan, heads).assign(variant=variant))
        if variant == Variant.ONE_LANGUAGE_BATCHES:
            untrained = each_through_its_own(model, plan, drawn, EACH_RANDOM).assign(variant=variant)
    return pd.concat([*same, *each, untrained], ignore_index=True)


def own_shares(influences: pd.DataFrame) -> pd.DataFrame:
    """In-language share among the strongest proponents, a mean for each model and language.

    Args:
        influences: From `influences`.

    Returns:
        task, seed, language, variant, condition, epoch, share.
    """
    rows = influences[(influences["sign"] == "positive") & (influences["train"] == influences["language"])]
    keys = [*UNIT, "variant", "condition", "epoch"]
    return rows.groupby(keys, sort=False, as_index=False)["share"].mean()


def by_language(scores: pd.DataFrame) -> pd.DataFrame:
    """Full fine-tuning, the same pruned, and sparse fine-tuning: task, seed, model, language, score.

    Args:
        scores: From `sparse.scores`.
    """
    views = {
        ModelThrough.FULL_ALL: (Variant.FULL_FINETUNING, Through.ALL_HEADS),
        ModelThrough.FULL_OWN: (Variant.FULL_FINETUNING, Through.OWN),
        ModelThrough.SPARSE_THROUGH_OWN: (Variant.SPARSE_OWN, Through.TRAINED_HEADS),
        ModelThrough.SPARSE_ALL: (Variant.SPARSE_OWN, Through.ALL_HEADS),
    }
    parts = [
        scores[scores["variant"].eq(variant) & scores["heads"].eq(heads)].assign(model=model)
        for model, (variant, heads) in views.items()
    ]
    return pd.concat(parts, ignore_index=True)[["task", "seed", "model", "language", "score"]]


def dynamics(own: pd.DataFrame) -> pd.DataFrame:
    """In-language share at each checkpoint alone, mean over languages: task, seed, model, epoch, share.

    Args:
        own: From `own_shares`.
    """
    views = {
        ModelThrough.FULL_ALL: (Variant.FULL_FINETUNING, AttributedHeads.FULL),
        ModelThrough.FULL_OWN: (Variant.FULL_FINETUNING, AttributedHeads.OWN),
        ModelThrough.ONE_LANGUAGE_ALL: (Variant.ONE_LANGUAGE_BATCHES, AttributedHeads.FULL),
        ModelThrough.SPARSE_ALL: (Variant.SPARSE_OWN, AttributedHeads.FULL),
        ModelThrough.SPARSE_THROUGH_OWN: (Variant.SPARSE_OWN, AttributedHeads.OWN),
        ModelThrough.SPARSE_RANDOM_TRAINED: (Variant.SPARSE_RANDOM, Through.TRAINED_HEADS),
    }
    parts = [
        own[own["variant"].eq(variant) & own["condition"].eq(condition) & own["epoch"].gt(0)].assign(model=model)
        for model, (variant, condition) in views.items()
    ]
    return pd.concat(parts).groupby(["task", "seed", "model", "epoch"], sort=False, as_index=False)["share"].mean()


def summary(own: pd.DataFrame) -> pd.DataFrame:
    """Mean in-language share for each variant and set of heads, over all checkpoints.

    Args:
        own: From `own_shares`.

    Returns:
        task ("all" too), variant, condition, mean, low, high: 95 % intervals of a bootstrap over seeds and languages,
        crossed (`crossed_interval`).
    """
    rows = own[own["epoch"] == 0].replace({"condition": {AttributedHeads.FULL: Through.ALL_HEADS}})
    return crossed_estimates(rows, ["variant", "condition"], "share")


def differences(own: pd.DataFrame) -> pd.DataFrame:
    """What is asked, as differences within each task, seed and language.

    Args:
        own: From `own_shares`.

    Returns:
        task, what (an id of `Difference`), mean, low, high, as in `summary`.
    """
    wide = own[own["epoch"] == 0].set_index([*UNIT, "variant", "condition"])["share"].unstack(["variant", "condition"])
    full, ordered, tuned, drawn = (wide[variant] for variant in sparse.MAIN)
    everything, through_own, others = AttributedHeads.FULL, AttributedHeads.OWN, AttributedHeads.OTHER_LANGUAGE
    each, swapped = EACH
    each_random, swapped_random = EACH_RANDOM
    asked = {
        Difference.FULL_OWN_ALL: full[through_own] - full[everything],
        Difference.SPARSE_OWN_ALL: tuned[through_own] - tuned[everything],
        **{what: tuned[through_own] - tuned[condition] for condition, what in _MINUS.items() if condition in tuned},
        Difference.ALL_ONE_LANGUAGE_FULL: ordered[everything] - full[everything],
        Difference.ALL_SPARSE_ONE_LANGUAGE: tuned[everything] - ordered[everything],
        Difference.MODULAR_B: tuned[through_own] - ordered[through_own],
        Difference.MODULAR_B_BEYOND_ALL: (tuned - ordered)[through_own] - (tuned - ordered)[everything],
        Difference.RANDOM_TRAINED_ALL: drawn[Through.TRAINED_HEADS] - drawn[everything],
        Difference.RANDOM_TRAINED_OTHER_LANGUAGE: drawn[Through.TRAINED_HEADS] - drawn[others],
        Difference.EACH_SPARSE_ONE_LANGUAGE: tuned[each] - ordered[each],
        Difference.EACH_SWAPPED_ONE_LANGUAGE: ordered[each] - ordered[swapped],
        Difference.EACH_SWAPPED_SPARSE: tuned[each] - tuned[swapped],
        Difference.EACH_SWAPPED_SPARSE_RANDOM: drawn[each] - drawn[swapped],
        Difference.EACH_RANDOM_SWAPPED_ONE_LANGUAGE: ordered[each_random] - ordered[swapped_random],
    }
    table = pd.concat(
        [values.rename("value").reset_index().assign(what=what) for what, values in asked.items()], ignore_index=True
    )
    return crossed_estimates(table.dropna(subset="value"), ["what"], "value")


def control_scores(
    study: Study, task: str, seed: int, plan: AttributionPlan, conditions: Sequence[str]
) -> pd.DataFrame:
    """Score of the sparse model through the sets of heads that are looked at: task, seed, condition, language, score.

    Random heads are only as accurate as the nearest of those that were tried.
    """
    model, own = model_of(study, task, seed, Variant.SPARSE_OWN), sparse.subnetworks(study, task, seed)
    parts = []
    for heads in head_sets(model, plan, conditions, own):
        view = {heads.condition: dict.fromkeys(heads.languages, heads.gates)}
        table = sparse.scored(study, task, model.folder, view)
        other = table["language"].ne(heads.whose) & (heads.condition == AttributedHeads.OWN)
        condition = table["heads"].mask(other, AttributedHeads.OTHER_LANGUAGE)
        condition = condition.replace(AttributedHeads.FULL, Through.ALL_HEADS)
        parts.append(table.assign(condition=condition).drop(columns="heads"))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def across_languages(
    influences: pd.DataFrame, likeness: pd.DataFrame, truth: Mapping[str, pd.DataFrame], languages: Sequence[str]
) -> pd.DataFrame:
    """Influence of one language on another beside the overlap of their subnetworks, full and sparse.

    Args:
        influences: From `influences`.
        likeness: measure, task, seed, a, b, value; see `kinship.of_masks`.
        truth: Kind → true relatedness.
        languages: In their order.

    Returns:
        As `specialisation.cross_language`, with a column model: "full_all", "sparse_all", "sparse_through_own".
    """
    views = {
        ModelThrough.FULL_ALL: (Variant.FULL_FINETUNING, AttributedHeads.FULL),
        ModelThrough.SPARSE_ALL: (Variant.SPARSE_OWN, AttributedHeads.FULL),
        ModelThrough.SPARSE_THROUGH_OWN: (Variant.SPARSE_OWN, AttributedHeads.OWN),
    }
    parts = []
    for model, (variant, condition) in views.items():
        rows = influences[influences["variant"].eq(variant) & influences["condition"].eq(condition)]
        rows = rows.assign(condition=AttributedHeads.FULL)  # these heads stand in its place
        parts.append(cross_language(rows, likeness, truth, languages).assign(model=model))
    return pd.concat(parts, ignore_index=True)


def left_out(study: Study, task: str, seed: int, targets: Sequence[str]) -> pd.DataFrame:
    """Zero-shot score on a language that was left out of training, full and sparse, beside the models with it.

    Returns:
        task, seed, language (left out, or not), variant, trained (an id of `Training`), heads ("all_heads", "own",
        "nearest_language": the subnetwork that overlaps most with its own), score, chance.
    """
    own, parts = sparse.subnetworks(study, task, seed), []
    for code in targets:
        others = tuple(other for other in study.languages if other != code)
        near = _nearest(own, code, others)
        views: dict[str, dict[str, Tensor | None]] = {
            Through.ALL_HEADS: {code: None},
            Through.OWN: {code: own[code]},
            Through.NEAREST_LANGUAGE: {code: own[near]},
        }
        for variant in (Variant.ONE_LANGUAGE_BATCHES, Variant.SPARSE_OWN):
            for trained, languages in ((Training.WITH_LANGUAGE, None), (Training.WITHOUT_LANGUAGE, others)):
                folder = sparse.folder(study, task, seed, variant, languages=languages)
                parts.append(sparse.scored(study, task, folder, views).assign(variant=variant, trained=trained))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed, chance=study.chance(task))


def _nearest(own: Mapping[str, Tensor], code: str, others: Sequence[str]) -> str:
    return max(others, key=lambda other: jaccard(own[code], own[other]))
