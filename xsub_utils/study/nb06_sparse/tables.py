"""Notebook 06: whose data predictions rely on after sparse fine-tuning, beside full fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils.heads import masks
from xsub_utils.similarity.overlap import jaccard
from xsub_utils.study.nb05_attribution import controls
from xsub_utils.study.nb05_attribution.specialisation import cross_language, crossed_estimates
from xsub_utils.study.nb05_attribution.tables import attributed, ranked, shares
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.nb06_sparse.own_heads import (
    EACH,
    EACH_RANDOM,
    SWAPPED,
    SWAPPED_RANDOM,
    as_trained,
    each_through_its_own,
)
from xsub_utils.study.study import Study

_CONTROLS = {
    controls.OTHER: "another language's",
    controls.AGAIN: "own, other mask seed",
    controls.SHUFFLED: "shuffled",
    controls.RANDOM: "random heads",
    controls.MATCHED: "random, as accurate",
}
FEW = (controls.FULL, controls.OWN, controls.RANDOM)
UNIT = ["task", "seed", "language"]


def influences(
    study: Study, task: str, seed: int, plan: controls.Plan, conditions: Sequence[str] = controls.CONDITIONS
) -> pd.DataFrame:
    """Shares of the training languages in the models of `sparse.MAIN`, through all heads and through some.

    Args:
        study, task, seed: Of the models.
        plan: What is attributed to what.
        conditions: Sets of heads that are looked at in `sparse.OWN`; in the others all heads and own ones only.

    Returns:
        As `attribution.shares`, with a column variant. Test and training examples are the same for all variants. Of
        `sparse.RANDOM` the heads are those that it was trained through (on other languages' examples, "another
        language's"). In most conditions training examples run through the same heads as the test example; in two, as
        in sparse fine-tuning itself, through those of their own language ("each through its own"), or for comparison
        through those of another one; likewise through the random heads of `sparse.RANDOM` in a model that was trained
        through all heads ("each through random heads").
    """
    own, drawn = sparse.subnetworks(study, task, seed), sparse.heads_of(study, task, seed, sparse.RANDOM)
    same, each = [], []
    for variant in sparse.MAIN:  # one after the other, as the checkpoints of one model are kept in memory
        if variant == sparse.RANDOM:
            found = as_trained(study, task, seed, plan, variant)
        else:
            looked_at = conditions if variant == sparse.OWN else (controls.FULL, controls.OWN)
            found = shares(study, task, seed, plan, sparse.folder(study, task, seed, variant), looked_at, own)
        same.append(found.assign(variant=variant))
        heads = drawn if variant == sparse.RANDOM else own
        each.append(each_through_its_own(study, task, seed, plan, variant, heads).assign(variant=variant))
        if variant == sparse.ONE_LANGUAGE:
            names = EACH_RANDOM, SWAPPED_RANDOM
            never = each_through_its_own(study, task, seed, plan, variant, drawn, names).assign(variant=variant)
    return pd.concat([*same, *each, never], ignore_index=True)


def own_shares(found: pd.DataFrame) -> pd.DataFrame:
    """Share of the test example's own language among its most positive examples, a mean for each model and language.

    Args:
        found: From `influences`.

    Returns:
        task, seed, language, variant, condition, epoch, share.
    """
    some = found[(found["sign"] == "positive") & (found["train"] == found["language"])]
    keys = [*UNIT, "variant", "condition", "epoch"]
    return some.groupby(keys, sort=False, as_index=False)["share"].mean()


def by_language(scores: pd.DataFrame) -> pd.DataFrame:
    """Full fine-tuning, the same pruned, and sparse fine-tuning: task, seed, model, language, score.

    Args:
        scores: From `sparse.scores`.
    """
    views = {
        "full: all heads": (sparse.FULL, sparse.WHOLE),
        "full: own subnetwork": (sparse.FULL, sparse.FOUND),
        "sparse: own heads": (sparse.OWN, sparse.TRAINED),
        "sparse: all heads": (sparse.OWN, sparse.WHOLE),
    }
    parts = [
        scores[scores["variant"].eq(variant) & scores["heads"].eq(heads)].assign(model=model)
        for model, (variant, heads) in views.items()
    ]
    return pd.concat(parts, ignore_index=True)[["task", "seed", "model", "language", "score"]]


def dynamics(own: pd.DataFrame) -> pd.DataFrame:
    """Share of the own language at each checkpoint alone, mean over languages: task, seed, model, epoch, share.

    Args:
        own: From `own_shares`.
    """
    views = {
        "full: all heads": (sparse.FULL, controls.FULL),
        "full: own subnetwork": (sparse.FULL, controls.OWN),
        "one language a batch: all heads": (sparse.ONE_LANGUAGE, controls.FULL),
        "sparse: all heads": (sparse.OWN, controls.FULL),
        "sparse: own heads": (sparse.OWN, controls.OWN),
        "sparse, random heads: these": (sparse.RANDOM, sparse.TRAINED),
    }
    parts = [
        own[own["variant"].eq(variant) & own["condition"].eq(condition) & own["epoch"].gt(0)].assign(model=model)
        for model, (variant, condition) in views.items()
    ]
    return pd.concat(parts).groupby(["task", "seed", "model", "epoch"], sort=False, as_index=False)["share"].mean()


def summary(own: pd.DataFrame) -> pd.DataFrame:
    """Mean share of the own language for each variant and set of heads, over all checkpoints.

    Args:
        own: From `own_shares`.

    Returns:
        task ("all" too), variant, condition, mean, low, high: 95 % intervals of a bootstrap over seeds and languages,
        crossed (`crossed_interval`).
    """
    some = own[own["epoch"] == 0].replace({"condition": {controls.FULL: "all heads"}})
    return crossed_estimates(some.assign(what=some["variant"] + "|" + some["condition"]), "share")


def differences(own: pd.DataFrame) -> pd.DataFrame:
    """What is asked, as differences within each task, seed and language.

    Args:
        own: From `own_shares`.

    Returns:
        task, what, mean, low, high, as in `summary`.
    """
    wide = own[own["epoch"] == 0].set_index([*UNIT, "variant", "condition"])["share"].unstack(["variant", "condition"])
    full, one, tuned, drawn = (wide[variant] for variant in sparse.MAIN)
    asked = {
        "full: own subnetwork − all heads": full[controls.OWN] - full[controls.FULL],
        "sparse: own heads − all heads": tuned[controls.OWN] - tuned[controls.FULL],
        **{
            f"{'(a) ' if condition == controls.OTHER else ''}sparse: own heads − {name}": (
                tuned[controls.OWN] - tuned[condition]
            )
            for condition, name in _CONTROLS.items()
            if condition in tuned
        },
        "all heads: one language a batch − full": one[controls.FULL] - full[controls.FULL],
        "all heads: sparse − one language a batch": tuned[controls.FULL] - one[controls.FULL],
        "(b) own heads: sparse − one language a batch": tuned[controls.OWN] - one[controls.OWN],
        "(b) for own heads − for all heads": (tuned - one)[controls.OWN] - (tuned - one)[controls.FULL],
        "sparse, random heads: these − all heads": drawn[sparse.TRAINED] - drawn[controls.FULL],
        "sparse, random heads: these − another language's": drawn[sparse.TRAINED] - drawn[controls.OTHER],
        "each through its own: sparse − one language a batch": tuned[EACH] - one[EACH],
        **{
            f"each through its own − others': {name}": of[EACH] - of[SWAPPED]
            for name, of in (("one language a batch", one), ("sparse", tuned), ("sparse, random heads", drawn))
        },
        "each through random heads − others': one language a batch": one[EACH_RANDOM] - one[SWAPPED_RANDOM],
    }
    table = pd.concat(
        [values.rename("value").reset_index().assign(what=what) for what, values in asked.items()], ignore_index=True
    )
    return crossed_estimates(table.dropna(subset="value"), "value").drop(columns=["variant", "condition"])


def control_scores(study: Study, task: str, seed: int, plan: controls.Plan, conditions: Sequence[str]) -> pd.DataFrame:
    """Score of the sparse model through the sets of heads that are looked at: task, seed, condition, language, score.

    Random heads are only as accurate as the nearest of those that were tried.
    """
    folder, own = sparse.folder(study, task, seed, sparse.OWN), sparse.subnetworks(study, task, seed)
    parts = []
    for mask in controls.sets_of_heads(study, task, seed, plan, folder, conditions, own):
        table = sparse.scored(study, task, folder, {mask.condition: dict.fromkeys(mask.languages, mask.gates)})
        other = table["language"].ne(mask.whose) & (mask.condition == controls.OWN)
        condition = table["heads"].mask(other, controls.OTHER).replace(controls.FULL, "all heads")
        parts.append(table.assign(condition=condition).drop(columns="heads"))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def across_languages(
    found: pd.DataFrame, likeness: pd.DataFrame, truth: Mapping[str, pd.DataFrame], languages: Sequence[str]
) -> pd.DataFrame:
    """Influence of one language on another beside the overlap of their subnetworks, full and sparse.

    Args:
        found: From `influences`.
        likeness: measure, task, seed, a, b, value; see `kinship.of_masks`.
        truth: Kind → true relatedness.
        languages: In their order.

    Returns:
        As `specialisation.cross_language`, with a column model: "full: all heads", "sparse: all heads", "sparse: own
        heads".
    """
    views = {
        "full: all heads": (sparse.FULL, controls.FULL),
        "sparse: all heads": (sparse.OWN, controls.FULL),
        "sparse: own heads": (sparse.OWN, controls.OWN),
    }
    parts = []
    for model, (variant, condition) in views.items():
        some = found[found["variant"].eq(variant) & found["condition"].eq(condition)]
        parts.append(
            cross_language(some.assign(condition=controls.FULL), likeness, truth, languages).assign(model=model)
        )
    return pd.concat(parts, ignore_index=True)


def dials(
    study: Study,
    task: str,
    seed: int,
    plan: controls.Plan,
    sparsities: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    thresholds: Sequence[float] = (0.90, 0.95, 0.98),
    difficulties: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """Sparse beside full fine-tuning where subnetworks are larger or smaller, or the task easier or harder.

    Args:
        study, task, seed: Of the models.
        plan: What is attributed to what.
        sparsities: Shares of the heads that are pruned, as nearly as a search comes to them.
        thresholds: Shares of the full model's score that subnetworks retain.
        difficulties: Of MiniBabel; other data have none.

    Returns:
        task, seed, dial ("sparsity", "retention", "difficulty"), value, variant ("full", "sparse, own heads", and over
        sparsities "sparse, random heads"), kept (share of the heads, mean over languages), language, score (through own
        heads, or the random ones trained through), whole (score of the whole model), share (of the own language,
        through the same heads), score_chance, share_chance.
    """
    tried = [("sparsity", one, study, {"kept": 1 - one}) for one in sparsities]
    tried += [("retention", one, study, {"retain": one}) for one in thresholds]
    if study.source == "minibabel":
        tried += [("difficulty", one, replace(study, difficulty=one), {}) for one in difficulties]
    parts = []
    for dial, value, of, which in tried:
        for variant in (sparse.FULL, sparse.OWN, *([sparse.RANDOM] if dial == "sparsity" else [])):
            table = _at(of, task, seed, plan, variant, which)
            chance = {"score_chance": of.chance(task), "share_chance": 1 / len(of.languages)}
            parts.append(table.assign(dial=dial, value=value, variant=variant, **chance))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def _at(study: Study, task: str, seed: int, plan: controls.Plan, variant: str, which: dict) -> pd.DataFrame:
    own = sparse.heads_of(study, task, seed, variant, **which)
    folder = sparse.folder(study, task, seed, variant, **(which if variant != sparse.FULL else {}))
    views = {"score": own, "whole": dict.fromkeys(study.languages)}
    found = sparse.scored(study, task, folder, views).pivot(index="language", columns="heads", values="score")
    shares_of = {code: _own_share(study, task, seed, plan, folder, code, mask) for code, mask in own.items()}
    kept = np.mean([float(mask.float().mean()) for mask in own.values()])
    return found.reset_index().assign(kept=kept, share=lambda table: table["language"].map(shares_of))


def _own_share(
    study: Study, task: str, seed: int, plan: controls.Plan, folder, code: str, gates: Tensor | None
) -> float:
    found = attributed(study, task, seed, gates, (code,), plan, folder)
    table = ranked(found, {0: found.scores.sum(0)}, plan.top)
    return float(table[(table["sign"] == "positive") & (table["train"] == code)]["share"].mean())


def compositions(
    study: Study, task: str, seed: int, plan: controls.Plan, pairs: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Share of each language of a pair through heads of both, in the model fine-tuned through own heads.

    Returns:
        task, seed, pair, way (as in `sparse.composed`, of heads), language (of the test example), own, other (share of
        its own and of the pair's other language among its most positive examples), chance.
    """
    own, folder, rows = sparse.subnetworks(study, task, seed), sparse.folder(study, task, seed, sparse.OWN), []
    for a, b in pairs:
        both = {"union": masks.union([own[a], own[b]]), "intersection": masks.intersection([own[a], own[b]])}
        for code, partner in ((a, b), (b, a)):
            ways = {"own heads": own[code], "the other's heads": own[partner], **both, "all heads": None}
            for way, gates in ways.items():
                if gates is not None and not gates.any():
                    continue
                found = attributed(study, task, seed, gates, (code,), plan, folder)
                table = ranked(found, {0: found.scores.sum(0)}, plan.top)
                mean = table[table["sign"] == "positive"].groupby("train")["share"].mean()
                rows.append((f"{a} + {b}", way, code, mean[code], mean[partner]))
    table = pd.DataFrame(rows, columns=["pair", "way", "language", "own", "other"])
    return table.assign(task=task, seed=seed, chance=1 / len(study.languages))


def left_out(study: Study, task: str, seed: int, targets: Sequence[str]) -> pd.DataFrame:
    """Zero-shot score on a language that was left out of training, full and sparse, beside the models with it.

    Returns:
        task, seed, language (left out, or not), variant, trained ("with it", "without it"), heads ("whole model", "own
        subnetwork", "nearest language's": the subnetwork that overlaps most with its own), score, chance.
    """
    own, parts = sparse.subnetworks(study, task, seed), []
    for code in targets:
        others = tuple(one for one in study.languages if one != code)
        near = max(others, key=lambda one: jaccard(own[code], own[one]))
        views = {
            "whole model": {code: None},
            "own subnetwork": {code: own[code]},
            "nearest language's": {code: own[near]},
        }
        for variant in (sparse.ONE_LANGUAGE, sparse.OWN):
            for trained, languages in (("with it", None), ("without it", others)):
                folder = sparse.folder(study, task, seed, variant, languages=languages)
                parts.append(sparse.scored(study, task, folder, views).assign(variant=variant, trained=trained))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed, chance=study.chance(task))
