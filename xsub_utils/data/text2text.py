"""Classification as text in and text out, for encoder-decoder models such as mT5."""

from dataclasses import replace

import pandas as pd

from xsub_utils._internal import store
from xsub_utils.data.tasks import Task

NLI = "xnli premise: {text} hypothesis:  {text_pair}"  # two blanks, as published
PAIR = "{name} sentence1: {text} sentence2: {text_pair}"
SINGLE = "{name}: {text}"


def text_to_text(task: Task) -> Task:
    """The task with the name of the class as a text to generate.

    Args:
        task: Of kind "sequence".

    Returns:
        A task of kind "text2text" and metric "exact_match", of the same name, labels, ids, languages and splits, with
        columns `id`, `language`, `text` (the input, its parts named) and `target` (the name of the class).

    Raises:
        ValueError: If the task is of another kind.

    Source: Foroutan et al. 2022, the published scripts (nli); after Raffel et al. 2020, appendix D (others).
    """
    if task.kind != "sequence":
        raise ValueError(f"task {task.name!r} is of kind {task.kind!r}; only kind 'sequence' has classes to generate")
    form = NLI if task.name == "nli" else PAIR if task.spec.pair else SINGLE
    spec = replace(task.spec, kind="text2text", metric="exact_match", pair=False)
    splits = {split: _written(rows, form, task) for split, rows in task.splits.items()}
    identity = store.digest({"task": task.identity, "form": form, "targets": task.labels})
    return replace(task, spec=spec, splits=splits, identity=identity)


def _written(rows: pd.DataFrame, form: str, task: Task) -> pd.DataFrame:
    """The examples, each with its input and its target."""
    parts = rows[list(task.spec.inputs)].to_dict("records")
    texts = [form.format(name=task.name, **part) for part in parts]
    return rows[["id", "language"]].assign(text=texts, target=[task.labels[label] for label in rows["label"]])
