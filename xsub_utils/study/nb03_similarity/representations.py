"""Notebook 03, representations: how alike two sets of heads, two models or two languages represent the same sentences.

Both sides of every comparison read the same held-out sentences, or translations of each other, row by row.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xsub_utils._internal import store
from xsub_utils.heads import masks
from xsub_utils.models.batches import make_batches
from xsub_utils.models.encoders import random_twin
from xsub_utils.similarity import cca, hidden_states, retrieval, rsa
from xsub_utils.similarity import cka as alignment
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.study import Study, load_model, stored_table

SENTENCES, LEAST, BATCH = 240, 8, 60
MEASURES = ("CKA", "RSA", "SVCCA", "PWCCA", "retrieval")  # of the states of two levels
CONTROLLED = ("CKA", "retrieval")  # what is also measured in subnetworks and the untrained twin
_OF_TWO = (("full", "full"), ("own", "own"), ("own", "random"))  # heads of one and of another model
_OF_ONE = (("full", "full"), ("full", "own"))
_NAMES = {"full": "full model", "own": "own subnetwork"}
Levels = dict[int, Tensor]  # level, 0 for the embeddings -> (sentences, features)
Views = dict[str, Levels]  # pool -> levels


def parallel(study: Study) -> dict[str, list[str]]:
    """Language -> sentences of the report split, row by row the same meanings, the shortest first.

    Raises:
        ValueError: If the languages have fewer than eight sentences in common.
    """
    rows = study.task("parallel").examples("test")
    texts = rows.pivot(index="id", columns="language", values="text")[list(study.languages)].dropna()
    if len(texts) < LEAST:
        raise ValueError(
            f"parallel text: the languages have {len(texts)} sentences in common; representations are compared on "
            f"translations, at least {LEAST} with equal ids in every language"
        )
    texts = texts.sample(min(SENTENCES, len(texts)), random_state=0)
    order = texts.map(lambda text: len(text.split())).sum(axis=1).argsort(kind="stable")  # spares padding
    return texts.iloc[order].to_dict("list")


@lru_cache(maxsize=64)
def sentences(study: Study, language: str) -> list[dict]:
    """Batches of the parallel sentences, in their order."""
    texts = pd.DataFrame({"text": parallel(study)[language]})
    return make_batches(texts, study.tokenizer(), "text", batch_size=BATCH, bucket=False)


def states(study: Study, task: str, seed: int, mask_seed: int) -> dict[tuple[str, str], Views]:
    """(heads, language) -> states of its sentences, stored.

    Heads are "full", "own", those of its subnetwork, "random", as many at random in each layer, and "untrained", all
    heads of a model of the same shape with random weights.
    """

    def build(out: Path) -> None:
        model, twin, arrays = load_model(study.model_folder(task, seed)), untrained_twin(study, task, seed), {}
        for language, mask in subnetworks(study, task, seed, mask_seed).items():
            sides = {
                "full": (model, None),
                "own": (model, mask),
                "random": (model, masks.random_mask(mask, seed=0, per_layer=True)),
                "untrained": (twin, None),
            }
            for heads, (one, gates) in sides.items():
                for pool, levels in _read(one, study, language, gates).items():
                    arrays |= {f"{heads} {language} {pool} {level}": x.numpy() for level, x in levels.items()}
        np.savez(out / "states.npz", **arrays)

    folder = store.get_or_build("states", _key(study, task, seed, mask_seed), build, code=[hidden_states])
    views: dict[tuple[str, str], Views] = {}
    with np.load(folder / "states.npz", allow_pickle=False) as arrays:
        for name in arrays:
            heads, language, pool, level = name.split(" ")
            of = views.setdefault((heads, language), {}).setdefault(pool, {})
            of[int(level)] = torch.from_numpy(arrays[name])
    return views


@lru_cache(maxsize=2)
def untrained_twin(study: Study, task: str, seed: int) -> nn.Module:
    """A model of the same shape with random weights, another one for each model."""
    return random_twin(load_model(study.model_folder(task, seed)), seed=int(store.digest([task, seed])[:8], 16))


def within_model(study: Study, task: str, seed: int, mask_seeds: Sequence[int]) -> pd.DataFrame:
    """CKA of the states of a language's sentences under two sets of heads of one model, level by level.

    Returns:
        task, seed, language (of the sentences), against ("full model" or "own subnetwork"), other (what that is
        compared with), whose (subnetwork the other is), pool, level, cka.
    """
    first, *more = mask_seeds

    def compute() -> pd.DataFrame:
        views, found = states(study, task, seed, first), subnetworks(study, task, seed, first)
        again = [subnetworks(study, task, seed, mask_seed) for mask_seed in more[:1]]
        model, rows = load_model(study.model_folder(task, seed)), []
        for language in study.languages:
            rows += _controls(language, views)
            for masks_of in again:
                view = _read(model, study, language, masks_of[language])
                rows += _rows(language, "own subnetwork", "other mask seed", language, views["own", language], view)
            for other, mask in found.items():
                if study.languages.index(other) > study.languages.index(language):  # each pair on one side's sentences
                    view = _read(model, study, language, mask)
                    for heads, against in _NAMES.items():
                        rows += _rows(language, against, "another language's", other, views[heads, language], view)
        return pd.DataFrame(rows, columns=["language", "against", "other", "whose", "pool", "level", "cka"])

    key = _key(study, task, seed, first, *more[:1])
    return stored_table("cka-within", key, compute).assign(task=task, seed=seed)


def _controls(language: str, views: dict) -> Iterator[tuple]:
    """Rows of what needs no other masks: the own subnetwork, random heads, shuffled sentences, the untrained twin."""
    full, own, random, untrained = (views[heads, language] for heads in ("full", "own", "random", "untrained"))
    yield from _rows(language, "full model", "own subnetwork", language, full, own)
    yield from _rows(language, "full model", "untrained twin", "", full, untrained)
    for name, view in (("full model", full), ("own subnetwork", own)):
        yield from _rows(language, name, "random heads", "", view, random)
        yield from _rows(language, name, "shuffled sentences", "", view, _shuffled(view))


def _rows(language: str, against: str, other: str, whose: str, x: Views, y: Views) -> Iterator[tuple]:
    for pool, level, level_b, value in _cells(x, y):
        if level == level_b:
            yield language, against, other, whose, pool, level, value


def between_models(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """As `within_model`, of two models: other fine-tuning seeds of a task, and other tasks with the same seed."""
    columns = ["task", "seed", "task_b", "language", "against", "other", "whose", "pool", "level", "cka"]
    tables = [pd.DataFrame(columns=columns)]
    for other, one, two in _other_models(tasks, seeds):
        table = _maps(study, one, two, mask_seed, _OF_TWO).query("level == level_b")
        random = table["heads_b"].map(lambda heads: ", random heads" if heads == "random" else "")
        table = table.assign(task=one[0], seed=one[1], task_b=two[0], whose=table["language"])
        tables.append(table.assign(against=table["heads"].map(_NAMES), other=f"other {other}" + random)[columns])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def level_maps(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """CKA of every level with every level, mean pooling, mean over languages and models: other, level, level_b, cka."""
    same = [_maps(study, one, one, mask_seed, _OF_ONE) for one in product(tasks, seeds)]
    names = {"full": "the same model", "own": "its own subnetwork"}
    tables = [table[table["heads_b"] == heads].assign(other=name) for heads, name in names.items() for table in same]
    for other, one, two in _other_models(tasks, seeds):
        table = _maps(study, one, two, mask_seed, _OF_TWO)
        tables.append(table[table["heads"] == "full"].assign(other=f"another {other}"))
    table = pd.concat(tables).query("pool == 'mean'")
    return table.groupby(["other", "level", "level_b"], sort=False, as_index=False)["cka"].mean()


def _other_models(tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, tuple, tuple]]:
    """What differs, and two models (task, seed): other seeds of a task, then other tasks with the same seed."""
    pairs = list(permutations(product(tasks, seeds), 2))
    yield from (("model seed", one, two) for one, two in pairs if one[0] == two[0])
    yield from (("task", one, two) for one, two in pairs if one[0] != two[0] and one[1] == two[1])


def _maps(study: Study, one: tuple, two: tuple, mask_seed: int, sides: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """CKA of all levels of two models on the same sentences: language, heads, heads_b, pool, level, level_b, cka."""

    def compute() -> pd.DataFrame:
        views, views_b = (states(study, *model, mask_seed) for model in (one, two))
        rows = [
            (language, heads, heads_b, *cell)
            for language, (heads, heads_b) in product(study.languages, sides)
            for cell in _cells(views[heads, language], views_b[heads_b, language])
        ]
        return pd.DataFrame(rows, columns=["language", "heads", "heads_b", "pool", "level", "level_b", "cka"])

    key = {"models": [_key(study, *model, mask_seed) for model in (one, two)], "sides": [list(side) for side in sides]}
    return stored_table("cka-maps", key, compute)


def _cells(x: Views, y: Views) -> Iterator[tuple[str, int, int, float]]:
    """pool, level, level of the other, CKA; nan, without the usual warning, where all sentences are alike."""
    for pool, levels in x.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            matrix = alignment.cka_matrix(list(levels.values()), list(y[pool].values()))
        for (level, level_b), value in zip(product(levels, y[pool]), matrix.flatten().tolist(), strict=True):
            yield pool, level, level_b, value


def across_languages(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Likeness of the states of translations, by pair of languages and level, beside controls.

    Returns:
        task, seed, a, b, heads ("full", "own": both languages through their own subnetworks, "shuffled": sentences
        of b in another order, for the first language only, "untrained": the twin with random weights), measure,
        level, value; mean pooling, and "CKA, first token"; "RSA-regress" at the last level, first language only.
        What is not symmetric is the mean of both directions.
    """

    def compute() -> pd.DataFrame:
        views = states(study, task, seed, mask_seed)
        for language in study.languages:
            views["shuffled", language] = _shuffled(views["full", language])
        pairs = combinations(study.languages, 2)
        rows = [(a, b, *row) for a, b in pairs for row in _rows_across(views, a, b)]
        return pd.DataFrame(rows, columns=["a", "b", "heads", "measure", "level", "value"])

    key = _key(study, task, seed, mask_seed)
    return stored_table("across-languages", key, compute).assign(task=task, seed=seed)


def _rows_across(views: dict, a: str, b: str) -> Iterator[tuple]:
    """heads, measure, level, value of one pair of languages."""
    first = next(language for _, language in views)
    for heads, side in (("full", "full"), ("shuffled", "full"), ("own", "own"), ("untrained", "untrained")):
        if heads == "shuffled" and a != first:  # a floor needs no more than the pairs of one language
            continue
        x, y = views[side, a], views[heads, b]
        names = MEASURES if side == "full" else CONTROLLED
        found = {level: likeness(one, y["mean"][level], names) for level, one in x["mean"].items()}
        yield from ((heads, name, level, values[name]) for name in names for level, values in found.items())
        if side == "full" and a == first:  # dear, so only at the last level
            yield heads, "RSA-regress", max(x["mean"]), _regressed(x["mean"][max(x["mean"])], y["mean"][max(y["mean"])])
        for level, one in x["first"].items():
            yield heads, "CKA, first token", level, likeness(one, y["first"][level])["CKA"]


def likeness(x: Tensor, y: Tensor, names: Sequence[str] = ("CKA",)) -> dict[str, float]:
    """Measures of two levels; nan, without the usual warning, where a mask without heads makes all sentences alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = {"CKA": alignment.cka(x, y)}
        if "RSA" in names:
            found["RSA"] = rsa.rsa(x, y)
        if {"SVCCA", "PWCCA"} & {*names}:
            scores = cca.canonical_scores(x, y)
            found |= {"SVCCA": scores.svcca, "PWCCA": (scores.pwcca + scores.pwcca_reversed) / 2}
        if "retrieval" in names:
            both = retrieval.retrieval_accuracy(x, y), retrieval.retrieval_accuracy(y, x)
            found["retrieval"] = sum(both) / 2
    return found


def _regressed(x: Tensor, y: Tensor) -> float:
    """Correlation of predicted and true distances to a sixth of the sentences, mean over both directions.

    Nan where fewer than 31 sentences would be left to predict.
    """
    references = len(x) // 6
    if len(x) - references <= 30:
        return float("nan")
    both = (rsa.rsa_regress(*pair, references=references).pearson for pair in ((x, y), (y, x)))
    return sum(both) / 2


@lru_cache(maxsize=128)
def subnetworks(study: Study, task: str, seed: int, mask_seed: int) -> dict[str, Tensor]:
    """Language -> its mask, looked up once in the life of the process."""
    return pruning.subnetworks(study, task, seed, mask_seed)


@lru_cache(maxsize=128)
def _key(study: Study, task: str, seed: int, *mask_seeds: int) -> dict:
    """What decides the states of a model and its subnetworks."""
    found = [subnetworks(study, task, seed, mask_seed) for mask_seed in mask_seeds]
    return {
        "model": study.model_folder(task, seed).name,
        "sentences": study.task("parallel").identity,
        "languages": list(study.languages),
        "masks": store.digest([{name: mask.int().tolist() for name, mask in some.items()} for some in found]),
    }


def _read(model: nn.Module, study: Study, language: str, gates: Tensor | None) -> Views:
    """States of a language's sentences; the first token is the same for all of them before the first layer."""
    found = hidden_states.pooled_states(model, sentences(study, language), gates=gates)
    return {pool: dict(enumerate(levels[pool == "first" :], pool == "first")) for pool, levels in found.items()}


def _shuffled(views: Views) -> Views:
    """The same states in another order of the sentences."""
    rows = len(next(iter(views["mean"].values())))
    order = torch.from_numpy(np.random.default_rng(0).permutation(rows))
    return {pool: {level: one[order] for level, one in levels.items()} for pool, levels in views.items()}
