"""Notebook 04: can one subnetwork finish what another began? Stitched models, beside controls.

A stitched model reads a sentence with the lower layers of a *front*, maps its states, and goes on with the upper
layers of an *end*, whose task it is scored on.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from xsub_utils._internal import store
from xsub_utils._internal.validation import one_of
from xsub_utils.evaluation.scores import chance_level, evaluate
from xsub_utils.heads import masks
from xsub_utils.models.batches import make_batches
from xsub_utils.similarity import overlap
from xsub_utils.similarity.hidden_states import pooled
from xsub_utils.stitching.halves import StateCache
from xsub_utils.stitching.maps import stitch_fronts
from xsub_utils.stitching.scores import stitched_score
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.study import Study, load_model, stored_table
from xsub_utils.training import settings

TOGETHER = 8  # fronts whose maps are trained at once
BATCH = 32  # examples in a step of training, as in Apostolikas et al. 2023
CLOSED, TRAINED = "closed form", "trained"
SUBNETWORKS = (  # what the front differs in from the end
    "itself",
    "mask seed",
    "language",
    "model seed",
    "task",
    "task and language",
)
CONTROLS = (
    "shuffled within layers",
    "shuffled over layers",
    "shuffled",
    "model seed, shuffled within",
    "front without heads",
    "untrained front",
    HEADLESS := "end without heads",
)
TELLING = ("itself", "task", "shuffled within layers", "untrained front")
_SHUFFLES = {"shuffled within layers": "within", "shuffled over layers": "layers", "shuffled": "all"}
FRONT = ["front_task", "front_seed", "front_language"]


class Plan(NamedTuple):
    """What is stitched, and how maps are made.

    Attributes:
        tasks, seeds: Of the models that fronts are taken from. "Another model seed" is the one that follows in `seeds`.
        mask_seeds: The first is that of all masks, the second "another mask seed"; further ones are not used.
        ends: Languages whose subnetworks are ends for fronts of every kind; those of the others only get fronts with
            another mask seed or language.
        levels: Where models are cut; l is the output of layer l.
        size: Training examples of the end's task and language that a map is made from.
        epochs: Passes over them in its training.
        lr: Learning rate of its training, at the start; Apostolikas et al. 2023 have 3e-4 and many more steps.
    """

    tasks: Sequence[str]
    seeds: Sequence[int]
    mask_seeds: Sequence[int]
    ends: Sequence[str]
    levels: Sequence[int]
    size: int = 256
    epochs: int = 2
    lr: float = 1e-3


class Front(NamedTuple):
    """The lower half of a stitched model, and in what it differs from the end."""

    condition: str
    task: str
    seed: int
    language: str  # whose subnetwork it is
    gates: Tensor


def stitches(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Stitched models whose ends are the subnetworks of one model, each read and scored in its own language.

    Returns:
        task, seed, language (of the end), condition, front_task, front_seed, front_language, level, map ("closed form"
        or "trained"), score, jaccard (of the two masks), cka and cka_first (of the states that the two models have
        at the level: mean of tokens, first token), own (score of the end's model through its subnetwork), full (of
        all of it), chance (of the best constant answer). All on the end's report split.
    """
    parts = [_of_end(study, task, seed, language, plan) for language in study.languages]
    return pd.concat(parts, ignore_index=True)


def budgets(study: Study, task: str, seed: int, plan: Plan, given: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """What more training of the maps would give: columns as above, and budget, for some fronts and the first of `ends`.

    Args:
        study, task, seed, plan: As for `stitches`.
        given: Training examples and epochs to try.
    """
    tables = [
        _of_end(study, task, seed, plan.ends[0], plan._replace(size=size, epochs=epochs), TELLING).assign(
            budget=f"{size} × {epochs}"
        )
        for size, epochs in given
    ]
    return pd.concat(tables, ignore_index=True)


def _check(study: Study, task: str, seed: int, plan: Plan) -> None:
    if study.task(task).metric == "perplexity":
        raise ValueError(f"task={task!r}: relative accuracy needs a score that rises; another task would be right")
    one_of("task of the end", task, plan.tasks)
    one_of("seed of the end", str(seed), [str(one) for one in plan.seeds])
    for end in plan.ends:
        one_of("language of an end", end, study.languages)
    for name, values in (("ends", plan.ends), ("levels", plan.levels)):
        if len(values) == 0 or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)}: different values, at least one, would be right")
    if plan.size > study.train_size:
        raise ValueError(f"size={plan.size}: there are {study.train_size} training examples; at most as many are right")


def _of_end(
    study: Study, task: str, seed: int, language: str, plan: Plan, only: Sequence[str] = (*SUBNETWORKS, *CONTROLS)
) -> pd.DataFrame:
    """Rows of one subnetwork as the end of fronts of these conditions; stored."""
    data = study.task(task)
    _check(study, task, seed, plan)
    mask = states.subnetworks(study, task, seed, plan.mask_seeds[0])[language]
    fronts = [front for front in _fronts(study, task, seed, language, plan) if front.condition in only]
    key = {
        "end": [study.model_folder(task, seed).name, language, mask.int().tolist()],
        "task": data.identity,
        "fronts": store.digest([[*front[:4], *_identity(study, front)] for front in fronts]),
        "maps": [list(plan.levels), plan.size, plan.epochs, plan.lr],
    }

    def compute() -> pd.DataFrame:
        end, report = load_model(study.model_folder(task, seed)), study.batches(task, "test", language)
        train, models = _train_batches(study, task, language, plan.size), _front_models(study, fronts)
        rows = []
        for start in range(0, len(fronts), TOGETHER):
            cache = StateCache(levels=plan.levels)
            sides = [(front, models[front[:3]]) for front in fronts[start : start + TOGETHER]]
            for level in plan.levels:
                rows += _stitched(cache, sides, (end, mask), level, train, report, data.metric, plan)
        columns = ["condition", *FRONT, "level", "map", "score", "jaccard", "cka", "cka_first"]
        return pd.DataFrame(rows, columns=columns).assign(
            own=evaluate(end, report, metric=data.metric, gates=mask),
            full=evaluate(end, report, metric=data.metric),
            chance=chance_level([batch["labels"] for batch in report], data.metric),
        )

    return stored_table("stitches", key, compute).assign(task=task, seed=seed, language=language)


def _stitched(
    cache: StateCache,
    fronts: Sequence[tuple[Front, nn.Module]],
    end: tuple[nn.Module, Tensor],
    level: int,
    train: list[dict],
    report: list[dict],
    metric: str,
    plan: Plan,
) -> Iterator[tuple]:
    """Rows of several fronts with one end at a level, through both maps.

    An end without heads is given the maps of the end with its heads to begin with: only its upper layers run.
    """
    closed = stitch_fronts(
        [(model, front.gates) for front, model in fronts],
        end[0],
        train,
        level=level,
        end_gates=end[1],
        epochs=0,
        cache=cache,
    )
    training = {"epochs": plan.epochs, "lr": plan.lr, "cache": cache}
    for headless in (False, True):
        gates = torch.zeros_like(end[1]) if headless else end[1]
        some = [
            (*side, start)
            for side, start in zip(fronts, closed, strict=True)
            if (side[0].condition == HEADLESS) == headless
        ]
        if not some:
            continue
        sides, starts = [(model, front.gates) for front, model, _ in some], [start for *_, start in some]
        trained = stitch_fronts(sides, end[0], train, level=level, end_gates=gates, init=starts, **training)
        for (front, model, start), made in zip(some, trained, strict=True):
            alike = (
                overlap.jaccard(front.gates, gates),
                *_likeness(cache, (model, front.gates), (end[0], gates), report, level),
            )
            for name, one in ((CLOSED, start), (TRAINED, made)):
                options = {"front_gates": front.gates, "end_gates": gates, "cache": cache}
                score = stitched_score(one, model, end[0], report, metric=metric, **options)
                yield *front[:4], level, name, score, *alike


def _fronts(study: Study, task: str, seed: int, language: str, plan: Plan) -> Iterator[Front]:
    """All fronts that are stitched to the subnetwork of a language in a model."""
    first, *more = plan.mask_seeds
    own = states.subnetworks(study, task, seed, first)
    mask, others = own[language], _others(study.languages, language)
    yield Front("itself", task, seed, language, mask)
    for mask_seed in more[:1]:
        yield Front("mask seed", task, seed, language, states.subnetworks(study, task, seed, mask_seed)[language])
    for other in others:
        yield Front("language", task, seed, other, own[other])
    if language not in plan.ends:
        return
    for model_seed in _others(plan.seeds, seed)[:1]:
        found = states.subnetworks(study, task, model_seed, first)[language]
        yield Front("model seed", task, model_seed, language, found)
        shuffled = masks.shuffle_mask(found, over="within", seed=first)
        yield Front("model seed, shuffled within", task, model_seed, language, shuffled)
    for number, name in enumerate(_others(plan.tasks, task)):
        found = states.subnetworks(study, name, seed, first)
        yield Front("task", name, seed, language, found[language])
        for other in others[number % max(len(others), 1) :][:1]:  # another one for each task
            yield Front("task and language", name, seed, other, found[other])
    for name, over in _SHUFFLES.items():
        yield Front(name, task, seed, language, masks.shuffle_mask(mask, over=over, seed=first))
    yield Front("front without heads", task, seed, language, torch.zeros_like(mask))
    yield Front("untrained front", task, seed, language, mask)
    yield Front(HEADLESS, task, seed, language, mask)


def _others(values: Sequence, one: object) -> list:
    """The values that follow one of them, round to those before it."""
    place = list(values).index(one)
    return [*values[place + 1 :], *values[:place]]


def _front_models(study: Study, fronts: Sequence[Front]) -> dict[tuple, nn.Module]:
    """(condition, task, seed) -> the model of a front; each is loaded once."""
    loaded = {(task, seed): load_model(study.model_folder(task, seed)) for _, task, seed, *_ in fronts}
    return {
        (name, *of): states.untrained_twin(study, *of) if name == "untrained front" else loaded[of]
        for name, *rest in fronts
        for of in [tuple(rest[:2])]
    }


def _identity(study: Study, front: Front) -> list:
    return [study.model_folder(front.task, front.seed).name, front.gates.int().tolist()]


def _train_batches(study: Study, task: str, language: str, size: int) -> list[dict]:
    """The first training examples of a language, in batches by length."""
    data = study.task(task)
    length = settings.preset(study.preset, data).max_length
    examples = data.examples("train", language).head(size)
    return make_batches(examples, study.tokenizer(), data.kind, batch_size=BATCH, max_length=length)


def _likeness(cache: StateCache, front: tuple, end: tuple, batches: list, level: int) -> tuple[float, float]:
    """CKA of the states of two models at a level: mean of tokens, first token."""
    sides = [cache.model(*side) for side in (front, end)]
    found = []
    for pool in ("mean", "first"):
        x, y = (
            torch.cat([pooled(cache.states(side, batch, level), batch["attention_mask"], pool) for batch in batches])
            for side in sides
        )
        found.append(states.likeness(x, y)["CKA"])
    return found[0], found[1]
