"""Examples that notebook 05 attributes from and to: equal meanings in every language, sorted by length."""

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.data.tasks import Task
from xsub_utils.evaluation.scores import predictions
from xsub_utils.models.batches import IGNORED, make_batches
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.study.study import Study, load_model
from xsub_utils.training import settings

BATCH = 64  # examples in a pass


def by_length(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The examples in the order of their numbers of words."""
    words = rows["tokens"].map(len) if kind == "token" else rows["text"].str.split().str.len()
    if kind != "token" and "text_pair" in rows:
        words = words + rows["text_pair"].str.split().str.len()
    return rows.iloc[words.argsort(kind="stable")].reset_index(drop=True)


def batches_of(study: Study, data: Task, rows: pd.DataFrame) -> list[NumberedBatch]:
    """Batches of examples, in their order."""
    length = settings.preset(study.preset, data).max_length
    return make_batches(rows, study.tokenizer(), data.kind, batch_size=BATCH, max_length=length, bucket=False)


def alike(study: Study, task: str, split: str, size: int, right: pd.Series | None) -> pd.DataFrame:
    """As many examples of every language, those first that the model has right; equal meanings where there are enough.

    Raises:
        ValueError: If a language has fewer.
    """
    rows = study.task(task).examples(split)
    rank = pd.Series(0.0, rows.index) if right is None else -rows.set_index(["language", "id"]).index.map(right)
    rows = rows.assign(rank=np.asarray(rank, dtype=float))
    worst = rows.pivot_table(index="id", columns="language", values="rank", aggfunc="max", sort=False).dropna()
    if len(worst) >= size:  # translations of each other
        chosen = worst.max(axis=1).sort_values(kind="stable").index[:size]
        return rows[rows["id"].isin(chosen)].drop(columns="rank")
    counts = rows["language"].value_counts().reindex(study.languages, fill_value=0)
    if counts.min() < size:
        raise invalid(
            f"attributed_{split}_size",
            f"at most {counts.min()}, the {split} examples of {counts.idxmin()}",
            size,
            f"take fewer, or raise {split}_size",
        )
    return rows.sort_values("rank", kind="stable").groupby("language", sort=False).head(size).drop(columns="rank")


def right_share(study: Study, task: str, seed: int) -> pd.Series:
    """(language, id) -> share of the labels of each test example that the full model has right."""
    data = study.task(task)
    model = load_model(study.model_folder(task, seed))
    metric = "accuracy" if data.kind == "sequence" else "token_accuracy"
    shares = []
    for language in study.languages:
        rows = data.examples("test", language)
        guesses, labels = predictions(model, batches_of(study, data, rows), gates=None, metric=metric)
        index = pd.MultiIndex.from_product([[language], rows["id"]], names=["language", "id"])
        shares.append(pd.Series(_right(guesses, labels).numpy(), index))
    return pd.concat(shares)


def _right(guess: Tensor, gold: Tensor) -> Tensor:
    """Share of the labels of each example."""
    guess, gold = (side.view(len(side), -1).cpu() for side in (guess, gold))
    counted = gold != IGNORED
    return ((guess == gold) & counted).sum(1) / counted.sum(1).clamp_min(1)
