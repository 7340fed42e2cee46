"""Notebook 05: which training examples a prediction relies on, in the whole model and through subnetworks.

Test examples are the same for every mask of a model, so that each comparison is one of pairs.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xsub_utils._internal import store
from xsub_utils.attribution import top_k, tracin
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb05_attribution.controls import ALL, CONDITIONS, FULL, MATCHED, OTHER, OWN, Plan, sets_of_heads
from xsub_utils.study.nb05_attribution.examples import alike, batches_of, by_length, right_share
from xsub_utils.study.study import Study, load_model, on_device, stored_table
from xsub_utils.training.finetune import checkpoints, load_finetuned

_REPEATED = ["translated", "chance", "same_label"]


class Attributed(NamedTuple):
    """TracIn scores, in cosine mode, of one set of heads.

    Attributes:
        test, train: Rows id, language and, if an example has one label, label.
        scores: (checkpoints, test, train).
    """

    test: pd.DataFrame
    train: pd.DataFrame
    scores: Tensor


def shares(
    study: Study,
    task: str,
    seed: int,
    plan: Plan,
    folder: Path | None = None,
    conditions: Sequence[str] = ALL,
    own: Mapping[str, Tensor] | None = None,
) -> pd.DataFrame:
    """Share of each training language among the most positive and most negative examples of every test example.

    Args:
        study, task, seed: Of the model that the subnetworks are of.
        plan: What is attributed to what.
        folder: Another model whose predictions are attributed; by default the same.
        conditions: Sets of heads that are wanted.
        own: Language -> its subnetwork, if not as notebook 02 finds it.

    Returns:
        task, seed, condition (of the heads, see `controls`), whose (language that they were chosen for), kept (share
        of the heads), language and id (of the test example), epoch, sign, train (language), share. Epoch 0 is the sum
        over all checkpoints; −1 the same, each weighted by the mean learning rate of its epoch; single ones are there
        of the full model, of subnetworks and of `MATCHED`.
    """
    folder = folder or study.model_folder(task, seed)
    rates = learning_rates(folder)
    parts = []
    for mask in sets_of_heads(study, task, seed, plan, folder, conditions, own):
        found = attributed(study, task, seed, mask.gates, mask.languages, plan, folder)
        views = {0: found.scores.sum(0)}
        if mask.condition in CONDITIONS:
            views[-1] = torch.einsum("cmn,c->mn", found.scores, rates)
        if mask.condition in (FULL, OWN, MATCHED):
            views |= {epoch: one for epoch, one in enumerate(found.scores, 1)}
        table = ranked(found, views, plan.top)
        if mask.condition == OWN:  # on the other languages' examples it is that control
            table["condition"] = np.where(table["language"] == mask.whose, OWN, OTHER)
        else:
            table["condition"] = mask.condition
        parts.append(table.assign(whose=mask.whose, kept=mask.kept))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def accuracies(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Score on the report split through each of these masks: task, seed, condition, whose, kept, language, score."""
    wanted = list(sets_of_heads(study, task, seed, plan))
    data, folder = study.task(task), study.model_folder(task, seed)

    def compute() -> pd.DataFrame:
        model = load_model(folder)
        rows = [
            (mask.condition, mask.whose, mask.kept, language, study.score(task, model, language, mask.gates))
            for mask in wanted
            for language in mask.languages
        ]
        return pd.DataFrame(rows, columns=["condition", "whose", "kept", "language", "score"])

    described = [[mask.condition, mask.whose, _plain(mask.gates), list(mask.languages)] for mask in wanted]
    key = {"model": folder.name, "task": data.identity, "masks": store.digest(described)}
    table = stored_table("attributed-accuracy", key, compute).assign(task=task, seed=seed)
    others = (table["condition"] == OWN) & (table["language"] != table["whose"])
    return table.assign(condition=table["condition"].mask(others, OTHER))


def by_group(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Shares when examples are ranked by the contribution of one group of parameters, in the full model.

    Returns:
        task, seed, group (of parameters, or "all"), language, id, train, share.
    """
    test, train = _examples(study, task, seed, plan)
    folder = study.model_folder(task, seed)

    def compute() -> pd.DataFrame:
        found = _influence(study, task, folder, None, test, train, by_group=True)
        scores = {"all": found.scores, **found.by_group}
        parts = [
            long_shares(test, [top_k.top_shares(one, train["language"].tolist(), count=plan.top)]).assign(group=group)
            for group, one in scores.items()
        ]
        return pd.concat(parts, ignore_index=True)

    key = _key(study, task, folder, None, test, train) | {"top": plan.top, "by_group": True}
    return stored_table("influence-groups", key, compute).assign(task=task, seed=seed)


def attributed(
    study: Study,
    task: str,
    seed: int,
    gates: Tensor | None,
    languages: Sequence[str],
    plan: Plan,
    folder: Path | None = None,
) -> Attributed:
    """Scores of the test examples of some languages, with these heads in every checkpoint; stored.

    They are those of the study's model or of another one, in `folder`, on the same examples.
    """
    folder = folder or study.model_folder(task, seed)
    test, train = _examples(study, task, seed, plan)
    test = test[test["language"].isin(languages)].reset_index(drop=True)

    def build(out) -> None:
        found = _influence(study, task, folder, gates, test, train, out=out / ".pieces")
        np.save(out / "scores.npy", found.by_checkpoint.numpy())
        shutil.rmtree(out / ".pieces")  # of use to a run that is killed

    key = _key(study, task, folder, gates, test, train)
    stored = store.get_or_build("influence", key, build, code=[tracin], resume=True)
    columns = ["id", "language", *(["label"] if "label" in test else [])]
    return Attributed(test[columns], train[columns], torch.from_numpy(np.load(stored / "scores.npy")))


def attributed_each(
    study: Study,
    task: str,
    seed: int,
    test_heads: Mapping[str, Tensor],
    train_heads: Mapping[str, Tensor],
    plan: Plan,
    folder: Path,
) -> Attributed:
    """Scores with every test and every training example through heads of its own language's; stored.

    Args:
        study, task, seed, plan: As for `attributed`.
        test_heads, train_heads: Language -> heads of its examples.
        folder: Of the model.
    """
    test, train = _examples(study, task, seed, plan)

    def build(out) -> None:
        sides = (_through(study, task, rows, heads) for rows, heads in ((train, train_heads), (test, test_heads)))
        np.save(out / "scores.npy", tracin.influence(_checkpoints(folder), *sides).by_checkpoint.numpy())

    heads = [{code: _plain(mask) for code, mask in one.items()} for one in (test_heads, train_heads)]
    key = _key(study, task, folder, None, test, train) | {"each": store.digest(heads)}
    stored = store.get_or_build("influence", key, build, code=[tracin])
    columns = ["id", "language", *(["label"] if "label" in test else [])]
    return Attributed(test[columns], train[columns], torch.from_numpy(np.load(stored / "scores.npy")))


def _through(study: Study, task: str, rows: pd.DataFrame, heads: Mapping[str, Tensor]) -> list[dict]:
    """Batches of examples, each with the heads of its language."""
    batches = batches_of(study, study.task(task), rows)
    gates = torch.stack([heads[code] for code in rows["language"]]).split([len(batch["labels"]) for batch in batches])
    return [batch | {"gates": some} for batch, some in zip(batches, gates, strict=True)]


def _influence(study: Study, task: str, folder: Path, gates, test: pd.DataFrame, train: pd.DataFrame, **options):
    sides = (batches_of(study, study.task(task), rows) for rows in (train, test))
    return tracin.influence(_checkpoints(folder), *sides, gates=gates, **options)


@lru_cache(maxsize=1)
def _checkpoints(folder: Path) -> list[nn.Module]:
    """All checkpoints of a model, which many masks are tried on."""
    return [on_device(load_finetuned(folder, epoch)) for epoch in range(1, len(checkpoints(folder)) + 1)]


def _key(study: Study, task: str, folder: Path, gates: Tensor | None, test: pd.DataFrame, train: pd.DataFrame) -> dict:
    rows = [side[["id", "language"]].to_dict("list") for side in (test, train)]
    return {
        "model": folder.name,
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
        (the same, if as many examples of each language and label were drawn at random), same_label (share of the
        examples with the test example's label; nan where examples have no single label). Empty for tasks without
        translations.
    """
    own, rows = states.subnetworks(study, task, seed, plan.mask_seeds[0]), []
    whole = attributed(study, task, seed, None, tuple(study.languages), plan)
    size = whole.train["id"].nunique()
    if size * len(study.languages) != len(whole.train):
        return pd.DataFrame(columns=["task", "seed", "condition", "language", "id", *_REPEATED])
    found = {
        code: attributed(study, task, seed, mask, tuple(study.languages), plan)
        for code, mask in own.items()
        if mask.any()
    }
    for condition, of in ((FULL, dict.fromkeys(own, whole)), (OWN, found)):
        for code, one in of.items():
            top = top_k.top_examples(one.scores.sum(0), count=plan.top)
            for place in np.flatnonzero(one.test["language"] == code):
                chosen = one.train.iloc[top[place].numpy()]
                label = one.test["label"][place] if "label" in one.test else None
                rows.append((condition, code, one.test["id"][place], *_translated(chosen, one.train, label)))
    table = pd.DataFrame(rows, columns=["condition", "language", "id", *_REPEATED])
    return table.assign(task=task, seed=seed)


def _translated(chosen: pd.DataFrame, pool: pd.DataFrame, label: Any) -> tuple[float, float, float]:
    """Share of the examples of which another one is a translation, what random meanings would give, and same label."""
    labels = chosen["label"] if "label" in chosen else pd.Series(0, chosen.index)
    pool_labels = pool["label"] if "label" in pool else pd.Series(0, pool.index)
    drawn = pd.crosstab(labels, chosen["language"])
    meanings = pool.groupby(pool_labels)["id"].nunique()
    alone = 1 - drawn.div(meanings.reindex(drawn.index), axis=0)  # that a meaning is not among those of a language
    by_chance = [
        1 - alone.loc[one].drop(language).prod() for one, language in zip(labels, chosen["language"], strict=True)
    ]
    same = float((labels == label).mean()) if label is not None else np.nan
    return float(chosen["id"].duplicated(keep=False).mean()), float(np.mean(by_chance)), same


@lru_cache(maxsize=32)
def _examples(study: Study, task: str, seed: int, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test and training examples, each sorted by length, which spares padding."""
    right = right_share(study, task, seed) if plan.correct else None
    test = alike(study, task, "test", plan.attributed_test_size, right)
    train = alike(study, task, "train", plan.attributed_train_size, None)
    kind = study.task(task).kind
    return by_length(test, kind), by_length(train, kind)


def ranked(found: Attributed, views: Mapping[int, Tensor], top: int) -> pd.DataFrame:
    """Shares of the training languages by the scores of each view: language, id, train, share, epoch, sign."""
    origins = found.train["language"].tolist()
    kinds = [(epoch, sign) for epoch in views for sign in ("positive", "negative")]
    tables = [top_k.top_shares(views[epoch], origins, count=top, lowest=sign == "negative") for epoch, sign in kinds]
    epochs, signs = (np.repeat(column, len(found.test) * tables[0].shape[1]) for column in zip(*kinds, strict=True))
    return long_shares(found.test, tables).assign(epoch=epochs, sign=signs)


def learning_rates(folder: Path) -> Tensor:
    """Mean learning rate of each epoch of a fine-tuning, as a share of the highest of these means."""
    log = pd.read_csv(folder / "log.csv")
    means = log.groupby(np.ceil(log["epoch"]).clip(lower=1))["lr"].mean()
    return torch.tensor((means / means.max()).to_numpy(), dtype=torch.float32)


def long_shares(test: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of `top_shares`, one after the other, with a row for each training language and test example."""
    origins, times = tables[0].columns.to_numpy(), len(tables) * tables[0].shape[1]
    return pd.DataFrame(
        {
            "language": np.tile(test["language"].to_numpy(), times),
            "id": np.tile(test["id"].to_numpy(), times),
            "train": np.tile(np.repeat(origins, len(test)), len(tables)),
            "share": np.concatenate([table.to_numpy().ravel(order="F") for table in tables]),
        }
    )
