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
from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.evaluation.scores import chance_level, evaluate
from xsub_utils.heads import masks
from xsub_utils.models.batches import make_batches
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.similarity import overlap
from xsub_utils.similarity.hidden_states import pooled
from xsub_utils.stitching.halves import StateCache
from xsub_utils.stitching.maps import stitch_fronts
from xsub_utils.stitching.scores import stitched_score
from xsub_utils.study.conditions import Front, Map, Measure, PairLikeness
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb03_similarity.likeness import likeness
from xsub_utils.study.study import Study, load_model, stored_table
from xsub_utils.training import settings

TOGETHER = 8  # fronts whose maps are trained at once
BATCH = 32  # examples in a step of training, as in Apostolikas et al. 2023
SUBNETWORKS = tuple(Front)[:6]  # from "itself" to "task_and_language": what the front differs in from the end
CONTROLS = tuple(Front)[6:]
TELLING = (Front.ITSELF, Front.TASK, Front.SHUFFLED_WITHIN, Front.UNTRAINED_FRONT)
_SHUFFLES = {Front.SHUFFLED_WITHIN: "within", Front.SHUFFLED_OVER: "layers", Front.SHUFFLED: "all"}
FRONT = ["front_task", "front_seed", "front_language"]


class StitchingPlan(NamedTuple):
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


class FrontHalf(NamedTuple):
    """The lower half of a stitched model, and in what it differs from the end."""

    condition: Front
    task: str
    seed: int
    language: str  # whose subnetwork it is
    gates: Tensor


def stitches(study: Study, task: str, seed: int, plan: StitchingPlan) -> pd.DataFrame:
    """Stitched models whose ends are the subnetworks of one model, each read and scored in its own language.

    Returns:
        task, seed, language (of the end), condition (of `Front`), front_task, front_seed, front_language, level, map
        (of `Map`), score, jaccard (of the two masks), cka_mean and cka_first (of the states that the two models have at
        the level: mean of tokens, first token), own (score of the end's model through its subnetwork), full (of all of
        it), chance (of the best constant answer). All on the end's test split.
    """
    parts = [_of_end(study, task, seed, language, plan) for language in study.languages]
    return pd.concat(parts, ignore_index=True)


def budgets(study: Study, task: str, seed: int, plan: StitchingPlan, given: Sequence[tuple[int, int]]) -> pd.DataFrame:
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


def _check(study: Study, task: str, seed: int, plan: StitchingPlan) -> None:
    metric = study.metric(task)
    if metric.lower_is_better:
        raise invalid("task", "one whose score rises", f"{task!r}, scored by {metric.name}", "choose another task")
    one_of("task of the end", task, plan.tasks)
    one_of("seed of the end", str(seed), [str(known) for known in plan.seeds])
    for end in plan.ends:
        one_of("language of an end", end, study.languages)
    for name, values in (("ends", plan.ends), ("levels", plan.levels)):
        if len(values) == 0 or len(set(values)) < len(values):
            raise invalid(name, "different values, at least one", list(values))
    if plan.size > study.train_size:
        raise invalid("size", f"at most the {study.train_size} training examples", plan.size)


def _of_end(
    study: Study,
    task: str,
    seed: int,
    language: str,
    plan: StitchingPlan,
    only: Sequence[str] = (*SUBNETWORKS, *CONTROLS),
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
        end, test = load_model(study.model_folder(task, seed)), study.batches(task, "test", language)
        train, models = _train_batches(study, task, language, plan.size), _front_models(study, fronts)
        metric, rows = study.metric(task).name, list[tuple]()
        for start in range(0, len(fronts), TOGETHER):
            cache = StateCache(levels=plan.levels)
            sides = [(front, models[front[:3]]) for front in fronts[start : start + TOGETHER]]
            for level in plan.levels:
                rows += _stitched(cache, sides, (end, mask), level, train, test, metric, plan)
        columns = ["condition", *FRONT, "level", "map", "score", *PairLikeness]
        return pd.DataFrame(rows, columns=columns).assign(
            own=evaluate(end, test, metric=metric, gates=mask),
            full=evaluate(end, test, metric=metric),
            chance=chance_level([batch["labels"] for batch in test], metric),
        )

    return stored_table("stitches", key, compute).assign(task=task, seed=seed, language=language)


def _stitched(
    cache: StateCache,
    fronts: Sequence[tuple[FrontHalf, nn.Module]],
    end: tuple[nn.Module, Tensor],
    level: int,
    train: list[NumberedBatch],
    test: list[NumberedBatch],
    metric: str,
    plan: StitchingPlan,
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
    for headless in (False, True):
        gates = torch.zeros_like(end[1]) if headless else end[1]
        chosen = [
            (front, model, start)
            for (front, model), start in zip(fronts, closed, strict=True)
            if (front.condition == Front.END_WITHOUT_HEADS) == headless
        ]
        if not chosen:
            continue
        trained = stitch_fronts(
            [(model, front.gates) for front, model, _ in chosen],
            end[0],
            train,
            level=level,
            end_gates=gates,
            init=[start for *_, start in chosen],
            epochs=plan.epochs,
            lr=plan.lr,
            cache=cache,
        )
        for (front, model, start), stitch in zip(chosen, trained, strict=True):
            alike = (
                overlap.jaccard(front.gates, gates),
                *_likeness(cache, (model, front.gates), (end[0], gates), test, level),
            )
            for name, linear in ((Map.CLOSED_FORM, start), (Map.TRAINED, stitch)):
                score = stitched_score(
                    linear,
                    model,
                    end[0],
                    test,
                    metric=metric,
                    front_gates=front.gates,
                    end_gates=gates,
                    cache=cache,
                )
                yield *front[:4], level, name, score, *alike


def _fronts(study: Study, task: str, seed: int, language: str, plan: StitchingPlan) -> Iterator[FrontHalf]:
    """All fronts that are stitched to the subnetwork of a language in a model."""
    first, *more = plan.mask_seeds
    own = states.subnetworks(study, task, seed, first)
    mask, others = own[language], _others(study.languages, language)
    yield FrontHalf(Front.ITSELF, task, seed, language, mask)
    for mask_seed in more[:1]:
        yield FrontHalf(
            Front.MASK_SEED, task, seed, language, states.subnetworks(study, task, seed, mask_seed)[language]
        )
    for other in others:
        yield FrontHalf(Front.LANGUAGE, task, seed, other, own[other])
    if language not in plan.ends:
        return
    for model_seed in _others(plan.seeds, seed)[:1]:
        of_seed = states.subnetworks(study, task, model_seed, first)[language]
        yield FrontHalf(Front.MODEL_SEED, task, model_seed, language, of_seed)
        shuffled = masks.shuffle_mask(of_seed, over="within", seed=first)
        yield FrontHalf(Front.MODEL_SEED_SHUFFLED, task, model_seed, language, shuffled)
    for number, name in enumerate(_others(plan.tasks, task)):
        of_task = states.subnetworks(study, name, seed, first)
        yield FrontHalf(Front.TASK, name, seed, language, of_task[language])
        for other in others[number % max(len(others), 1) :][:1]:  # another one for each task
            yield FrontHalf(Front.TASK_AND_LANGUAGE, name, seed, other, of_task[other])
    for condition, over in _SHUFFLES.items():
        yield FrontHalf(condition, task, seed, language, masks.shuffle_mask(mask, over=over, seed=first))
    yield FrontHalf(Front.FRONT_WITHOUT_HEADS, task, seed, language, torch.zeros_like(mask))
    yield FrontHalf(Front.UNTRAINED_FRONT, task, seed, language, mask)
    yield FrontHalf(Front.END_WITHOUT_HEADS, task, seed, language, mask)


def _others(values: Sequence, one: object) -> list:
    """The values that follow one of them, round to those before it."""
    place = list(values).index(one)
    return [*values[place + 1 :], *values[:place]]


def _front_models(study: Study, fronts: Sequence[FrontHalf]) -> dict[tuple, nn.Module]:
    """(condition, task, seed) -> the model of a front; each is loaded once."""
    loaded = {(front.task, front.seed): load_model(study.model_folder(front.task, front.seed)) for front in fronts}
    models = {}
    for condition, task, seed, *_ in fronts:
        untrained = condition == Front.UNTRAINED_FRONT
        models[condition, task, seed] = states.untrained_twin(study, task, seed) if untrained else loaded[task, seed]
    return models


def _identity(study: Study, front: FrontHalf) -> list:
    return [study.model_folder(front.task, front.seed).name, front.gates.int().tolist()]


def _train_batches(study: Study, task: str, language: str, size: int) -> list[NumberedBatch]:
    """The first training examples of a language, in batches by length."""
    data = study.task(task)
    length = settings.preset(study.preset, data).max_length
    examples = data.examples("train", language).head(size)
    return make_batches(examples, study.tokenizer(), data.kind, batch_size=BATCH, max_length=length)


def _likeness(cache: StateCache, front: tuple, end: tuple, batches: list, level: int) -> tuple[float, float]:
    """CKA of the states of two models at a level: mean of tokens, first token."""
    sides = [cache.model(*side) for side in (front, end)]
    values = []
    for pool in ("mean", "first"):
        x, y = (
            torch.cat([pooled(cache.states(side, batch, level), batch["attention_mask"], pool) for batch in batches])
            for side in sides
        )
        values.append(likeness(x, y)[Measure.CKA])
    return values[0], values[1]
