"""Notebook 06, the models: fine-tuned through subnetworks, and controls that are sparse in other ways.

All start from the same encoder and head as the study's own model of that seed, see the same examples as often, and
take as many steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from xsub_utils._internal import store
from xsub_utils._internal.validation import one_of
from xsub_utils.heads import masks
from xsub_utils.study.conditions import Through, Variant
from xsub_utils.study.nb02_pruning.searches import search
from xsub_utils.study.study import Study, load_model, stored_table, training_key
from xsub_utils.training import sparse
from xsub_utils.weights import masks as weight_masks

MAIN = (Variant.FULL_FINETUNING, Variant.ONE_LANGUAGE_BATCHES, Variant.SPARSE_OWN, Variant.SPARSE_RANDOM)
SINGLE_WEIGHTS = (Variant.SPARSE_LARGEST_CHANGES, Variant.SPARSE_RANDOM_WEIGHTS)
CHANGED = 0.1  # share of the encoder's weights that these may move; 8 % in Ansell et al. 2022


class Size(NamedTuple):
    """How large subnetworks are; by default what the usual threshold of the task's metric gives.

    Attributes:
        retain: Share of the full model's score that a subnetwork keeps.
        kept: Instead, the share of the heads that it keeps, as nearly as the search came to it.
    """

    retain: float | None = None
    kept: float | None = None


USUAL = Size()


def folder(
    study: Study,
    task: str,
    seed: int,
    variant: str,
    size: Size = USUAL,
    languages: Sequence[str] | None = None,
) -> Path:
    """Folder of a model in the store, trained if it is absent; read like one of `finetune`.

    Args:
        study, task, seed: As for `Study.model_folder`.
        variant: An id of `Variant`.
        size: Of the subnetworks.
        languages: To train on; by default all of the study.
    """
    chosen = tuple(languages or study.languages)
    if variant == Variant.FULL_FINETUNING:
        return study.model_folder(task, seed, chosen)
    one_of("variant", variant, tuple(Variant))
    data, encoder, course = study.task(task), study.encoder_folder(), study.course(task)
    single = variant in SINGLE_WEIGHTS
    options: dict[str, Any] = {"through": not single, "outside": "frozen" if single else "shared"}

    def masks_of_variant() -> Mapping[str, Tensor]:
        return _weights(study, task, seed, variant, chosen) if single else heads_of(study, task, seed, variant, size)

    # A mask of single weights is too large to be looked at every time.
    masks_key = [variant, study.model_folder(task, seed, chosen).name, CHANGED] if single else None
    key = training_key(
        data,
        encoder,
        seed=seed,
        languages=chosen,
        settings=course,
        masks=masks_key or weight_masks.mask_digest(masks_of_variant()),
        **options,
    )

    def build(out: Path) -> None:
        trained_through = masks_of_variant()
        sparse.sparse_finetune(
            data, encoder, seed=seed, out=out, masks=trained_through, languages=list(chosen), settings=course, **options
        )

    return store.get_or_build("sparse-model", key, build, code=[sparse], resume=True)


def subnetworks(study: Study, task: str, seed: int, size: Size = USUAL) -> dict[str, Tensor]:
    """Language → mask of heads, of the study's model and the first mask seed.

    A mask has one head at least: where the threshold is met without any, it is the last of its search that has.

    Args:
        study, task, seed: Of the model.
        size: Of the subnetworks.
    """
    own = {}
    for language in study.languages:
        searched = search(study, task, seed, language, 0)
        steps = [step.mask for step in searched.trajectory if step.mask.any()]
        if size.kept is not None:
            wanted = size.kept
            own[language] = min(steps, key=lambda mask: abs(float(mask.float().mean()) - wanted))
        else:
            mask = (searched if size.retain is None else searched.at(size.retain)).mask
            own[language] = mask if mask.any() else steps[-1]
    return own


def heads_of(study: Study, task: str, seed: int, variant: str, size: Size = USUAL) -> dict[str, Tensor]:
    """Language → heads that its batches ran through in training; with full fine-tuning its subnetwork.

    Empty for the variants that have no masks of heads.
    """
    own = subnetworks(study, task, seed, size)
    if variant in (Variant.FULL_FINETUNING, Variant.SPARSE_OWN):
        return own
    if variant == Variant.ONE_LANGUAGE_BATCHES:
        return {code: torch.ones_like(mask) for code, mask in own.items()}
    if variant == Variant.SPARSE_OTHER_LANGUAGE:
        return others(own)
    if variant == Variant.SPARSE_RANDOM:
        return {code: masks.random_mask(mask, seed=i) for i, (code, mask) in enumerate(own.items())}
    if variant in (Variant.SPARSE_SAME, Variant.SPARSE_SAME_RANDOM):
        same = most_kept(list(own.values()))
        return dict.fromkeys(own, same if variant == Variant.SPARSE_SAME else masks.random_mask(same, seed=seed))
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
    """The weights of the encoder that full fine-tuning, on all languages or on some, changed most."""
    before = dict(study.start(task, seed).named_parameters())
    model = load_model(study.model_folder(task, seed, languages))
    inside = {id(parameter) for parameter in cast(PreTrainedModel, model).base_model.parameters()}
    changes = {
        name: (after.detach() - before[name].detach()).cpu()
        for name, after in model.named_parameters()
        if id(after) in inside
    }
    count = round(CHANGED * sum(change.numel() for change in changes.values()))
    return weight_masks.largest(changes, count=count)


def _weights(study: Study, task: str, seed: int, variant: str, languages: Sequence[str]) -> dict[str, Tensor]:
    """The mask of single weights that a variant trains."""
    largest = largest_changes(study, task, seed, languages)
    if variant == Variant.SPARSE_LARGEST_CHANGES:
        return largest
    return weight_masks.random_weight_mask(largest, seed=seed)


def scores(study: Study, task: str, seed: int, variants: Sequence[str]) -> pd.DataFrame:
    """Score of each variant on the test split of each language.

    Returns:
        task, seed, variant, heads ("all_heads", "trained_heads", and of the fully fine-tuned ones "own": the subnetwork
        found in the first of them), language, score, chance.
    """
    own = subnetworks(study, task, seed)
    parts = []
    for variant in variants:
        trained = heads_of(study, task, seed, variant)
        views: dict[str, Mapping[str, Tensor | None]] = {Through.ALL_HEADS: dict.fromkeys(study.languages)}
        if variant in (Variant.FULL_FINETUNING, Variant.ONE_LANGUAGE_BATCHES):
            views[Through.OWN] = own
        elif trained:
            views[Through.TRAINED_HEADS] = trained
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
