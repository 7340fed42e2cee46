"""Notebook 05: which training examples a prediction relies on, in the full model and through subnetworks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils.attribution import top_k
from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.study.conditions import AttributedHeads
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb05_attribution.controls import ALL, CONDITIONS, AttributedModel, AttributionPlan, head_sets
from xsub_utils.study.nb05_attribution.scores import (
    attributed,
    examples_of,
    influence_of,
    long_shares,
    plain,
    ranked,
    scores_key,
)
from xsub_utils.study.study import Study, load_model, stored_table

BY_EPOCH = (AttributedHeads.FULL, AttributedHeads.OWN, AttributedHeads.RANDOM_AS_ACCURATE)  # also epoch by epoch
_REPEATED = ["translated", "chance", "same_label"]


def shares(study: Study, task: str, seed: int, plan: AttributionPlan) -> pd.DataFrame:
    """`shares_in` of the study's own model, through all sets of heads."""
    return shares_in(AttributedModel.of(study, task, seed), plan)


def shares_in(
    model: AttributedModel,
    plan: AttributionPlan,
    conditions: Sequence[str] = ALL,
    own: Mapping[str, Tensor] | None = None,
) -> pd.DataFrame:
    """Share of each training language among the strongest proponents and opponents of every test example.

    Args:
        model: Whose predictions are attributed.
        plan: What is attributed to what.
        conditions: Sets of heads that are wanted.
        own: Language -> its subnetwork, if not as notebook 02 finds it.

    Returns:
        task, seed, condition (of the heads, an id of `AttributedHeads`), whose (language that they were chosen for),
        kept (share of the heads), language and id (of the test example), epoch, sign ("positive": proponents,
        "negative": opponents), train (language), share. Epoch 0 is the sum over all checkpoints; −1 the same, each
        weighted by the mean learning rate of its epoch; single ones are there of the heads in `BY_EPOCH`.
    """
    rates = learning_rates(model.folder)
    parts = []
    for heads in head_sets(model, plan, conditions, own):
        scores = attributed(model, plan, heads.gates, heads.languages)
        views = {0: scores.scores.sum(0)}
        if heads.condition in CONDITIONS:
            views[-1] = torch.einsum("cmn,c->mn", scores.scores, rates)
        if heads.condition in BY_EPOCH:
            views |= scores.views()
        table = ranked(scores, views, plan.top)
        if heads.condition == AttributedHeads.OWN:  # on the other languages' examples it is that control
            own_language = table["language"] == heads.whose
            table["condition"] = np.where(own_language, AttributedHeads.OWN, AttributedHeads.OTHER_LANGUAGE)
        else:
            table["condition"] = heads.condition
        parts.append(table.assign(whose=heads.whose, kept=heads.kept))
    return pd.concat(parts, ignore_index=True).assign(task=model.task, seed=model.seed)


def accuracies(study: Study, task: str, seed: int, plan: AttributionPlan) -> pd.DataFrame:
    """Score on the test split through each of these sets: task, seed, condition, whose, kept, language, score."""
    model = AttributedModel.of(study, task, seed)
    wanted = list(head_sets(model, plan))

    def compute() -> pd.DataFrame:
        loaded = load_model(model.folder)
        rows = [
            (heads.condition, heads.whose, heads.kept, language, study.score(task, loaded, language, heads.gates))
            for heads in wanted
            for language in heads.languages
        ]
        return pd.DataFrame(rows, columns=["condition", "whose", "kept", "language", "score"])

    described = [[heads.condition, heads.whose, plain(heads.gates), list(heads.languages)] for heads in wanted]
    key = {"model": model.folder.name, "task": study.task(task).identity, "masks": store.digest(described)}
    table = stored_table("attributed-accuracy", key, compute).assign(task=task, seed=seed)
    others = (table["condition"] == AttributedHeads.OWN) & (table["language"] != table["whose"])
    return table.assign(condition=table["condition"].mask(others, AttributedHeads.OTHER_LANGUAGE))


def by_group(study: Study, task: str, seed: int, plan: AttributionPlan) -> pd.DataFrame:
    """Shares when examples are ranked by the contribution of one group of parameters, in the full model.

    Returns:
        task, seed, group (of parameters, or "all"), language, id, train, share.
    """
    model = AttributedModel.of(study, task, seed)
    test, train = examples_of(model, plan)

    def compute() -> pd.DataFrame:
        influence = influence_of(model, test, train, options=InfluenceOptions(by_group=True))
        origins, groups = train["language"].tolist(), {"all": influence.scores, **influence.by_group}
        parts = [
            long_shares(test, [top_k.top_shares(scores, origins, count=plan.top)]).assign(group=group)
            for group, scores in groups.items()
        ]
        return pd.concat(parts, ignore_index=True)

    key = scores_key(model, None, test, train) | {"top": plan.top, "by_group": True}
    return stored_table("influence-groups", key, compute).assign(task=task, seed=seed)


def translations(study: Study, task: str, seed: int, plan: AttributionPlan) -> pd.DataFrame:
    """How many of a test example's strongest proponents have a translation among them.

    Languages that repeat each other's evidence would bring the same meanings to the top; languages that add to it,
    others.

    Returns:
        task, seed, condition ("full" or "own"), language, id, translated (share of the examples), chance (the same, if
        as many examples of each language and label were drawn at random), same_label (share of the examples with the
        test example's label; nan where examples have no single label). Empty for tasks without translations.
    """
    model, languages, rows = AttributedModel.of(study, task, seed), tuple(study.languages), []
    own = states.subnetworks(study, task, seed, plan.mask_seeds[0])
    full = attributed(model, plan, None, languages)
    if full.train["id"].nunique() * len(languages) != len(full.train):
        return pd.DataFrame(columns=["task", "seed", "condition", "language", "id", *_REPEATED])
    pruned = {code: attributed(model, plan, mask, languages) for code, mask in own.items() if mask.any()}
    by_condition = {AttributedHeads.FULL: dict.fromkeys(own, full), AttributedHeads.OWN: pruned}
    for condition, by_language in by_condition.items():
        for code, scores in by_language.items():
            top = top_k.top_examples(scores.scores.sum(0), count=plan.top)
            for place in np.flatnonzero(scores.test["language"] == code):
                chosen = scores.train.iloc[top[place].numpy()]
                label = scores.test["label"][place] if "label" in scores.test else None
                rows.append((condition, code, scores.test["id"][place], *_translated(chosen, scores.train, label)))
    table = pd.DataFrame(rows, columns=["condition", "language", "id", *_REPEATED])
    return table.assign(task=task, seed=seed)


def _translated(chosen: pd.DataFrame, pool: pd.DataFrame, label: Any) -> tuple[float, float, float]:
    """Share of the examples of which another one is a translation, what random meanings would give, and same label."""
    labels = chosen["label"] if "label" in chosen else pd.Series(0, chosen.index)
    pool_labels = pool["label"] if "label" in pool else pd.Series(0, pool.index)
    drawn = pd.crosstab(labels, chosen["language"])
    meanings = pool.groupby(pool_labels)["id"].nunique()
    alone = 1 - drawn.div(meanings.reindex(drawn.index), axis=0)  # that a meaning is not among those of a language
    by_chance = [
        1 - alone.loc[gold].drop(language).prod() for gold, language in zip(labels, chosen["language"], strict=True)
    ]
    same = float((labels == label).mean()) if label is not None else np.nan
    return float(chosen["id"].duplicated(keep=False).mean()), float(np.mean(by_chance)), same


def learning_rates(folder: Path) -> Tensor:
    """Mean learning rate of each epoch of a fine-tuning, as a share of the highest of these means."""
    log = pd.read_csv(folder / "log.csv")
    means = log.groupby(np.ceil(log["epoch"]).clip(lower=1))["lr"].mean()
    return torch.tensor((means / means.max()).to_numpy(), dtype=torch.float32)
