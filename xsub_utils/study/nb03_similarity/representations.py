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
from xsub_utils._internal.validation import invalid
from xsub_utils.heads import masks
from xsub_utils.models.batches import make_batches
from xsub_utils.models.encoders import random_twin
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.similarity import hidden_states
from xsub_utils.similarity.cka import cka_matrix
from xsub_utils.study.conditions import Compared, Heads, LevelMap, Measure
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity.likeness import CONTROLLED, MEASURES, likeness, regressed
from xsub_utils.study.study import MODELS, Study, load_model, stored_table

SENTENCES, LEAST, BATCH = 240, 8, 60
_OF_TWO = ((Heads.FULL, Heads.FULL), (Heads.OWN, Heads.OWN), (Heads.OWN, Heads.RANDOM))  # of one and another model
_OF_ONE = ((Heads.FULL, Heads.FULL), (Heads.FULL, Heads.OWN))
_OTHER_MODEL = {  # what differs between two models, and heads of the other one -> what the first is compared with
    (LevelMap.ANOTHER_MODEL_SEED, Heads.FULL): Compared.OTHER_MODEL_SEED,
    (LevelMap.ANOTHER_MODEL_SEED, Heads.OWN): Compared.OTHER_MODEL_SEED,
    (LevelMap.ANOTHER_MODEL_SEED, Heads.RANDOM): Compared.OTHER_MODEL_SEED_RANDOM,
    (LevelMap.ANOTHER_TASK, Heads.FULL): Compared.OTHER_TASK,
    (LevelMap.ANOTHER_TASK, Heads.OWN): Compared.OTHER_TASK,
    (LevelMap.ANOTHER_TASK, Heads.RANDOM): Compared.OTHER_TASK_RANDOM,
}
Levels = dict[int, Tensor]  # level, 0 for the embeddings -> (sentences, features)
Views = dict[str, Levels]  # pool -> levels


def parallel(study: Study) -> dict[str, list[str]]:
    """Language -> sentences of the test split, row by row the same meanings, the shortest first.

    Raises:
        ValueError: If the languages have fewer than eight sentences in common.
    """
    rows = study.task("parallel").examples("test")
    texts = rows.pivot(index="id", columns="language", values="text")[list(study.languages)].dropna()
    if len(texts) < LEAST:
        raise invalid(
            "parallel text",
            f"at least {LEAST} sentences with equal ids in every language",
            f"{len(texts)} that the languages have in common",
            "representations are compared on translations",
        )
    texts = texts.sample(min(SENTENCES, len(texts)), random_state=0)
    order = texts.map(lambda text: len(text.split())).sum(axis=1).argsort(kind="stable")  # spares padding
    return texts.iloc[order].to_dict("list")


@lru_cache(maxsize=64)
def sentences(study: Study, language: str) -> list[NumberedBatch]:
    """Batches of the parallel sentences, in their order."""
    texts = pd.DataFrame({"text": parallel(study)[language]})
    return make_batches(texts, study.tokenizer(), "text", batch_size=BATCH, bucket=False)


def states(study: Study, task: str, seed: int, mask_seed: int) -> dict[tuple[str, str], Views]:
    """(heads, language) -> states of its sentences, stored.

    Of `Heads`: "full", "own", those of its subnetwork, "random", as many at random in each layer, and "untrained", all
    heads of a model of the same shape with random weights.
    """

    def build(out: Path) -> None:
        model, twin = load_model(study.model_folder(task, seed)), untrained_twin(study, task, seed)
        arrays: dict[str, np.ndarray] = {}
        for language, mask in subnetworks(study, task, seed, mask_seed).items():
            sides = {
                Heads.FULL: (model, None),
                Heads.OWN: (model, mask),
                Heads.RANDOM: (model, masks.random_mask(mask, seed=0, per_layer=True)),
                Heads.UNTRAINED: (twin, None),
            }
            for heads, (read, gates) in sides.items():
                for pool, levels in _read(read, study, language, gates).items():
                    arrays |= {f"{heads} {language} {pool} {level}": x.numpy() for level, x in levels.items()}
        np.savez(out / "states.npz", **arrays)  # type: ignore[arg-type]

    folder = store.get_or_build("states", _key(study, task, seed, mask_seed), build, code=[hidden_states])
    views: dict[tuple[str, str], Views] = {}
    with np.load(folder / "states.npz", allow_pickle=False) as arrays:
        for name in arrays:
            heads, language, pool, level = name.split(" ")
            levels = views.setdefault((heads, language), {}).setdefault(pool, {})
            levels[int(level)] = torch.from_numpy(arrays[name])
    return views


def untrained_twin(study: Study, task: str, seed: int) -> nn.Module:
    """A model of the same shape with random weights, another one for each model; the last few stay in memory."""
    folder, draw = study.model_folder(task, seed), int(store.digest([task, seed])[:8], 16)
    return MODELS.get(("untrained", folder, draw), lambda: random_twin(load_model(folder), seed=draw))


def within_model(study: Study, task: str, seed: int, mask_seeds: Sequence[int]) -> pd.DataFrame:
    """CKA of the states of a language's sentences under two sets of heads of one model, level by level.

    Returns:
        task, seed, language (of the sentences), against ("full" or "own"), other (of `Compared`: what that is compared
        with), whose (subnetwork the other is), pool, level, cka.
    """
    first, *more = mask_seeds

    def compute() -> pd.DataFrame:
        views, own = states(study, task, seed, first), subnetworks(study, task, seed, first)
        again = [subnetworks(study, task, seed, mask_seed) for mask_seed in more[:1]]
        model, rows = load_model(study.model_folder(task, seed)), list[tuple]()
        for language in study.languages:
            rows += _controls(language, views)
            for own_again in again:
                view = _read(model, study, language, own_again[language])
                rows += _rows(language, Heads.OWN, Compared.OTHER_MASK_SEED, language, views[Heads.OWN, language], view)
            for other, mask in own.items():
                if study.languages.index(other) > study.languages.index(language):  # each pair on one side's sentences
                    view = _read(model, study, language, mask)
                    for heads in (Heads.FULL, Heads.OWN):
                        rows += _rows(language, heads, Compared.OTHER_LANGUAGE, other, views[heads, language], view)
        return pd.DataFrame(rows, columns=["language", "against", "other", "whose", "pool", "level", "cka"])

    key = _key(study, task, seed, first, *more[:1])
    return stored_table("cka-within", key, compute).assign(task=task, seed=seed)


def _controls(language: str, views: dict) -> Iterator[tuple]:
    """Rows of what needs no other masks: the own subnetwork, random heads, shuffled sentences, the untrained twin."""
    read = {heads: views[heads, language] for heads in (Heads.FULL, Heads.OWN, Heads.RANDOM, Heads.UNTRAINED)}
    yield from _rows(language, Heads.FULL, Compared.OWN, language, read[Heads.FULL], read[Heads.OWN])
    yield from _rows(language, Heads.FULL, Compared.UNTRAINED, "", read[Heads.FULL], read[Heads.UNTRAINED])
    for heads in (Heads.FULL, Heads.OWN):
        yield from _rows(language, heads, Compared.RANDOM_HEADS, "", read[heads], read[Heads.RANDOM])
        yield from _rows(language, heads, Compared.SHUFFLED_SENTENCES, "", read[heads], _shuffled(read[heads]))


def _rows(language: str, against: str, other: str, whose: str, x: Views, y: Views) -> Iterator[tuple]:
    for pool, level, level_b, value in _cells(x, y):
        if level == level_b:
            yield language, against, other, whose, pool, level, value


def between_models(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """As `within_model`, of two models: other fine-tuning seeds of a task, and other tasks with the same seed."""
    columns = ["task", "seed", "task_b", "language", "against", "other", "whose", "pool", "level", "cka"]
    tables = [pd.DataFrame(columns=columns)]
    for differs, model, model_b in _other_models(tasks, seeds):
        table = _maps(study, model, model_b, mask_seed, _OF_TWO).query("level == level_b")
        other = [_OTHER_MODEL[differs, Heads(heads)] for heads in table["heads_b"]]
        table = table.assign(task=model[0], seed=model[1], task_b=model_b[0], whose=table["language"])
        tables.append(table.assign(against=table["heads"], other=other)[columns])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def level_maps(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """CKA of every level with every level, mean pooling, mean over languages and models: other, level, level_b, cka."""
    same = [_maps(study, model, model, mask_seed, _OF_ONE) for model in product(tasks, seeds)]
    names = {Heads.FULL: LevelMap.SAME_MODEL, Heads.OWN: LevelMap.ITS_OWN}
    tables = [table[table["heads_b"] == heads].assign(other=name) for heads, name in names.items() for table in same]
    for differs, model, model_b in _other_models(tasks, seeds):
        table = _maps(study, model, model_b, mask_seed, _OF_TWO)
        tables.append(table[table["heads"] == Heads.FULL].assign(other=differs))
    table = pd.concat(tables).query("pool == 'mean'")
    return table.groupby(["other", "level", "level_b"], sort=False, as_index=False)["cka"].mean()


def _other_models(
    tasks: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[LevelMap, tuple[str, int], tuple[str, int]]]:
    """What differs, and two models (task, seed): other seeds of a task, then other tasks with the same seed."""
    pairs = list(permutations(product(tasks, seeds), 2))
    yield from ((LevelMap.ANOTHER_MODEL_SEED, a, b) for a, b in pairs if a[0] == b[0])
    yield from ((LevelMap.ANOTHER_TASK, a, b) for a, b in pairs if a[0] != b[0] and a[1] == b[1])


def _maps(
    study: Study,
    model: tuple[str, int],
    model_b: tuple[str, int],
    mask_seed: int,
    sides: Sequence[tuple[str, str]],
) -> pd.DataFrame:
    """CKA of all levels of two models on the same sentences: language, heads, heads_b, pool, level, level_b, cka."""

    def compute() -> pd.DataFrame:
        views, views_b = (states(study, *of, mask_seed) for of in (model, model_b))
        rows = [
            (language, heads, heads_b, *cell)
            for language, (heads, heads_b) in product(study.languages, sides)
            for cell in _cells(views[heads, language], views_b[heads_b, language])
        ]
        return pd.DataFrame(rows, columns=["language", "heads", "heads_b", "pool", "level", "level_b", "cka"])

    models = [_key(study, *of, mask_seed) for of in (model, model_b)]
    key = {"models": models, "sides": [list(side) for side in sides]}
    return stored_table("cka-maps", key, compute)


def _cells(x: Views, y: Views) -> Iterator[tuple[str, int, int, float]]:
    """pool, level, level of the other, CKA; nan, without the usual warning, where all sentences are alike."""
    for pool, levels in x.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            matrix = cka_matrix(list(levels.values()), list(y[pool].values()))
        for (level, level_b), value in zip(product(levels, y[pool]), matrix.flatten().tolist(), strict=True):
            yield pool, level, level_b, value


def across_languages(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Likeness of the states of translations, by pair of languages and level, beside controls.

    Returns:
        task, seed, a, b, heads ("full", "own": both languages through their own subnetworks, "shuffled": sentences
        of b in another order, for the first language only, "untrained": the twin with random weights), measure (of
        `Measure`), level, value; mean pooling, and "cka_first"; "rsa_regress" at the last level, first language
        only. What is not symmetric is the mean of both directions.
    """

    def compute() -> pd.DataFrame:
        views = states(study, task, seed, mask_seed)
        for language in study.languages:
            views[Heads.SHUFFLED, language] = _shuffled(views[Heads.FULL, language])
        pairs = combinations(study.languages, 2)
        rows = [(a, b, *row) for a, b in pairs for row in _rows_across(views, a, b)]
        return pd.DataFrame(rows, columns=["a", "b", "heads", "measure", "level", "value"])

    key = _key(study, task, seed, mask_seed)
    return stored_table("across-languages", key, compute).assign(task=task, seed=seed)


def _rows_across(views: dict, a: str, b: str) -> Iterator[tuple]:
    """heads, measure, level, value of one pair of languages."""
    first = next(language for _, language in views)
    for heads in (Heads.FULL, Heads.SHUFFLED, Heads.OWN, Heads.UNTRAINED):
        if heads == Heads.SHUFFLED and a != first:  # a floor needs no more than the pairs of one language
            continue
        side = Heads.FULL if heads == Heads.SHUFFLED else heads
        x, y = views[side, a], views[heads, b]
        measures = MEASURES if side == Heads.FULL else CONTROLLED
        by_level = {level: likeness(side_a, y["mean"][level], measures) for level, side_a in x["mean"].items()}
        yield from ((heads, name, level, values[name]) for name in measures for level, values in by_level.items())
        if side == Heads.FULL and a == first:  # dear, so only at the last level
            last = max(x["mean"])
            yield heads, Measure.RSA_REGRESS, last, regressed(x["mean"][last], y["mean"][last])
        for level, side_a in x["first"].items():
            yield heads, Measure.CKA_FIRST, level, likeness(side_a, y["first"][level])[Measure.CKA]


@lru_cache(maxsize=128)
def subnetworks(study: Study, task: str, seed: int, mask_seed: int) -> dict[str, Tensor]:
    """Language -> its mask, looked up once in the life of the process."""
    return pruning.subnetworks(study, task, seed, mask_seed)


@lru_cache(maxsize=128)
def _key(study: Study, task: str, seed: int, *mask_seeds: int) -> dict:
    """What decides the states of a model and its subnetworks."""
    own = [subnetworks(study, task, seed, mask_seed) for mask_seed in mask_seeds]
    return {
        "model": study.model_folder(task, seed).name,
        "sentences": study.task("parallel").identity,
        "languages": list(study.languages),
        "masks": store.digest([{name: mask.int().tolist() for name, mask in named.items()} for named in own]),
    }


def _read(model: nn.Module, study: Study, language: str, gates: Tensor | None) -> Views:
    """States of a language's sentences; the first token is the same for all of them before the first layer."""
    pooled = hidden_states.pooled_states(model, sentences(study, language), gates=gates)
    return {pool: dict(enumerate(levels[pool == "first" :], pool == "first")) for pool, levels in pooled.items()}


def _shuffled(views: Views) -> Views:
    """The same states in another order of the sentences."""
    rows = len(next(iter(views["mean"].values())))
    order = torch.from_numpy(np.random.default_rng(0).permutation(rows))
    return {pool: {level: states[order] for level, states in levels.items()} for pool, levels in views.items()}
