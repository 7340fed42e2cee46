"""One training run: its arguments checked, its random state contained, resumed where it was killed."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from xsub_utils._internal.amounts import check_seed
from xsub_utils._internal.fingerprint import digest
from xsub_utils._internal.io import explained
from xsub_utils._internal.places import folder_to_write
from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.schema import KINDS
from xsub_utils.data.tasks import Task
from xsub_utils.models.batch_checks import positions_of
from xsub_utils.models.batches import make_batches
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.models.modes import quiet
from xsub_utils.training.claim import claimed
from xsub_utils.training.folders import is_complete
from xsub_utils.training.rows import Rows
from xsub_utils.training.settings import Settings, preset
from xsub_utils.training.start import Encoder as Encoder
from xsub_utils.training.start import identity_of, starting_model

LEARNABLE = tuple(name for name, kind in KINDS.items() if kind.metrics)


class Variant(NamedTuple):
    """How a run differs from ordinary fine-tuning.

    Attributes:
        make_trainer: As in `trainer.train`.
        context: As in `recorder.Recorder`.
    """

    make_trainer: Callable[..., Any]
    context: Callable[[str], AbstractContextManager]


def ordinary(_model: nn.Module) -> Variant:
    """Every step updates all weights."""
    from xsub_utils.training import trainer  # here, since it imports transformers

    return Variant(trainer.EpochTrainer, lambda _language: nullcontext())


def run(
    task: Task,
    encoder: Encoder,
    *,
    seed: int,
    out: str | Path,
    languages: str | Sequence[str] | None,
    settings: Settings | None,
    progress: bool,
    variant: Callable[[nn.Module], Variant] = ordinary,
    further: Mapping[str, Any] | None = None,
) -> Path:
    """Folder of a training run, which is complete.

    Args:
        task, encoder, seed, out, languages, settings, progress: As in `finetune`.
        variant: Model -> how it is trained.
        further: What decides the run beside the arguments of `finetune`, as plain values for its record.
    """
    check_task(task)
    codes, settings, out = check_languages(task, languages), check_settings(settings, task), folder_to_write(out)
    record = {
        "task": task.name,
        "kind": task.kind,
        "labels": list(task.labels),
        "data": task.identity,
        "encoder": identity_of(encoder, task),
        "languages": codes,
        "seed": check_seed(seed),
        "settings": asdict(settings),
        **(further or {}),
    }
    if not is_complete(out, record):
        with explained(out, full_only=True), _generators_kept(), quiet():
            _train(task, encoder, out, settings, progress, variant, record)
    return out


def _train(
    task: Task,
    encoder: Encoder,
    out: Path,
    settings: Settings,
    progress: bool,
    variant: Callable[[nn.Module], Variant],
    record: Mapping[str, Any],
) -> None:
    """Train; nothing is written before everything could be prepared."""
    from xsub_utils.training import trainer
    from xsub_utils.training.recorder import Recorder

    model, tokenizer = starting_model(task, encoder, record["seed"])
    longest = min(settings.max_length, positions_of(model) or settings.max_length)
    chosen = variant(model)
    rows = Rows(_training_examples(task, record["languages"]), tokenizer, task.kind, longest)
    watched = _validation_batches(task, tokenizer, settings.eval_size, longest)
    recorder = Recorder(out, digest(record), watched, str(task.metric), settings.patience, chosen.context)
    with claimed(out, record) as mine:
        if mine:
            trainer.train(model, tokenizer, rows, recorder, settings, record["seed"], progress, chosen.make_trainer)


def check_task(task: Task) -> None:
    """Raises unless there is something to learn.

    Raises:
        ValueError: If not.
    """
    if not isinstance(task, Task):
        raise invalid("task", "a Task", f"a {type(task).__name__}", "load_task and Task.from_frames give one")
    if task.kind not in LEARNABLE:
        got = f"task {task.name!r} of kind {task.kind!r}, which has nothing to learn"
        raise invalid("task", f"one of kind {', '.join(LEARNABLE)}", got)
    if "train" not in task.splits:
        raise invalid("task", "one with a split 'train'", f"task {task.name!r} with splits {', '.join(task.splits)}")


def check_languages(task: Task, languages: str | Sequence[str] | None) -> list[str]:
    """Languages to train on, as a list; all of the task for None.

    Raises:
        ValueError: If there is none, or one is not in the task.
    """
    if languages is None:
        return list(task.languages)
    codes = [languages] if isinstance(languages, str) else list(languages)
    if not codes or len(set(codes)) < len(codes):
        raise invalid("languages", "different languages, at least one", codes, "leave it out to train on all")
    return [one_of("languages", code, task.languages) for code in codes]


def check_settings(settings: Settings | None, task: Task) -> Settings:
    """The settings; for None those of `PRESETS["minibabel"]`.

    Raises:
        ValueError: If they are something else.
    """
    if settings is None:
        return preset("minibabel", task)
    if not isinstance(settings, Settings):
        raise invalid("settings", "Settings(…) or None", f"a {type(settings).__name__}")
    return settings


def _training_examples(task: Task, languages: Sequence[str]) -> pd.DataFrame:
    tables = {language: task.examples("train", language) for language in languages}
    if empty := [language for language, rows in tables.items() if rows.empty]:
        raise invalid("task", "training examples in every language to train on", f"none in {', '.join(empty)}")
    return pd.concat(tables.values(), ignore_index=True)


def _validation_batches(task: Task, tokenizer: Any, size: int, longest: int) -> dict[str, list[NumberedBatch]]:
    """Language -> batches to watch; none if nothing is to be watched or the task has no validation split."""
    if not size or "validation" not in task.splits:
        return {}
    return {
        language: make_batches(
            task.examples("validation", language).head(size),
            tokenizer,
            task.kind,
            max_length=longest,
        )
        for language in task.languages
    }


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Give back the global random generators as they were; the Trainer seeds and uses all of them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
