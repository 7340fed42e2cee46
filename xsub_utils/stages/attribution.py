"""Notebook 05: which training examples a prediction relies on, in the whole model and through subnetworks.

Test examples are the same for every mask of a model, so that each comparison is one of pairs.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xsub_utils import masks, store, tracin
from xsub_utils.evaluate import evaluate
from xsub_utils.finetune import checkpoints, load_finetuned
from xsub_utils.stages import pruning, states
from xsub_utils.stages.examples import alike, batches_of, by_length, right_share
from xsub_utils.study import Study, load_model, stored_table

FULL, OWN, OTHER = "full model", "own subnetwork", "another language's"
SHUFFLED, RANDOM, MATCHED = "shuffled within layers", "random heads", "random heads, as accurate"
SEARCHED, ANY = "own search, half the size", "random heads, any size"
CONDITIONS = (FULL, OWN, OTHER, SHUFFLED, RANDOM, MATCHED)
_DRAWS, _STEP = 4, 4  # random masks per size, and heads between sizes, among which one is sought that is as accurate


class Plan(NamedTuple):
    """What is attributed to what.

    Attributes:
        train_size: Training examples per language that predictions are attributed to, out of those learnt from.
        test_size: Test examples per language; the same meanings in all of them, where the task is parallel.
        top: How many of the highest, and of the lowest, scores of a test example count.
        correct: Take those test examples that the full model has right in every language.
        sizes: Shares of the heads that random masks of any size keep.
    """

    train_size: int
    test_size: int
    top: int
    correct: bool = True
    sizes: Sequence[float] = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)


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


class Attributed(NamedTuple):
    """TracIn scores, in cosine mode, of one set of heads.

    Attributes:
        test, train: Rows id, language.
        scores: (checkpoints, test, train).
    """

    test: pd.DataFrame
    train: pd.DataFrame
    scores: Tensor


def shares(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Share of each training language among the most positive and most negative examples of every test example.

    Returns:
        task, seed, condition (of the heads, see `CONDITIONS`, `SEARCHED` and `ANY`), whose (language that they were
        chosen for), kept (share of the heads), language and id (of the test example), epoch (0 for all of them
        together; single ones only of the first two conditions and `MATCHED`), sign, train (language), share.
    """
    parts = []
    for mask in _masks(study, task, seed, plan):
        found = attributed(study, task, seed, mask.gates, mask.languages, plan)
        table = _shares(found, plan.top, epochs=mask.condition in (FULL, OWN, MATCHED))
        if mask.condition == OWN:  # on the other languages' examples it is that control
            table["condition"] = np.where(table["language"] == mask.whose, OWN, OTHER)
        else:
            table["condition"] = mask.condition
        parts.append(table.assign(whose=mask.whose, kept=mask.kept))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def accuracies(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Score on the report split through each of these masks: task, seed, condition, whose, kept, language, score."""
    wanted = list(_masks(study, task, seed, plan))
    data, folder = study.task(task), study.model_folder(task, seed)

    def compute() -> pd.DataFrame:
        model = load_model(folder)
        rows = [
            (mask.condition, mask.whose, mask.kept, language, _score(study, task, model, mask.gates, language))
            for mask in wanted
            for language in mask.languages
        ]
        return pd.DataFrame(rows, columns=["condition", "whose", "kept", "language", "score"])

    described = [[mask.condition, mask.whose, _plain(mask.gates), list(mask.languages)] for mask in wanted]
    key = {"model": folder.name, "task": data.identity, "masks": store.digest(described)}
    table = stored_table("attributed-accuracy", key, compute).assign(task=task, seed=seed)
    others = (table["condition"] == OWN) & (table["language"] != table["whose"])
    return table.assign(condition=table["condition"].mask(others, OTHER))


def _score(study: Study, task: str, model, gates: Tensor | None, language: str) -> float:
    return evaluate(model, study.batches(task, "report", language), study.task(task).metric, gates)


def by_group(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Shares when examples are ranked by the contribution of one group of parameters, in the full model.

    Returns:
        task, seed, group (of parameters, or "all"), language, id, train, share.
    """
    test, train = _examples(study, task, seed, plan)

    def compute() -> pd.DataFrame:
        found = _influence(study, task, seed, None, test, train, by_group=True)
        scores = {"all": found.scores, **found.by_group}
        parts = [
            long_shares(test, tracin.top_shares(one, train["language"].tolist(), plan.top)).assign(group=group)
            for group, one in scores.items()
        ]
        return pd.concat(parts, ignore_index=True)

    key = _key(study, task, seed, None, test, train) | {"top": plan.top, "by_group": True}
    return stored_table("influence-groups", key, compute).assign(task=task, seed=seed)


def attributed(
    study: Study, task: str, seed: int, gates: Tensor | None, languages: Sequence[str], plan: Plan
) -> Attributed:
    """Scores of the test examples of some languages, with these heads in every checkpoint; stored."""
    test, train = _examples(study, task, seed, plan)
    test = test[test["language"].isin(languages)].reset_index(drop=True)

    def build(out) -> None:
        found = _influence(study, task, seed, gates, test, train, out=out / ".pieces")
        np.save(out / "scores.npy", found.by_checkpoint.numpy())

    folder = store.get_or_build(
        "influence", _key(study, task, seed, gates, test, train), build, code=[tracin], resume=True
    )
    columns = ["id", "language"]
    return Attributed(test[columns], train[columns], torch.from_numpy(np.load(folder / "scores.npy")))


def _influence(study: Study, task: str, seed: int, gates, test: pd.DataFrame, train: pd.DataFrame, **options):
    sides = (batches_of(study, study.task(task), rows) for rows in (train, test))
    return tracin.influence(_checkpoints(study.model_folder(task, seed)), *sides, gates, **options)


@lru_cache(maxsize=1)
def _checkpoints(folder: Path) -> list[nn.Module]:
    """All checkpoints of a model, which many masks are tried on."""
    return [
        load_finetuned(folder, epoch)[0].to("cuda" if torch.cuda.is_available() else "cpu")
        for epoch in range(1, len(checkpoints(folder)) + 1)
    ]


def _key(study: Study, task: str, seed: int, gates: Tensor | None, test: pd.DataFrame, train: pd.DataFrame) -> dict:
    rows = [side[["id", "language"]].to_dict("list") for side in (test, train)]
    return {
        "model": study.model_folder(task, seed).name,
        "task": study.task(task).identity,
        "gates": _plain(gates),
        "rows": store.digest(rows),
    }


def _plain(gates: Tensor | None) -> list | None:
    return None if gates is None else gates.int().tolist()


def translations(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """How many of a test example's most positive training examples have a translation among them.

    Languages that repeat each other's evidence would bring the same meanings to the top; languages that add to it,
    others.

    Returns:
        task, seed, condition (full model, own subnetwork), language, id, translated (share of the examples), chance
        (the same, if as many examples of each language were drawn at random). Empty for tasks without translations.
    """
    own, rows = states.subnetworks(study, task, seed, 0), []
    whole = attributed(study, task, seed, None, tuple(study.languages), plan)
    size = whole.train["id"].nunique()
    if size * len(study.languages) != len(whole.train):
        return pd.DataFrame(columns=["task", "seed", "condition", "language", "id", "translated", "chance"])
    found = {
        code: attributed(study, task, seed, mask, tuple(study.languages), plan)
        for code, mask in own.items()
        if mask.any()
    }
    for condition, of in ((FULL, dict.fromkeys(own, whole)), (OWN, found)):
        for code, one in of.items():
            top = tracin.top_examples(one.scores.sum(0), plan.top)
            for place in np.flatnonzero(one.test["language"] == code):
                chosen = one.train.iloc[top[place].numpy()]
                rows.append((condition, code, one.test["id"][place], *_translated(chosen, size)))
    table = pd.DataFrame(rows, columns=["condition", "language", "id", "translated", "chance"])
    return table.assign(task=task, seed=seed)


def _translated(chosen: pd.DataFrame, meanings: int) -> tuple[float, float]:
    """Share of the examples of which another one is a translation, and what random meanings would give."""
    alone = 1 - chosen["language"].value_counts() / meanings  # that a meaning is not among those of a language
    by_chance = [1 - alone.drop(language).prod() for language in chosen["language"]]
    return float(chosen["id"].duplicated(keep=False).mean()), float(np.mean(by_chance))


@lru_cache(maxsize=32)
def _examples(study: Study, task: str, seed: int, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test and training examples, each sorted by length, which spares padding."""
    right = right_share(study, task, seed) if plan.correct else None
    test = alike(study, task, "report", plan.test_size, right)
    train = alike(study, task, "train", plan.train_size, None)
    kind = study.task(task).kind
    return by_length(test, kind), by_length(train, kind)


def _masks(study: Study, task: str, seed: int, plan: Plan) -> Iterator[Mask]:
    """Every set of heads that is looked at; controls on the language that they were made for.

    A subnetwork without any head is left out, with its controls: there is nothing to attribute through.
    """
    languages, own = tuple(study.languages), states.subnetworks(study, task, seed, 0)
    yield Mask(FULL, "", None, languages)
    for language, mask in own.items():
        if not mask.any():
            continue
        yield Mask(OWN, language, mask, languages)
        yield Mask(SHUFFLED, language, masks.shuffle_mask(mask, "within", 0), (language,))
        yield Mask(RANDOM, language, masks.random_mask(mask, 0), (language,))
        yield Mask(MATCHED, language, as_accurate(study, task, seed, language), (language,))
        yield from _searched(study, task, seed, language, mask)
    for number, share in enumerate(plan.sizes):
        like = torch.zeros_like(mask).flatten()
        like[: round(share * len(like))] = True
        yield Mask(ANY, "", masks.random_mask(like.view_as(mask), number), languages)


def _searched(study: Study, task: str, seed: int, language: str, own: Tensor) -> Iterator[Mask]:
    """The mask of the language's search with about half as many heads as its subnetwork."""
    steps = pruning.search(study, task, seed, language, 0).trajectory
    smaller = [step.mask for step in steps if 0 < step.kept < int(own.sum())]
    if smaller:
        half = min(smaller, key=lambda mask: abs(2 * int(mask.sum()) - int(own.sum())))
        yield Mask(SEARCHED, language, half, (language,))


def as_accurate(study: Study, task: str, seed: int, language: str) -> Tensor:
    """Random heads, at least as many as in a language's subnetwork, whose score is nearest to that of the subnetwork.

    Scores are those on the stop split, as in the search itself; of equally near masks the one with fewest heads.
    """
    data, own = study.task(task), states.subnetworks(study, task, seed, 0)[language]
    folder = study.model_folder(task, seed)

    def build(out) -> None:
        model, stop = load_model(folder), study.batches(task, "stop", language, 0)
        target, tried = evaluate(model, stop, data.metric, own), []
        for kept in range(int(own.sum()), own.numel(), _STEP):
            like = torch.zeros_like(own).flatten()
            like[:kept] = True
            drawn = [masks.random_mask(like.view_as(own), number) for number in range(_DRAWS)]
            tried += [(abs(evaluate(model, stop, data.metric, mask) - target), kept, mask) for mask in drawn]
        nearest = min(tried, key=lambda one: one[:2])[2]
        masks.save_masks(out / "mask.npz", {"mask": nearest}, {})

    key = {
        "model": folder.name,
        "task": data.identity,
        "language": language,
        "own": own.int().tolist(),
        "tried": [_STEP, _DRAWS, study.stop_size],
    }
    return masks.load_masks(store.get_or_build("as-accurate", key, build) / "mask.npz")[0]["mask"]


def _shares(found: Attributed, top: int, epochs: bool) -> pd.DataFrame:
    """language, id, epoch, sign, train, share."""
    origins, rows = found.train["language"].tolist(), []
    views = {0: found.scores.sum(0)}
    if epochs:
        views |= {epoch: one for epoch, one in enumerate(found.scores, 1)}
    for epoch, scores in views.items():
        for sign, lowest in (("positive", False), ("negative", True)):
            table = long_shares(found.test, tracin.top_shares(scores, origins, top, lowest))
            rows.append(table.assign(epoch=epoch, sign=sign))
    return pd.concat(rows, ignore_index=True)


def long_shares(test: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A table of `top_shares` with one row for each test example and training language."""
    wide = test[["language", "id"]].reset_index(drop=True).join(table.add_prefix("→"))
    found = wide.melt(["language", "id"], var_name="train", value_name="share")
    return found.assign(train=found["train"].str.removeprefix("→"))
