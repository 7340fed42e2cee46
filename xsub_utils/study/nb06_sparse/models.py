"""Notebook 06, the models: fine-tuned through subnetworks, and controls that are sparse in other ways.

All start from the same encoder and head as the study's own model of that seed, see the same examples as often, and
take as many steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from math import nan
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils._internal.validation import one_of
from xsub_utils.heads import masks
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.study import Study, encoder_identity, load_model, stored_table
from xsub_utils.training import delta, sparse
from xsub_utils.weights import masks as weight_masks

FULL, ONE_LANGUAGE = "full", "full, one language a batch"
OWN, OTHER = "sparse, own heads", "sparse, another language's heads"
RANDOM, SAME = "sparse, random heads", "sparse, the same heads for all"
SAME_RANDOM = "sparse, the same random heads for all"
LARGEST, WEIGHTS = "sparse, largest changes", "sparse, random weights"
VARIANTS = (FULL, ONE_LANGUAGE, OWN, OTHER, RANDOM, SAME, SAME_RANDOM, LARGEST, WEIGHTS)
MAIN = (FULL, ONE_LANGUAGE, OWN, RANDOM)
WHOLE, TRAINED, FOUND = "whole model", "heads trained through", "own subnetwork"
CHANGED = 0.1  # share of the encoder's weights that LARGEST and WEIGHTS may move; 8 % in Ansell et al. 2022


def folder(
    study: Study,
    task: str,
    seed: int,
    variant: str,
    retain: float | None = None,
    kept: float | None = None,
    languages: Sequence[str] | None = None,
) -> Path:
    """Folder of a model in the store, trained if it is absent; read like one of `finetune`.

    Args:
        study, task, seed: As for `Study.model_folder`.
        variant: One of `VARIANTS`.
        retain, kept: Which subnetworks; see `subnetworks`.
        languages: To train on; by default all of the study.
    """
    chosen = tuple(languages or study.languages)
    if variant == FULL:
        return study.model_folder(task, seed, chosen)
    one_of("variant", variant, VARIANTS)
    make = partial(_masks, study, task, seed, variant, retain, kept, chosen)
    data, encoder, course = study.task(task), study.encoder_folder(), study.course(task)
    whole = variant in (LARGEST, WEIGHTS)
    options = {"through": not whole, "outside": "frozen" if whole else "shared"}
    key = {
        "task": data.identity,
        "encoder": encoder_identity(encoder),
        "seed": seed,
        "languages": list(chosen),
        "settings": asdict(course),
        "masks": _identity(study, task, seed, variant, chosen) if whole else weight_masks.mask_digest(make()),
        **options,
    }

    def build(out: Path) -> None:
        sparse.sparse_finetune(
            data, encoder, seed=seed, out=out, masks=make(), languages=list(chosen), settings=course, **options
        )

    return store.get_or_build("sparse-model", key, build, code=[sparse], resume=True)


def subnetworks(
    study: Study, task: str, seed: int, retain: float | None = None, kept: float | None = None
) -> dict[str, Tensor]:
    """Language → mask of heads, of the study's model and the first mask seed.

    Args:
        study, task, seed: Of the model.
        retain: Share of the full model's score that the mask keeps; by default the usual one of the metric.
        kept: Instead, the share of the heads that it keeps, as nearly as the search came to it.

    A mask has one head at least: where the threshold is met without any, it is the last of its search that has.
    """
    found = {}
    for language in study.languages:
        search = pruning.search(study, task, seed, language, 0)
        steps = [step.mask for step in search.trajectory if step.mask.any()]
        if kept is not None:
            found[language] = min(steps, key=lambda mask: abs(float(mask.float().mean()) - kept))
        else:
            mask = (search if retain is None else search.at(retain)).mask
            found[language] = mask if mask.any() else steps[-1]
    return found


def heads_of(
    study: Study, task: str, seed: int, variant: str, retain: float | None = None, kept: float | None = None
) -> dict[str, Tensor]:
    """Language → heads that its batches ran through in training; of `FULL` the subnetworks, as for `OWN`.

    Empty for the variants that have no masks of heads.
    """
    own = subnetworks(study, task, seed, retain, kept)
    if variant in (FULL, OWN):
        return own
    if variant == ONE_LANGUAGE:
        return {code: torch.ones_like(mask) for code, mask in own.items()}
    if variant == OTHER:
        return others(own)
    if variant == RANDOM:
        return {code: masks.random_mask(mask, seed=i) for i, (code, mask) in enumerate(own.items())}
    if variant in (SAME, SAME_RANDOM):
        same = most_kept(list(own.values()))
        return dict.fromkeys(own, same if variant == SAME else masks.random_mask(same, seed=seed))
    return {}


def others(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Language → the mask of that half the list away, as relatives are neighbours in it."""
    codes = list(own)
    return {code: own[codes[(i + len(codes) // 2) % len(codes)]] for i, code in enumerate(codes)}


def most_kept(own: Sequence[Tensor]) -> Tensor:
    """The heads that most of the masks keep, as many as a mask has in the mean; of equals the first."""
    votes, size = torch.stack(list(own)).sum(0).flatten(), round(sum(int(mask.sum()) for mask in own) / len(own))
    order = votes.argsort(descending=True, stable=True)[: max(1, size)]
    return torch.zeros(votes.shape, dtype=torch.bool).index_fill_(0, order, True).view(own[0].shape)


def largest_changes(study: Study, task: str, seed: int, languages: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The weights of the encoder that full fine-tuning, jointly or on some languages, changed most."""
    before = dict(study.start(task, seed).named_parameters())
    model = load_model(study.model_folder(task, seed, languages))
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    changes = {
        name: (after.detach() - before[name].detach()).cpu()
        for name, after in model.named_parameters()
        if id(after) in inside
    }
    count = round(CHANGED * sum(change.numel() for change in changes.values()))
    return weight_masks.largest(changes, count=count)


def _masks(
    study: Study, task: str, seed: int, variant: str, retain: float | None, kept: float | None, languages: tuple
) -> Mapping:
    if variant not in (LARGEST, WEIGHTS):
        return heads_of(study, task, seed, variant, retain, kept)
    found = largest_changes(study, task, seed, languages)
    return found if variant == LARGEST else weight_masks.random_weight_mask(found, seed=seed)


def _identity(study: Study, task: str, seed: int, variant: str, languages: tuple) -> list:
    """What decides a mask of single weights, which is too large to be looked at every time."""
    return [variant, study.model_folder(task, seed, languages).name, CHANGED]


def scores(study: Study, task: str, seed: int, variants: Sequence[str]) -> pd.DataFrame:
    """Score of each variant on the report split of each language.

    Returns:
        task, seed, variant, heads ("whole model", "heads trained through", and of the fully fine-tuned ones "own
        subnetwork", found in the first of them), language, score, chance.
    """
    own = subnetworks(study, task, seed)
    parts = []
    for variant in variants:
        trained = heads_of(study, task, seed, variant)
        views = {WHOLE: dict.fromkeys(study.languages)}
        if variant in (FULL, ONE_LANGUAGE):
            views[FOUND] = own
        elif trained:
            views[TRAINED] = trained
        table = scored(study, task, folder(study, task, seed, variant), views)
        parts.append(table.assign(variant=variant))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed, chance=study.chance(task))


def scored(study: Study, task: str, model: Path, views: Mapping[str, Mapping[str, Tensor | None]]) -> pd.DataFrame:
    """Scores of one model: heads (name of the view), language, score; stored.

    Args:
        study, task: Give the data.
        model: Its folder.
        views: Name → language → heads; None for all.
    """
    data = study.task(task)
    plain = {
        name: {code: None if mask is None else mask.int().tolist() for code, mask in view.items()}
        for name, view in views.items()
    }

    def compute() -> pd.DataFrame:
        loaded = load_model(model)
        rows = [
            (name, code, study.score(task, loaded, code, mask))
            for name, view in views.items()
            for code, mask in view.items()
        ]
        return pd.DataFrame(rows, columns=["heads", "language", "score"])

    key = {"model": model.name, "task": data.identity, "views": store.digest(plain)}
    return stored_table("sparse-scores", key, compute)


@lru_cache(maxsize=2)
def _delta(model: Path, study: Study, task: str, seed: int) -> delta.SparseDelta:
    return delta.sparse_delta(load_model(model), study.start(task, seed))


def composed(study: Study, task: str, seed: int, pairs: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Two languages' subnetworks, or two languages' models, put together; scores on both languages.

    Ways, the first seven through heads of the model fine-tuned through own heads (random ones as many as in the union,
    or in the intersection), the others models made by adding what fine-tuning on each language alone changed, task head
    included: fully, or, of the encoder, in those weights alone that this changed most.

    Returns:
        task, seed, pair ("qaa + qab"), way, language, score, kept (share of the heads, nan for sums), chance.
    """
    own = subnetworks(study, task, seed)
    tuned, parts = folder(study, task, seed, OWN), []
    for a, b in pairs:
        union, intersection = masks.union([own[a], own[b]]), masks.intersection([own[a], own[b]])
        for code, partner in ((a, b), (b, a)):
            ways = {
                "own heads": own[code],
                "the other's heads": own[partner],
                "union": union,
                "random heads, as many": masks.random_mask(union, seed=seed),
                "intersection": intersection,
                "random heads, as few": masks.random_mask(intersection, seed=seed),
                "all heads": torch.ones_like(own[a]),
            }
            table = scored(study, task, tuned, {way: {code: mask} for way, mask in ways.items()})
            parts.append(
                table.assign(kept=[float(ways[way].float().mean()) for way in table["heads"]], pair=f"{a} + {b}")
            )
        parts.append(_summed(study, task, seed, (a, b)).assign(kept=nan, pair=f"{a} + {b}"))
    table = pd.concat(parts, ignore_index=True).rename(columns={"heads": "way"})
    return table.assign(task=task, seed=seed, chance=study.chance(task))


def _summed(study: Study, task: str, seed: int, pair: tuple[str, str]) -> pd.DataFrame:
    """Scores of the encoder with the changes of both languages added, and of the models of one language."""
    models = {
        kind: [folder(study, task, seed, variant, languages=(code,)) for code in pair]
        for kind, variant in (("full", FULL), ("sparse", LARGEST))
    }

    def compute() -> pd.DataFrame:
        start, rows = study.start(task, seed), []
        for kind, folders in models.items():
            deltas = [_delta(one, study, task, seed) for one in folders]
            ways = {"alone": deltas[:1], "the other's": deltas[1:], "sum": deltas}
            for way, some in ways.items():
                with delta.delta_weights(start, *some) as model:
                    rows += [
                        (f"{kind} changes, {_way(way, code, pair)}", code, study.score(task, model, code))
                        for code in pair
                    ]
            with delta.delta_weights(start, *deltas, scale=0.5) as model:
                rows += [(f"{kind} changes, mean", code, study.score(task, model, code)) for code in pair]
        return pd.DataFrame(rows, columns=["heads", "language", "score"])

    key = {"models": {kind: [one.name for one in some] for kind, some in models.items()}, "pair": list(pair)}
    return stored_table("summed-scores", key | {"task": study.task(task).identity}, compute)


def _way(way: str, code: str, pair: tuple[str, str]) -> str:
    """Of the two single models, the one of this language is its own."""
    if way == "sum":
        return way
    return "own" if (way == "alone") == (code == pair[0]) else "the other's"
