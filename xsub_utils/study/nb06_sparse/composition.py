"""Notebook 06, composition: two languages' subnetworks, or two languages' models, put together."""

from collections.abc import Mapping, Sequence
from math import nan

import pandas as pd
import torch
from torch import Tensor

from xsub_utils.heads import masks
from xsub_utils.study.conditions import Variant, Way
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.nb05_attribution.scores import attributed, ranked
from xsub_utils.study.nb06_sparse.models import folder, scored, subnetworks
from xsub_utils.study.study import Study, load_model, stored_table
from xsub_utils.training import delta

SUMMED = {  # what is added up, and the models that it comes from -> own, the other's, sum, mean
    Variant.FULL_FINETUNING: (
        Way.FULL_CHANGES_OWN,
        Way.FULL_CHANGES_OTHERS,
        Way.FULL_CHANGES_SUM,
        Way.FULL_CHANGES_MEAN,
    ),
    Variant.SPARSE_LARGEST_CHANGES: (
        Way.SPARSE_CHANGES_OWN,
        Way.SPARSE_CHANGES_OTHERS,
        Way.SPARSE_CHANGES_SUM,
        Way.SPARSE_CHANGES_MEAN,
    ),
}


def composed(study: Study, task: str, seed: int, pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Two languages' subnetworks, or two languages' models, put together; scores on both languages.

    Ways are ids of `Way`. The first seven go through heads of the model fine-tuned through own heads (random ones as
    many as in the union, or in the intersection). The others are models made by adding what fine-tuning on each
    language alone changed, task head included: fully, or, of the encoder, in those weights alone that this changed
    most.

    Returns:
        task, seed, pair ("qaa + qab"), way, language, score, kept (share of the heads, nan for sums), chance.
    """
    own, tuned = subnetworks(study, task, seed), folder(study, task, seed, Variant.SPARSE_OWN)
    parts = []
    for a, b in pairs:
        for code, partner in ((a, b), (b, a)):
            ways = _ways(own[code], own[partner], seed)
            table = scored(study, task, tuned, {way: {code: mask} for way, mask in ways.items()})
            parts.append(
                table.assign(kept=[float(ways[way].float().mean()) for way in table["heads"]], pair=f"{a} + {b}")
            )
        parts.append(_summed(study, task, seed, (a, b)).assign(kept=nan, pair=f"{a} + {b}"))
    table = pd.concat(parts, ignore_index=True).rename(columns={"heads": "way"})
    return table.assign(task=task, seed=seed, chance=study.chance(task))


def _ways(own: Tensor, others: Tensor, seed: int) -> dict[str, Tensor]:
    """Heads of one language, of another, and of both."""
    union, intersection = masks.union([own, others]), masks.intersection([own, others])
    return {
        Way.OWN_HEADS: own,
        Way.OTHERS_HEADS: others,
        Way.UNION_OF_HEADS: union,
        Way.RANDOM_LIKE_UNION: masks.random_mask(union, seed=seed),
        Way.INTERSECTION_OF_HEADS: intersection,
        Way.RANDOM_LIKE_INTERSECTION: masks.random_mask(intersection, seed=seed),
        Way.ALL_HEADS: torch.ones_like(own),
    }


def _summed(study: Study, task: str, seed: int, pair: tuple[str, str]) -> pd.DataFrame:
    """Scores of the encoder with the changes of both languages added, and of the models of one language."""
    models = {variant: [folder(study, task, seed, variant, languages=(code,)) for code in pair] for variant in SUMMED}

    def compute() -> pd.DataFrame:
        start, rows = study.start(task, seed), []
        for variant, (own, others, total, mean) in SUMMED.items():
            deltas = [delta.sparse_delta(load_model(path), start) for path in models[variant]]
            added = ((deltas[:1], (own, others)), (deltas[1:], (others, own)), (deltas, (total, total)))
            for changes, ways in added:  # a single model is the own one of its language
                with delta.delta_weights(start, *changes) as model:
                    rows += [(way, code, study.score(task, model, code)) for way, code in zip(ways, pair, strict=True)]
            with delta.delta_weights(start, *deltas, scale=0.5) as model:
                rows += [(mean, code, study.score(task, model, code)) for code in pair]
        return pd.DataFrame(rows, columns=["heads", "language", "score"])

    key = {"models": {variant: [path.name for path in paths] for variant, paths in models.items()}, "pair": list(pair)}
    return stored_table("summed-scores", key | {"task": study.task(task).identity}, compute)


def composed_shares(
    study: Study, task: str, seed: int, plan: AttributionPlan, pairs: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Share of each language of a pair through heads of both, in the model fine-tuned through own heads.

    Returns:
        task, seed, pair, way (as in `composed`, of heads), language (of the test example), own, other (share of its own
        and of the pair's other language among its strongest proponents), chance.
    """
    own, rows = subnetworks(study, task, seed), []
    model = AttributedModel(study, task, seed, folder(study, task, seed, Variant.SPARSE_OWN))
    for a, b in pairs:
        for code, partner in ((a, b), (b, a)):
            for way, gates in _attributed_ways(own[code], own[partner]).items():
                if gates is not None and not gates.any():
                    continue
                scores = attributed(model, plan, gates, (code,))
                table = ranked(scores, {0: scores.scores.sum(0)}, plan.top)
                mean = table[table["sign"] == "positive"].groupby("train")["share"].mean()
                rows.append((f"{a} + {b}", way, code, mean[code], mean[partner]))
    table = pd.DataFrame(rows, columns=["pair", "way", "language", "own", "other"])
    return table.assign(task=task, seed=seed, chance=1 / len(study.languages))


def _attributed_ways(own: Tensor, others: Tensor) -> Mapping[str, Tensor | None]:
    return {
        Way.OWN_HEADS: own,
        Way.OTHERS_HEADS: others,
        Way.UNION_OF_HEADS: masks.union([own, others]),
        Way.INTERSECTION_OF_HEADS: masks.intersection([own, others]),
        Way.ALL_HEADS: None,
    }
