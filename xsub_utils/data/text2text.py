"""Classification as text in and text out, for encoder-decoder models such as mT5."""

from dataclasses import replace

import pandas as pd

from xsub_utils._internal import store
from xsub_utils._internal.validation import invalid, wrong_type
from xsub_utils.data.schema import is_builtin
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

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.text_to_text(xs.load_task("nli", ["qaa"], sizes={"train": 4}))
        >>> task.kind, task.metric
        ('text2text', 'exact_match')
        >>> set(task.examples("train")["target"]) <= {"entailment", "neutral", "contradiction"}
        True

    Source: Foroutan et al. 2022, the published scripts (nli); after Raffel et al. 2020, appendix D (others).
    """
    if not isinstance(task, Task):
        raise wrong_type("task", "a Task, as load_task gives it", repr(task))
    if task.kind != "sequence":
        raise invalid(f"task {task.name!r}", "kind 'sequence', which has classes to generate", f"kind {task.kind!r}")
    form = NLI if is_builtin(task.spec, "nli") else PAIR if task.spec.pair else SINGLE
    spec = replace(task.spec, kind="text2text", metric="exact_match", pair=False)
    splits = {split: _written(rows, form, task) for split, rows in task.splits.items()}
    identity = store.digest({"task": task.identity, "form": form, "targets": task.labels})
    return replace(task, spec=spec, splits=splits, identity=identity)


def _written(rows: pd.DataFrame, form: str, task: Task) -> pd.DataFrame:
    """The examples, each with its input and its target."""
    parts = rows[list(task.spec.inputs)].to_dict("records")
    texts = [form.format(name=task.name, **part) for part in parts]
    return rows[["id", "language"]].assign(text=texts, target=[task.labels[label] for label in rows["label"]])
