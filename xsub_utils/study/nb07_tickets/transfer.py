"""Notebook 07, the tickets elsewhere: in other languages and tasks, beside each other, and as encoders of sentences."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from xsub_utils._internal.validation import one_of
from xsub_utils.similarity import hidden_states
from xsub_utils.similarity.retrieval import retrieval_accuracy
from xsub_utils.similarity.weight_overlap import mask_overlap
from xsub_utils.study.conditions import TicketKind, TicketsDiffer, TicketStates
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb07_tickets.kinds import KINDS, mask_of
from xsub_utils.study.nb07_tickets.models import TicketPlan, load_once, retrained, tickets_of, trained_as_long
from xsub_utils.study.study import Study, load_model, stored_table
from xsub_utils.training import masked
from xsub_utils.weights.masks import masked_weights, random_weight_mask

DIFFERS = {  # in which of task, seed and language the tickets of a pair differ -> the condition
    ("language",): TicketsDiffer.ANOTHER_LANGUAGE,
    ("seed",): TicketsDiffer.ANOTHER_SEED,
    ("seed", "language"): TicketsDiffer.ANOTHER_LANGUAGE_AND_SEED,
    ("task",): TicketsDiffer.ANOTHER_TASK,
}
BY_SOURCE = (TicketKind.TICKET, TicketKind.TICKET_OTHER_SEED)  # kinds that are tried on every other language
CONTROLS = (TicketKind.LARGEST_BEFORE_TRAINING, TicketKind.RANDOM_WEIGHTS)


def transfer(study: Study, task: str, seed: int, plan: TicketPlan, controls: Sequence[str] = CONTROLS) -> pd.DataFrame:
    """a(s, t): score in t after training on t with the mask of s, or with t's own mask of another kind.

    Args:
        study, task, seed, plan: Of the models.
        controls: Ids of `TicketKind`; with "ticket_other_seed", every language's ticket of another seed is tried as
            well.

    Returns:
        task, seed, sparsity, mask ("ticket", or one of the controls), source (the
        language that it comes from), target, score, relative (change against t's own ticket, found with the seed that
        it is trained with, as a share of its score; above 0 is better, also of perplexities).
    """
    rows = []
    for sparsity, target in product(plan.elsewhere, study.languages):
        for kind in dict.fromkeys((TicketKind.TICKET, *controls)):
            for source in study.languages if kind in BY_SOURCE else [target]:
                score = _score(study, task, seed, target, (task, source, kind), plan, sparsity)
                rows.append((sparsity, kind, source, target, score))
    table = pd.DataFrame(rows, columns=["sparsity", "mask", "source", "target", "score"])
    same = table["mask"].eq(TicketKind.TICKET) & table["source"].eq(table["target"])
    own = table[same].set_index(["sparsity", "target"])["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["sparsity", "target"], own)


def across_tasks(study: Study, task: str, seed: int, sources: Sequence[str], plan: TicketPlan) -> pd.DataFrame:
    """Score in each language after training on a task with the mask that another task found in the language.

    Args:
        study, task, seed, plan: Of the models; the task gives the data.
        sources: Tasks that give the masks, this one among them.

    Returns:
        task, seed, source (a task, or "random_weights"), target (language), score, relative (against the task's own
        ticket).
    """
    one_of("target_tasks", task, sources)
    rows = []
    for target in study.languages:
        masks = {source: (source, target, TicketKind.TICKET) for source in sources}
        masks[TicketKind.RANDOM_WEIGHTS] = (task, target, TicketKind.RANDOM_WEIGHTS)
        rows += [(source, target, _score(study, task, seed, target, mask, plan)) for source, mask in masks.items()]
    table = pd.DataFrame(rows, columns=["source", "target", "score"])
    own = table[table["source"] == task].set_index("target")["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["target"], own)


def kinds(study: Study, task: str, seed: int, plan: TicketPlan, chosen: Sequence[str] = KINDS) -> pd.DataFrame:
    """Score in each language with each kind of mask, trained on it, and of the full model trained once, or as long.

    A kind that needs a denser ticket is left out where the plan has none.

    Returns:
        task, seed, kind (an id of `TicketKind`), language, score, relative (against the full model).
    """
    denser, rows = plan.sparsities[0] < plan.main, list[tuple[str, str, float]]()
    chosen = [kind for kind in chosen if kind != TicketKind.DENSER_THEN_RANDOM or denser]
    for language in study.languages:
        rows.append((TicketKind.FULL, language, tickets_of(study, task, seed, language, plan).score(0)))
        if seed in plan.long_seeds:
            as_long = trained_as_long(study, task, seed, language, plan)
            rows.append((TicketKind.FULL_TRAINED_AS_LONG, language, as_long))
        rows += [(kind, language, _score(study, task, seed, language, (task, language, kind), plan)) for kind in chosen]
    table = pd.DataFrame(rows, columns=["kind", "language", "score"])
    full = table[table["kind"] == TicketKind.FULL].set_index("language")["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["language"], full)


def _score(
    study: Study,
    task: str,
    seed: int,
    target: str,
    mask: tuple[str, str, str],
    plan: TicketPlan,
    sparsity: float | None = None,
) -> float:
    """Score on `target` with the mask (task, language, kind); a language's own ticket was trained when it was found."""
    sparsity = plan.main if sparsity is None else sparsity
    own = tickets_of(study, task, seed, target, plan)
    if mask == (task, target, TicketKind.TICKET):
        return own.score(sparsity)
    source_task, source, kind = mask
    weights = mask_of(study, source_task, seed, source, kind, plan, sparsity)
    if source_task != task:  # one may have a pooler
        names = own.masks[sparsity].keys()
        weights = {name: kept for name, kept in weights.items() if name in names}
    return retrained(study, task, seed, target, weights, plan)


def _relative(study: Study, task: str, table: pd.DataFrame, keys: list[str], reference: pd.Series) -> pd.DataFrame:
    baseline = reference.reindex(table.set_index(keys).index).to_numpy()
    return table.assign(relative=study.metric(task).gain(table["score"], baseline))


def overlaps(study: Study, tasks: Sequence[str], seeds: Sequence[int], plan: TicketPlan) -> pd.DataFrame:
    """Overlap of tickets that differ as `DIFFERS` says, and with the largest weights before training.

    Two languages of one seed also share the task head at the start and, where the texts are translations, the examples
    and their order; so the other seed of a language is to be compared with another language *and* seed. A pair of tasks
    is there for each of them.

    Returns:
        differs (an id of `TicketsDiffer`, or "largest_before_training"), task, task_b, seed, a, b (languages), by
        ("total", "layer", "component"), part, jaccard, expected, expected_within (as in `mask_overlap`).
    """
    masks = {
        (task, seed, code): tickets_of(study, task, seed, code, plan).masks[plan.main]
        for task, seed, code in product(tasks, seeds, study.languages)
    }
    pairs = [(differs, key, other, masks[other]) for differs, key, other in pairs_of(list(masks))]
    largest = TicketKind.LARGEST_BEFORE_TRAINING
    pairs += [(largest, key, key, mask_of(study, *key, largest, plan)) for key in masks]
    tables = []
    for differs, key, other, mask in pairs:
        places = {"differs": differs, **places_of(key, other)}
        for by in ("total", "layer", "component"):
            tables.append(mask_overlap(masks[key], mask, by=by).astype({"part": str}).assign(by=by, **places))
    return pd.concat(tables, ignore_index=True)


def places_of(key: tuple, other: tuple) -> dict:
    """The columns that say of which tickets a pair is, from their keys (task, seed, language)."""
    return {"task": key[0], "task_b": other[0], "seed": key[1], "a": key[2], "b": other[2]}


def pairs_of(keys: Sequence[tuple]) -> Iterator[tuple[str, tuple, tuple]]:
    """What differs, and both keys, for those pairs of keys (task, seed, language) that `DIFFERS` names."""
    names = ("task", "seed", "language")  # as the keys
    for key, other in combinations(keys, 2):
        unequal = tuple(name for name, x, y in zip(names, key, other, strict=True) if x != y)
        if unequal in DIFFERS:
            yield DIFFERS[unequal], key, other
        if unequal == ("task",):  # for each of both
            yield DIFFERS[unequal], other, key


def retrieval(study: Study, task: str, seed: int, plan: TicketPlan) -> pd.DataFrame:
    """How often a sentence finds its translation, between the language of a ticket and each other one.

    Returns:
        task, seed, model (an id of `TicketStates`), language (of the ticket), level (0 for the embeddings), accuracy
        (mean over the other languages, both directions).
    """

    def compute() -> pd.DataFrame:
        data = study.task(task)
        start, rows = study.start(task, seed), []
        plain = _states(study, start)
        for language in study.languages:
            own = tickets_of(study, task, seed, language, plan)
            mask, read = own.masks[plan.main], {TicketStates.BEFORE_TRAINING: plain}
            random = random_weight_mask(mask, seed=seed)
            read[TicketStates.TRAINED_FULL] = _states(study, load_model(own.full))
            read[TicketStates.TRAINED_TICKET] = _states(study, load_model(own.sparse))
            with TemporaryDirectory() as run:
                options: dict[str, Any] = {"languages": language, "settings": plan.course(study, task)}
                encoder = study.encoder_folder()
                masked.finetune_ticket(data, encoder, seed=seed, out=run, mask=random, progress=False, **options)
                read[TicketStates.TRAINED_RANDOM] = _states(study, load_once(Path(run)))
            before = ((TicketStates.BEFORE_TRAINING_TICKET, mask), (TicketStates.BEFORE_TRAINING_RANDOM, random))
            for name, kept in before:
                with masked_weights(start, kept):
                    read[name] = _states(study, start)
            rows += [
                (name, language, level, value)
                for name, by_language in read.items()
                for level, value in enumerate(_accuracies(by_language, language))
            ]
        return pd.DataFrame(rows, columns=["model", "language", "level", "accuracy"])

    artifacts = [tickets_of(study, task, seed, code, plan).full.parent.name for code in study.languages]
    key = {"tickets": artifacts, "text": study.task("parallel").identity}  # their names cover models, data and course
    return stored_table("ticket-retrieval", key, compute).assign(task=task, seed=seed)


def _states(study: Study, model: nn.Module) -> dict[str, list[Tensor]]:
    """Language → mean-pooled states of its parallel sentences, level by level."""
    return {
        code: list(hidden_states.hidden_states(model, states.sentences(study, code), pool="mean"))
        for code in study.languages
    }


def _accuracies(by_language: dict[str, list[Tensor]], language: str) -> list[float]:
    """By level, mean over the other languages and both directions."""
    others = [code for code in by_language if code != language]
    accuracies = []
    for level, own in enumerate(by_language[language]):
        pairs = [pair for code in others for pair in ((own, by_language[code][level]), (by_language[code][level], own))]
        accuracies.append(float(np.mean([retrieval_accuracy(*pair) for pair in pairs])))
    return accuracies
