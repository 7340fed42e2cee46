"""Notebook 05, the sets of heads: subnetworks, and controls that are as large or as accurate but made for nothing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads import masks
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.study import Study, load_model

FULL, OWN, AGAIN, OTHER = "full model", "own subnetwork", "own, other mask seed", "another language's"
SHUFFLED, RANDOM, MATCHED = "shuffled within layers", "random heads", "random heads, as accurate"
SEARCHED, ANY = "own search, half the size", "random heads, any size"
CONDITIONS = (FULL, OWN, AGAIN, OTHER, SHUFFLED, RANDOM, MATCHED)
ALL = (*CONDITIONS, SEARCHED, ANY)
_DRAWS, _STEP = 4, 4  # random masks per size, and heads between sizes, among which one is sought that is as accurate


class Plan(NamedTuple):
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


class Mask(NamedTuple):
    """A set of heads, and on which languages' examples it is looked at."""

    condition: str
    whose: str  # the language that it was made for, or ""
    gates: Tensor | None
    languages: tuple[str, ...]

    @property
    def kept(self) -> float:
        """Share of the heads."""
        return 1.0 if self.gates is None else float(self.gates.float().mean())


def sets_of_heads(
    study: Study,
    task: str,
    seed: int,
    plan: Plan,
    folder: Path | None = None,
    conditions: Sequence[str] = ALL,
    own: Mapping[str, Tensor] | None = None,
) -> Iterator[Mask]:
    """Every set of heads that is looked at; controls on the language that they were made for.

    A subnetwork without any head is left out, with its controls: there is nothing to attribute through.

    Args:
        study, task, seed: Of the model that the subnetworks are of.
        plan: What is attributed to what.
        folder: Another model, in which heads are as accurate; by default the same.
        conditions: Those that are wanted.
        own: Language -> its subnetwork; by default as notebook 02 finds it.
    """
    own = own or states.subnetworks(study, task, seed, plan.mask_seeds[0])
    found = _every_set(study, task, seed, plan, folder or study.model_folder(task, seed), conditions, own)
    return (mask for mask in found if mask.condition in conditions)


def _every_set(
    study: Study,
    task: str,
    seed: int,
    plan: Plan,
    folder: Path,
    conditions: Sequence[str],
    own: Mapping[str, Tensor],
) -> Iterator[Mask]:
    first, *more = plan.mask_seeds
    languages = tuple(study.languages)
    again = states.subnetworks(study, task, seed, more[0]) if more and AGAIN in conditions else {}
    yield Mask(FULL, "", None, languages)
    for language, mask in own.items():
        if not mask.any():
            continue
        yield Mask(OWN, language, mask, languages)
        if language in again and again[language].any():
            yield Mask(AGAIN, language, again[language], (language,))
        yield Mask(SHUFFLED, language, masks.shuffle_mask(mask, over="within", seed=first), (language,))
        yield Mask(RANDOM, language, masks.random_mask(mask, seed=first), (language,))
        if MATCHED in conditions:  # takes time to find
            yield Mask(MATCHED, language, as_accurate(study, task, language, first, folder, mask), (language,))
        yield from _searched(study, task, seed, language, first)
    for number, share in enumerate(plan.sizes):
        yield Mask(ANY, "", masks.random_mask(_keeping(round(share * mask.numel()), mask), seed=number), languages)


def _searched(study: Study, task: str, seed: int, language: str, mask_seed: int) -> Iterator[Mask]:
    """The mask of the language's search with about half as many heads as its subnetwork."""
    found = pruning.search(study, task, seed, language, mask_seed)
    size = int(found.mask.sum())
    smaller = [step.mask for step in found.trajectory if 0 < step.kept < size]
    if smaller:
        half = min(smaller, key=lambda mask: abs(2 * int(mask.sum()) - size))
        yield Mask(SEARCHED, language, half, (language,))


def as_accurate(study: Study, task: str, language: str, mask_seed: int, folder: Path, own: Tensor) -> Tensor:
    """Random heads, at least as many as in a language's subnetwork, whose score is nearest to that of the subnetwork.

    Scores are those of the model of `folder` on the stop split, as in the search itself; of equally near masks the one
    with fewest heads. The nearest of what was tried may still be some way off.
    """
    data = study.task(task)

    def build(out: Path) -> None:
        model, stop = load_model(folder), study.batches(task, "validation", language, mask_seed)
        target, tried = evaluate(model, stop, metric=data.metric, gates=own), []
        for kept in range(int(own.sum()), own.numel() + 1, _STEP):
            drawn = [masks.random_mask(_keeping(kept, own), seed=number) for number in range(_DRAWS)]
            tried += [
                (abs(evaluate(model, stop, metric=data.metric, gates=mask) - target), kept, mask) for mask in drawn
            ]
        nearest = min(tried, key=lambda one: one[:2])[2]
        masks.save_masks(out / "mask.npz", {"mask": nearest}, {})

    key = {
        "model": folder.name,
        "task": data.identity,
        "language": language,
        "mask_seed": mask_seed,
        "own": own.int().tolist(),
        "tried": [_STEP, _DRAWS, study.validation_size],
    }
    return masks.load_masks(store.get_or_build("as-accurate", key, build) / "mask.npz")[0]["mask"]


def _keeping(count: int, like: Tensor) -> Tensor:
    """A mask of the same shape with so many heads, for others to be drawn after."""
    return (torch.arange(like.numel()) < count).view_as(like)
