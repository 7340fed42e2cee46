"""Notebook 05, TracIn scores: kept in the store, of the same examples for every set of heads of a model.

Test examples are the same for every set of heads, so that each comparison is one of pairs.
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
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.nb05_attribution.examples import alike, batches_of, by_length, right_share
from xsub_utils.study.study import MODELS, Study, on_device
from xsub_utils.training.finetune import load_finetuned
from xsub_utils.training.folders import checkpoints


class Attributed(NamedTuple):
    """TracIn scores, in cosine mode, of one set of heads.

    Attributes:
        test, train: Rows id, language and, if an example has one label, label.
        scores: (checkpoints, test, train).
    """

    test: pd.DataFrame
    train: pd.DataFrame
    scores: Tensor

    def views(self) -> dict[int, Tensor]:
        """Epoch -> (test, train) scores at its checkpoint; 0 for the sum over all checkpoints."""
        return {0: self.scores.sum(0), **dict(enumerate(self.scores, 1))}


def attributed(
    model: AttributedModel, plan: AttributionPlan, gates: Tensor | None, languages: Sequence[str]
) -> Attributed:
    """Scores of the test examples of some languages, with these heads in every checkpoint; stored."""
    test, train = examples_of(model, plan)
    test = test[test["language"].isin(languages)].reset_index(drop=True)

    def build(out: Path) -> None:
        influence = influence_of(model, test, train, gates=gates, out=out / ".pieces")
        np.save(out / "scores.npy", influence.by_checkpoint.numpy())
        shutil.rmtree(out / ".pieces")  # of use to a run that is killed

    key = scores_key(model, gates, test, train)
    return _read(store.get_or_build("influence", key, build, code=[tracin], resume=True), test, train)


def attributed_each(
    model: AttributedModel,
    plan: AttributionPlan,
    test_heads: Mapping[str, Tensor],
    train_heads: Mapping[str, Tensor],
) -> Attributed:
    """Scores with every test and every training example through heads of its own language's; stored.

    Args:
        model, plan: As for `attributed`.
        test_heads, train_heads: Language -> heads of its examples.
    """
    test, train = examples_of(model, plan)

    def build(out: Path) -> None:
        sides = (_through(model, rows, heads) for rows, heads in ((train, train_heads), (test, test_heads)))
        np.save(out / "scores.npy", tracin.influence(_checkpoints(model.folder), *sides).by_checkpoint.numpy())

    heads = [{code: plain(mask) for code, mask in side.items()} for side in (test_heads, train_heads)]
    key = scores_key(model, None, test, train) | {"each": store.digest(heads)}
    return _read(store.get_or_build("influence", key, build, code=[tracin]), test, train)


def _read(stored: Path, test: pd.DataFrame, train: pd.DataFrame) -> Attributed:
    columns = ["id", "language", *(["label"] if "label" in test else [])]
    return Attributed(test[columns], train[columns], torch.from_numpy(np.load(stored / "scores.npy")))


def influence_of(model: AttributedModel, test: pd.DataFrame, train: pd.DataFrame, **options: Any) -> tracin.Influence:
    """Influence of training on test examples over all checkpoints of a model.

    Args:
        model: Whose checkpoints.
        test, train: The examples.
        **options: Of `influence`, such as gates.
    """
    sides = (batches_of(model.study, model.study.task(model.task), rows) for rows in (train, test))
    return tracin.influence(_checkpoints(model.folder), *sides, **options)


def _through(model: AttributedModel, rows: pd.DataFrame, heads: Mapping[str, Tensor]) -> list[NumberedBatch]:
    """Batches of examples, each with the heads of its language."""
    batches = batches_of(model.study, model.study.task(model.task), rows)
    gates = torch.stack([heads[code] for code in rows["language"]])
    return [batch | {"gates": gates[batch.rows]} for batch in batches]


def _checkpoints(folder: Path) -> list[nn.Module]:
    """All checkpoints of a model, which many masks are tried on."""

    def load() -> nn.ModuleList:
        return nn.ModuleList(
            on_device(load_finetuned(folder, epoch)) for epoch in range(1, len(checkpoints(folder)) + 1)
        )

    return list(MODELS.get((folder, "checkpoints"), load).children())


def scores_key(model: AttributedModel, gates: Tensor | None, test: pd.DataFrame, train: pd.DataFrame) -> dict:
    """What decides scores through one set of heads, as the key of their artifact."""
    rows = [side[["id", "language"]].to_dict("list") for side in (test, train)]
    return {
        "model": model.folder.name,
        "task": model.study.task(model.task).identity,
        "gates": plain(gates),
        "rows": store.digest(rows),
    }


def plain(gates: Tensor | None) -> list | None:
    """Heads as numbers, for a key."""
    return None if gates is None else gates.int().tolist()


def examples_of(model: AttributedModel, plan: AttributionPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test and training examples, each sorted by length, which spares padding; the same for all models of a seed."""
    return _examples(model.study, model.task, model.seed, plan)


@lru_cache(maxsize=32)
def _examples(study: Study, task: str, seed: int, plan: AttributionPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    right = right_share(study, task, seed) if plan.correct else None
    test = alike(study, task, "test", plan.attributed_test_size, right)
    train = alike(study, task, "train", plan.attributed_train_size, None)
    kind = study.task(task).kind
    return by_length(test, kind), by_length(train, kind)


def ranked(scores: Attributed, views: Mapping[int, Tensor], top: int) -> pd.DataFrame:
    """Shares of the training languages by the scores of each view: language, id, train, share, epoch, sign.

    The sign is "positive" for the strongest proponents of a test example, "negative" for its strongest opponents.
    """
    origins = scores.train["language"].tolist()
    kinds = [(epoch, sign) for epoch in views for sign in ("positive", "negative")]
    tables = [top_k.top_shares(views[epoch], origins, count=top, lowest=sign == "negative") for epoch, sign in kinds]
    epochs, signs = (np.repeat(column, len(scores.test) * tables[0].shape[1]) for column in zip(*kinds, strict=True))
    return long_shares(scores.test, tables).assign(epoch=epochs, sign=signs)


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
