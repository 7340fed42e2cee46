"""Notebook 05, the sets of heads: subnetworks, and controls that are as large or as accurate but made for nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads import masks
from xsub_utils.study.conditions import AttributedHeads
from xsub_utils.study.nb02_pruning.searches import search
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.study import Study, load_model

ALL = tuple(AttributedHeads)
CONDITIONS = ALL[: ALL.index(AttributedHeads.RANDOM_AS_ACCURATE) + 1]  # each made for one language; the full model
_DRAWS, _STEP = 4, 4  # random masks per size, and heads between sizes, among which one is sought that is as accurate


class AttributionPlan(NamedTuple):
    """What is attributed to what.

    Attributes:
        attributed_train_size: Training examples per language that predictions are attributed to.
        attributed_test_size: Test examples per language; the same meanings in all of them, where the task is parallel.
        top: How many of the highest, and of the lowest, scores of a test example count.
        correct: Take those test examples that the full model has right in every language.
        sizes: Shares of the heads that random masks of any size keep.
        mask_seeds: The first is that of all subnetworks; the second gives the other subnetwork of the same language,
            the noise that any difference between languages has to exceed.
    """

    attributed_train_size: int
    attributed_test_size: int
    top: int
    correct: bool = True
    sizes: Sequence[float] = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
    mask_seeds: Sequence[int] = (0, 1)


class AttributedModel(NamedTuple):
    """A model whose predictions are attributed.

    Attributes:
        study, task, seed: Give the examples, and the subnetworks: those of the study's own model of that seed.
        folder: Of the model; not always the study's own.
    """

    study: Study
    task: str
    seed: int
    folder: Path

    @classmethod
    def of(cls, study: Study, task: str, seed: int) -> "AttributedModel":
        """The study's own model."""
        return cls(study, task, seed, study.model_folder(task, seed))


class HeadSet(NamedTuple):
    """A set of heads, and on which languages' examples it is looked at."""

    condition: str
    whose: str  # the language that it was made for, or ""
    gates: Tensor | None
    languages: tuple[str, ...]

    @property
    def kept(self) -> float:
        """Share of the heads that it keeps."""
        return 1.0 if self.gates is None else float(self.gates.float().mean())


def head_sets(
    model: AttributedModel,
    plan: AttributionPlan,
    conditions: Sequence[str] = ALL,
    own: Mapping[str, Tensor] | None = None,
) -> Iterator[HeadSet]:
    """Every set of heads that is looked at; controls on the language that they were made for.

    A subnetwork without any head is left out, with its controls: there is nothing to attribute through.

    Args:
        model: Through which they are looked at; some random heads are as accurate in it as a subnetwork.
        plan: What is attributed to what.
        conditions: Those that are wanted.
        own: Language -> its subnetwork; by default as notebook 02 finds it.
    """
    own = own or states.subnetworks(model.study, model.task, model.seed, plan.mask_seeds[0])
    return (heads for heads in _every_set(model, plan, conditions, own) if heads.condition in conditions)


def _every_set(
    model: AttributedModel, plan: AttributionPlan, conditions: Sequence[str], own: Mapping[str, Tensor]
) -> Iterator[HeadSet]:
    first, *more = plan.mask_seeds
    languages = tuple(model.study.languages)
    wanted = more and AttributedHeads.OWN_OTHER_MASK_SEED in conditions
    again = states.subnetworks(model.study, model.task, model.seed, more[0]) if wanted else {}
    yield HeadSet(AttributedHeads.FULL, "", None, languages)
    for language, mask in own.items():
        if not mask.any():
            continue
        yield HeadSet(AttributedHeads.OWN, language, mask, languages)
        if language in again and again[language].any():
            yield HeadSet(AttributedHeads.OWN_OTHER_MASK_SEED, language, again[language], (language,))
        shuffled = masks.shuffle_mask(mask, over="within", seed=first)
        yield HeadSet(AttributedHeads.SHUFFLED_WITHIN, language, shuffled, (language,))
        yield HeadSet(AttributedHeads.RANDOM_HEADS, language, masks.random_mask(mask, seed=first), (language,))
        if AttributedHeads.RANDOM_AS_ACCURATE in conditions:  # takes time to find
            matched = as_accurate(model, language, first, mask)
            yield HeadSet(AttributedHeads.RANDOM_AS_ACCURATE, language, matched, (language,))
        yield from _half_the_size(model, language, first)
    for number, share in enumerate(plan.sizes):
        drawn = masks.random_mask(_keeping(round(share * mask.numel()), mask), seed=number)
        yield HeadSet(AttributedHeads.RANDOM_ANY_SIZE, "", drawn, languages)


def _half_the_size(model: AttributedModel, language: str, mask_seed: int) -> Iterator[HeadSet]:
    """The mask of the language's search with about half as many heads as its subnetwork."""
    subnetwork = search(model.study, model.task, model.seed, language, mask_seed)
    size = int(subnetwork.mask.sum())
    smaller = [step.mask for step in subnetwork.trajectory if 0 < step.kept < size]
    if smaller:
        half = min(smaller, key=lambda mask: abs(2 * int(mask.sum()) - size))
        yield HeadSet(AttributedHeads.OWN_HALF_THE_SIZE, language, half, (language,))


def as_accurate(model: AttributedModel, language: str, mask_seed: int, own: Tensor) -> Tensor:
    """Random heads, at least as many as in a language's subnetwork, whose score is nearest to that of the subnetwork.

    Scores are those of the model on the validation split, as in the search itself; of equally near masks the one with
    fewest heads. The nearest of the masks that were tried may still be some way off.
    """
    study, task = model.study, model.task

    def build(out: Path) -> None:
        loaded, validation = load_model(model.folder), study.batches(task, "validation", language, mask_seed)

        def score(mask: Tensor) -> float:
            return evaluate(loaded, validation, metric=study.metric(task).name, gates=mask)

        target, tried = score(own), []
        for kept in range(int(own.sum()), own.numel() + 1, _STEP):
            drawn = [masks.random_mask(_keeping(kept, own), seed=number) for number in range(_DRAWS)]
            tried += [(abs(score(mask) - target), kept, mask) for mask in drawn]
        nearest = min(tried, key=lambda row: row[:2])[2]
        masks.save_masks(out / "mask.npz", {"mask": nearest}, {})

    key = {
        "model": model.folder.name,
        "task": study.task(task).identity,
        "language": language,
        "mask_seed": mask_seed,
        "own": own.int().tolist(),
        "tried": [_STEP, _DRAWS, study.validation_size],
    }
    return masks.load_masks(store.get_or_build("as-accurate", key, build) / "mask.npz")[0]["mask"]


def _keeping(count: int, like: Tensor) -> Tensor:
    """A mask of the same shape with so many heads, for others to be drawn after."""
    return (torch.arange(like.numel()) < count).view_as(like)
