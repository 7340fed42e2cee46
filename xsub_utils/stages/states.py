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

from xsub_utils import alignment, masks, representations, store
from xsub_utils.batches import make_batches
from xsub_utils.encoders import random_twin
from xsub_utils.stages import pruning
from xsub_utils.study import Study, load_model, stored_table

SENTENCES, LEAST, BATCH = 240, 8, 60
POOLS = ("first", "mean")
MEASURES = {  # of the states of two levels; what is not symmetric is averaged over both directions
    "CKA": alignment.cka,
    "RSA": representations.rsa,
    "SVCCA": representations.svcca,
    "PWCCA": lambda x, y: (representations.pwcca(x, y) + representations.pwcca(y, x)) / 2,
    "retrieval": lambda x, y: (representations.retrieval_accuracy(x, y) + representations.retrieval_accuracy(y, x)) / 2,
}
CONTROLLED = ("CKA", "retrieval")  # what is also measured in subnetworks and the untrained twin
_SIDES = (  # of two models: what is compared with what
    ("full model", "full", "full", ""),
    ("own subnetwork", "own", "own", ""),
    ("own subnetwork", "own", "random", ", random heads"),
)
Levels = dict[int, Tensor]  # level, 0 for the embeddings -> (sentences, features)
Views = dict[str, Levels]  # pool -> levels


def parallel(study: Study) -> dict[str, list[str]]:
    """Language -> sentences of the report split, row by row the same meanings, the shortest first.

    Raises:
        ValueError: If the languages have fewer than eight sentences in common.
    """
    rows = study.task("parallel").examples("report")
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
    found = pruning.subnetworks(study, task, seed, mask_seed)
    key = _key(study, task, seed) | {"masks": _plain(found)}

    def build(out: Path) -> None:
        model, arrays = load_model(study.model_folder(task, seed)), {}
        twin = random_twin(model, int(store.digest([task, seed])[:8], 16))  # another one for each model
        for language, mask in found.items():
            sides = {
                "full": (model, None),
                "own": (model, mask),
                "random": (model, _random(mask)),
                "untrained": (twin, None),
            }
            for heads, (one, gates) in sides.items():
                for pool, levels in _read(one, study, language, gates).items():
                    arrays |= {f"{heads} {language} {pool} {level}": x.numpy() for level, x in levels.items()}
        np.savez(out / "states.npz", **arrays)

    folder = store.get_or_build("states", key, build, code=[representations])
    views: dict[tuple[str, str], Views] = {}
    with np.load(folder / "states.npz", allow_pickle=False) as arrays:
        for name in arrays:
            heads, language, pool, level = name.split(" ")
            of = views.setdefault((heads, language), {}).setdefault(pool, {})
            of[int(level)] = torch.from_numpy(arrays[name])
    return views


def within_model(study: Study, task: str, seed: int, mask_seeds: Sequence[int]) -> pd.DataFrame:
    """CKA of the states of a language's sentences under two sets of heads of one model, level by level.

    Returns:
        task, seed, language (of the sentences), against ("full model" or "own subnetwork"), other (what that is
        compared with), whose (subnetwork the other is), pool, level, cka.
    """
    first, *more = mask_seeds
    views, found = states(study, task, seed, first), pruning.subnetworks(study, task, seed, first)
    again = [pruning.subnetworks(study, task, seed, mask_seed) for mask_seed in more[:1]]
    key = _key(study, task, seed) | {"masks": [_plain(some) for some in (found, *again)]}

    def compute() -> pd.DataFrame:
        model, rows = load_model(study.model_folder(task, seed)), []
        for language in study.languages:
            rows += _controls(language, views)
            for masks_of in again:
                view = _read(model, study, language, masks_of[language])
                rows += _rows(language, "own subnetwork", "other data seed", language, views["own", language], view)
            for other, mask in found.items():
                if study.languages.index(other) > study.languages.index(language):  # each pair on one side's sentences
                    view = _read(model, study, language, mask)
                    for heads, against in (("full", "full model"), ("own", "own subnetwork")):
                        rows += _rows(language, against, "another language's", other, views[heads, language], view)
        return pd.DataFrame(rows, columns=["language", "against", "other", "whose", "pool", "level", "cka"])

    return stored_table("cka-within", key, compute).assign(task=task, seed=seed)


def _controls(language: str, views: dict) -> Iterator[tuple]:
    """Rows of what needs no other masks: the own subnetwork, random heads, shuffled sentences, the untrained twin."""
    full, own, random, untrained = (views[heads, language] for heads in ("full", "own", "random", "untrained"))
    yield from _rows(language, "full model", "own subnetwork", language, full, own)
    yield from _rows(language, "full model", "untrained twin", "", full, untrained)
    for name, view in (("full model", full), ("own subnetwork", own)):
        yield from _rows(language, name, "random heads", "", view, random)
        yield from _rows(language, name, "shuffled sentences", "", view, _shuffled(view))


def between_models(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """As `within_model`, of two models: other fine-tuning seeds of a task, and other tasks with the same seed."""
    rows = []
    views = {(task, seed): states(study, task, seed, mask_seed) for task, seed in product(tasks, seeds)}
    for one, two in permutations(views, 2):
        if (one[0] == two[0]) != (one[1] == two[1]):
            other = "other model seed" if one[0] == two[0] else "other task"
            for language, (against, heads, heads_b, suffix) in product(study.languages, _SIDES):
                x, y = views[one][heads, language], views[two][heads_b, language]
                rows += [(*one, two[0], *row) for row in _rows(language, against, other + suffix, language, x, y)]
    columns = ["task", "seed", "task_b", "language", "against", "other", "whose", "pool", "level", "cka"]
    return pd.DataFrame(rows, columns=columns)


def level_maps(study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seed: int) -> pd.DataFrame:
    """CKA of every level with every level, mean pooling, mean over languages and models: other, level, level_b, cka."""
    views = {(task, seed): states(study, task, seed, mask_seed) for task, seed in product(tasks, seeds)}
    sides = [("the same model", (one, "full"), (one, "full")) for one in views]
    sides += [("its own subnetwork", (one, "full"), (one, "own")) for one in views]
    for one, two in permutations(views, 2):
        if (one[0] == two[0]) != (one[1] == two[1]):
            other = "another model seed" if one[0] == two[0] else "another task"
            sides.append((other, (one, "full"), (two, "full")))
    tables = [
        _map(views[one][heads, language]["mean"], views[two][heads_b, language]["mean"]).assign(other=other)
        for other, (one, heads), (two, heads_b) in sides
        for language in study.languages
    ]
    return pd.concat(tables).groupby(["other", "level", "level_b"], sort=False, as_index=False)["cka"].mean()


def across_languages(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Likeness of the states of translations, by pair of languages and level, beside controls.

    Returns:
        task, seed, a, b, heads ("full", "own": both languages through their own subnetworks, "shuffled": sentences
        of b in another order, for the first language only, "untrained": the twin with random weights), measure,
        level, value; mean pooling, and "CKA, first token"; "RSA-regress" at the last level, first language only.
    """
    found = pruning.subnetworks(study, task, seed, mask_seed)

    def compute() -> pd.DataFrame:
        views = states(study, task, seed, mask_seed)
        for language in study.languages:
            views["shuffled", language] = _shuffled(views["full", language])
        pairs = combinations(study.languages, 2)
        rows = [(a, b, *row) for a, b in pairs for row in _rows_across(views, a, b)]
        return pd.DataFrame(rows, columns=["a", "b", "heads", "measure", "level", "value"])

    key = _key(study, task, seed) | {"masks": _plain(found)}
    return stored_table("across-languages", key, compute).assign(task=task, seed=seed)


def _rows_across(views: dict, a: str, b: str) -> Iterator[tuple]:
    """heads, measure, level, value of one pair of languages."""
    first = next(language for _, language in views)
    for heads, side in (("full", "full"), ("shuffled", "full"), ("own", "own"), ("untrained", "untrained")):
        if heads == "shuffled" and a != first:  # a floor needs no more than the pairs of one language
            continue
        x, y = views[side, a], views[heads, b]
        for name in MEASURES if side == "full" else CONTROLLED:
            for level in x["mean"]:
                yield heads, name, level, _likeness(name, x["mean"][level], y["mean"][level])
        if side == "full" and a == first:  # dear, so only at the last level
            yield heads, "RSA-regress", max(x["mean"]), _regressed(x["mean"][max(x["mean"])], y["mean"][max(y["mean"])])
        for level in x["first"]:
            yield heads, "CKA, first token", level, _likeness("CKA", x["first"][level], y["first"][level])


def _key(study: Study, task: str, seed: int) -> dict:
    return {
        "model": study.model_folder(task, seed).name,
        "sentences": study.task("parallel").identity,
        "languages": list(study.languages),
    }


def _random(mask: Tensor) -> Tensor:
    return masks.random_mask(mask, 0, per_layer=True)


def _plain(found: dict[str, Tensor]) -> dict[str, list]:
    return {name: mask.int().tolist() for name, mask in found.items()}


def _read(model: nn.Module, study: Study, language: str, gates: Tensor | None) -> Views:
    """States of a language's sentences; the first token is the same for all of them before the first layer."""
    found = representations.pooled_states(model, sentences(study, language), gates, POOLS)
    return {pool: dict(enumerate(levels[pool == "first" :], pool == "first")) for pool, levels in found.items()}


def _shuffled(views: Views) -> Views:
    """The same states in another order of the sentences."""
    rows = len(next(iter(views["mean"].values())))
    order = torch.from_numpy(np.random.default_rng(0).permutation(rows))
    return {pool: {level: one[order] for level, one in levels.items()} for pool, levels in views.items()}


def _rows(language: str, against: str, other: str, whose: str, x: Views, y: Views) -> Iterator[tuple]:
    for pool, levels in x.items():
        for level, one in levels.items():
            yield language, against, other, whose, pool, level, _likeness("CKA", one, y[pool][level])


def _likeness(measure: str, x: Tensor, y: Tensor) -> float:
    """Of two levels; nan, without the usual warning, where a mask without heads makes all sentences alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return MEASURES[measure](x, y)


def _regressed(x: Tensor, y: Tensor) -> float:
    """Correlation of predicted and true distances to a sixth of the sentences, mean over both directions.

    Nan where fewer than 31 sentences would be left to predict.
    """
    references = len(x) // 6
    if len(x) - references <= 30:
        return float("nan")
    return (
        representations.rsa_regress(x, y, references).pearson + representations.rsa_regress(y, x, references).pearson
    ) / 2


def _map(x: Levels, y: Levels) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # as above
        matrix = alignment.cka_matrix(list(x.values()), list(y.values()))
    index = pd.MultiIndex.from_product([x, y], names=["level", "level_b"])
    return pd.Series(matrix.flatten().numpy(), index, name="cka").reset_index()
