"""Notebook 07, the tickets elsewhere: in other languages and tasks, beside each other, and as encoders of sentences."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from xsub_utils._internal.validation import one_of
from xsub_utils.similarity import hidden_states
from xsub_utils.similarity.retrieval import retrieval_accuracy
from xsub_utils.similarity.weight_overlap import mask_overlap
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb07_tickets.models import (
    KINDS,
    LONGER,
    ONE_SHOT,
    PARTLY,
    RANDOM,
    SEED,
    TICKET,
    Plan,
    found,
    loaded,
    longer,
    mask_of,
    retrained,
)
from xsub_utils.study.study import Study, stored_table
from xsub_utils.training import masked
from xsub_utils.weights.masks import masked_weights, random_weight_mask

DIFFERS = {
    ("language",): "another language",
    ("seed",): "another seed",
    ("seed", "language"): "another language and seed",
    ("task",): "another task",
}
PRETRAINED, MASKED, SHUFFLED = "before training", "before training, ticket's mask", "before training, random mask"
WHOLE, TRAINED = "trained, whole", "trained, ticket"
RETRAINED = "trained, random mask"


def transfer(
    study: Study, task: str, seed: int, plan: Plan, controls: Sequence[str] = (ONE_SHOT, RANDOM)
) -> pd.DataFrame:
    """a(s, t): score in t after training on t with the mask of s, or with t's own mask of another kind.

    Args:
        study, task, seed, plan: Of the models.
        controls: Of `tickets.KINDS`; with `SEED`, every language's ticket of another seed is tried as well.

    Returns:
        task, seed, sparsity, mask ("ticket", "ticket of another seed", or another of the controls), source (the
        language that it comes from), target, score, relative (change against t's own ticket, found with the seed that
        it is trained with, as a share of its score; above 0 is better, also of perplexities).
    """
    rows = []
    for sparsity, target in product(plan.elsewhere, study.languages):
        for kind in dict.fromkeys((TICKET, *controls)):
            for source in study.languages if kind in (TICKET, SEED) else [target]:
                score = _score(study, task, seed, target, (task, source, kind), plan, sparsity)
                rows.append((sparsity, kind, source, target, score))
    table = pd.DataFrame(rows, columns=["sparsity", "mask", "source", "target", "score"])
    same = table["mask"].eq(TICKET) & table["source"].eq(table["target"])
    own = table[same].set_index(["sparsity", "target"])["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["sparsity", "target"], own)


def across_tasks(study: Study, task: str, seed: int, sources: Sequence[str], plan: Plan) -> pd.DataFrame:
    """Score in each language after training on a task with the mask that another task found in the language.

    Args:
        study, task, seed, plan: Of the models; the task gives the data.
        sources: Tasks that give the masks, this one among them.

    Returns:
        task, seed, source (a task, or "random"), target (language), score, relative (against the task's own ticket).
    """
    one_of("target_tasks", task, sources)
    rows = []
    for target in study.languages:
        masks = {one: (one, target, TICKET) for one in sources} | {RANDOM: (task, target, RANDOM)}
        rows += [(one, target, _score(study, task, seed, target, mask, plan)) for one, mask in masks.items()]
    table = pd.DataFrame(rows, columns=["source", "target", "score"])
    own = table[table["source"] == task].set_index("target")["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["target"], own)


def kinds(study: Study, task: str, seed: int, plan: Plan, chosen: Sequence[str] = KINDS) -> pd.DataFrame:
    """Score in each language with each kind of mask, trained on it, and of the whole model trained once, or as long.

    A kind that needs a denser ticket is left out where the plan has none.

    Returns:
        task, seed, kind, language, score, relative (against the whole model).
    """
    chosen, rows = [kind for kind in chosen if kind != PARTLY or plan.sparsities[0] < plan.main], []
    for language in study.languages:
        table = found(study, task, seed, language, plan).scores
        rows.append(("whole model", language, float(table.loc[table["sparsity"] == 0, "score"].iloc[0])))
        if seed in plan.long_seeds:
            rows.append((LONGER, language, longer(study, task, seed, language, plan)))
        rows += [(one, language, _score(study, task, seed, language, (task, language, one), plan)) for one in chosen]
    table = pd.DataFrame(rows, columns=["kind", "language", "score"])
    whole = table[table["kind"] == "whole model"].set_index("language")["score"]
    return _relative(study, task, table.assign(task=task, seed=seed), ["language"], whole)


def _score(
    study: Study, task: str, seed: int, target: str, mask: tuple, plan: Plan, sparsity: float | None = None
) -> float:
    """Score on `target` with the mask (task, language, kind); a language's own ticket was trained when it was found."""
    sparsity = plan.main if sparsity is None else sparsity
    own = found(study, task, seed, target, plan)
    if mask == (task, target, TICKET):
        return float(own.scores.loc[own.scores["sparsity"] == sparsity, "score"].iloc[0])
    of, language, kind = mask
    weights = mask_of(study, of, seed, language, kind, plan, sparsity)
    if of != task:  # one may have a pooler
        names = own.masks[sparsity].keys()
        weights = {name: one for name, one in weights.items() if name in names}
    return retrained(study, task, seed, target, weights, plan)


def _relative(study: Study, task: str, table: pd.DataFrame, keys: list[str], reference: pd.Series) -> pd.DataFrame:
    base = reference.reindex(table.set_index(keys).index).to_numpy()
    sign = -1 if study.task(task).metric == "perplexity" else 1
    return table.assign(relative=sign * (table["score"] - base) / base)


def overlaps(study: Study, tasks: Sequence[str], seeds: Sequence[int], plan: Plan) -> pd.DataFrame:
    """Overlap of tickets that differ as `DIFFERS` says, and with the largest weights before training.

    Two languages of one seed also share the task head at the start and, where the texts are translations, the examples
    and their order; so the other seed of a language is to be compared with another language *and* seed. A pair of tasks
    is there for each of them.

    Returns:
        differs (one of `DIFFERS`, or "largest before training"), task, task_b, seed, a, b (languages), by ("total",
        "layer", "component"), part, jaccard, expected, expected_within (as in `mask_overlap`).
    """
    masks = {
        (task, seed, code): found(study, task, seed, code, plan).masks[plan.main]
        for task, seed, code in product(tasks, seeds, study.languages)
    }
    pairs = list(pairs_of(list(masks)))
    tables = [(differs, one, other, masks[one], masks[other]) for differs, one, other in pairs]
    for one, mask in masks.items():
        tables.append((ONE_SHOT, one, one, mask, mask_of(study, *one, ONE_SHOT, plan)))
    found_ = []
    for differs, one, other, first, second in tables:
        places = {"differs": differs, "task": one[0], "task_b": other[0], "seed": one[1], "a": one[2], "b": other[2]}
        for by in ("total", "layer", "component"):
            found_.append(mask_overlap(first, second, by=by).astype({"part": str}).assign(by=by, **places))
    return pd.concat(found_, ignore_index=True)


def pairs_of(keys: Sequence[tuple]) -> Iterator[tuple[str, tuple, tuple]]:
    """What differs, and both keys, for those pairs of keys (task, seed, language) that `DIFFERS` names."""
    names = ("task", "seed", "language")  # as the keys
    for one, other in combinations(keys, 2):
        unequal = tuple(name for name, x, y in zip(names, one, other, strict=True) if x != y)
        if unequal in DIFFERS:
            yield DIFFERS[unequal], one, other
        if unequal == ("task",):  # for each of both
            yield DIFFERS[unequal], other, one


def retrieval(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """How often a sentence finds its translation, between the language of a ticket and each other one.

    Returns:
        task, seed, model, language (of the ticket), level (0 for the embeddings), accuracy (mean over the other
        languages, both directions).
    """

    def compute() -> pd.DataFrame:
        data = study.task(task)
        start, rows = study.start(task, seed), []
        plain = _states(study, start)
        for language in study.languages:
            own = found(study, task, seed, language, plan)
            mask, read = own.masks[plan.main], {PRETRAINED: plain}
            random = random_weight_mask(mask, seed=seed)
            with TemporaryDirectory() as run:
                of = {"languages": language, "settings": plan.course(study, task), "progress": False}
                masked.finetune_ticket(data, study.encoder_folder(), seed=seed, out=run, mask=random, **of)
                trained = {WHOLE: own.whole, TRAINED: own.sparse, RETRAINED: Path(run)}
                read |= {name: _states(study, loaded(path)) for name, path in trained.items()}
            for name, one in ((MASKED, mask), (SHUFFLED, random)):
                with masked_weights(start, one):
                    read[name] = _states(study, start)
            rows += [(name, language, level, value) for name, of in read.items()
                     for level, value in enumerate(_accuracies(of, language))]  # fmt: skip
        return pd.DataFrame(rows, columns=["model", "language", "level", "accuracy"])

    artifacts = [found(study, task, seed, code, plan).whole.parent.name for code in study.languages]
    key = {"tickets": artifacts, "text": study.task("parallel").identity}  # their names cover models, data and course
    return stored_table("ticket-retrieval", key, compute).assign(task=task, seed=seed)


def _states(study: Study, model) -> dict[str, list]:
    """Language → mean-pooled states of its parallel sentences, level by level."""
    return {code: list(hidden_states.hidden_states(model, states.sentences(study, code), pool="mean"))
            for code in study.languages}  # fmt: skip


def _accuracies(of: dict[str, list], language: str) -> list[float]:
    """By level, mean over the other languages and both directions."""
    others = [code for code in of if code != language]
    return [
        float(np.mean([
            retrieval_accuracy(*pair)
            for other in others
            for pair in ((of[language][level], of[other][level]), (of[other][level], of[language][level]))
        ]))
        for level in range(len(of[language]))
    ]  # fmt: skip
