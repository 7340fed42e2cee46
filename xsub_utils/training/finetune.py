"""Fine-tuning of an encoder on a task, jointly over its languages or on some, with a checkpoint per epoch."""

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xsub_utils._internal.io import write_json
from xsub_utils._internal.validation import one_of
from xsub_utils.data.tasks import Task
from xsub_utils.models.batches import make_batches
from xsub_utils.models.encoders import load_encoder
from xsub_utils.models.encoders import quiet as quiet
from xsub_utils.training.settings import Settings, preset

METRICS = {
    "sequence": ("accuracy",),
    "token": ("f1", "token_accuracy"),
    "mlm": ("perplexity", "token_accuracy"),
    "text2text": ("exact_match",),
}
RECORD = "finetuning.json"
RESUME = "_resume"  # what a run needs to go on, there until it is complete


def finetune(
    task: Task,
    encoder: str | Path | tuple[nn.Module, object],
    *,
    seed: int,
    out: str | Path,
    languages: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Path:
    """Folder of an encoder fine-tuned on a task, with one loadable checkpoint per epoch.

    A run that was killed goes on after its last complete epoch when called again with the same arguments, and
    ends with the same weights as if nothing had happened; a complete run is left as it is.

    Args:
        task: Its train split is learnt, its stop split watched (for the learning curves and `patience`).
        encoder: As for `load_encoder`, or a model and its tokenizer, which stay as they are.
        seed: Decides the weights of a new head, the order of the examples, dropout and masking.
        out: Folder to write; it belongs to this run alone.
        languages: To train on; by default all of the task, jointly. All are scored.
        settings: By default those of `PRESETS["minibabel"]` for the task.
        progress: Show a bar on stderr.

    Returns:
        `out`, with `epoch-1`, `epoch-2`, … (model and tokenizer, see `checkpoints` and `load_finetuned`),
        `log.csv` (step, epoch, loss in nats, lr) and `scores.csv` (epoch, language, score on the stop split).

    Raises:
        ValueError: If a language is not in the task, nothing can be learnt from it, its metric does not fit
            its kind, the given model has other classes, or `out` holds another run.
    """
    return run(task, encoder, seed, out, languages, settings, progress)


def checkpoints(folder: str | Path) -> list[Path]:
    """Folders of the checkpoints of a fine-tuning, first epoch first.

    Raises:
        FileNotFoundError: If there are none.
    """
    found = sorted(Path(folder).glob("epoch-*"), key=lambda path: int(path.name.split("-")[1]))
    if not found:
        raise FileNotFoundError(f"folder {str(folder)!r} holds no epoch-1, …: it is not, or not yet, a fine-tuning")
    return found


def load_finetuned(folder: str | Path, epoch: int | None = None):
    """The model and its tokenizer after an epoch of fine-tuning.

    Args:
        folder: From `finetune`.
        epoch: Number of the epoch, from 1; the last by default.

    Raises:
        FileNotFoundError: If the folder holds no checkpoints.
        ValueError: If there is no such epoch.
    """
    found = {int(path.name.removeprefix("epoch-")): path for path in checkpoints(folder)}
    if epoch is not None and epoch not in found:
        raise ValueError(f"epoch={epoch} does not exist; {str(folder)!r} holds epochs {', '.join(map(str, found))}")
    record = json.loads((Path(folder) / RECORD).read_text())
    return load_encoder(found[max(found) if epoch is None else epoch], record["kind"], record["labels"])


class Ways(NamedTuple):
    """How a run differs from ordinary fine-tuning.

    Attributes:
        make: As in `trainer.train`.
        within: As in `trainer.Recorder`.
    """

    make: Callable[..., object]
    within: Callable[[str], AbstractContextManager]


def ordinary(_model: nn.Module) -> Ways:
    """Every step updates all weights."""
    from xsub_utils.training import trainer  # here, since it imports transformers

    return Ways(trainer.EpochTrainer, lambda _language: nullcontext())


def run(
    task: Task,
    encoder,
    seed: int,
    out: str | Path,
    languages: str | Sequence[str] | None,
    settings: Settings | None,
    progress: bool,
    ways: Callable[[nn.Module], Ways] = ordinary,
    more: Mapping[str, object] | None = None,
) -> Path:
    """`finetune`, in the ways that are given for its model; `more` goes into the record that tells it from others."""
    _check_task(task)
    languages = _languages(task, languages)
    settings = settings or preset("minibabel", task)
    if not isinstance(settings, Settings):
        raise ValueError(f"settings: a {type(settings).__name__}; Settings(…), or preset(…), would be right")
    out = Path(out)
    record = {
        "task": task.name,
        "kind": task.kind,
        "labels": list(task.labels),
        "data": task.identity,
        "encoder": str(encoder) if isinstance(encoder, str | Path) else _weights_digest(encoder[0]),
        "languages": languages,
        "seed": seed,
        "settings": asdict(settings),
        **(more or {}),
    }
    if not _is_complete(out, record):
        with _generators_kept(), quiet():
            model, tokenizer = _model(task, encoder, seed)
            chosen = ways(model)
            write_json(out / RECORD, record)
            _train(task, model, tokenizer, seed, out, languages, settings, progress, chosen)
        _finish(out, record)
    return out


def _train(
    task: Task,
    model: nn.Module,
    tokenizer,
    seed: int,
    out: Path,
    languages: list[str],
    settings: Settings,
    progress: bool,
    ways: Ways,
) -> None:
    from xsub_utils.training import trainer

    rows = trainer.Rows(_training_examples(task, languages), tokenizer, task.kind, settings.max_length)
    watched = _stop_batches(task, tokenizer, settings)
    recorder = trainer.Recorder(out, out / RESUME, watched, task.metric, settings.patience, ways.within)
    trainer.train(model, tokenizer, rows, recorder, settings, seed, progress, ways.make)


def _model(task: Task, encoder, seed: int) -> tuple[nn.Module, object]:
    """Model and tokenizer to train; of a given model, a copy with the names of the classes."""
    labels = [] if task.kind == "text2text" else list(task.labels)
    if isinstance(encoder, str | Path):
        return load_encoder(encoder, task.kind, labels or None, seed=seed)
    model, tokenizer = encoder
    if labels and model.config.num_labels != len(labels):
        raise ValueError(
            f"encoder: the model has {model.config.num_labels} classes, task {task.name!r} has {len(labels)}"
        )
    model = copy.deepcopy(model)
    if labels:
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: i for i, name in enumerate(labels)}
    return model, tokenizer


def _weights_digest(model: nn.Module) -> str:
    """Tells a model that was given from any other: its class and sixteen hexadecimal digits for its weights."""
    found = hashlib.sha256()
    for name, values in model.state_dict().items():
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{type(model).__name__} {found.hexdigest()[:16]}"


def _training_examples(task: Task, languages: Sequence[str]) -> pd.DataFrame:
    tables = {language: task.examples("train", language) for language in languages}
    empty = [language for language, rows in tables.items() if rows.empty]
    if empty:
        raise ValueError(f"task {task.name!r} has no training examples in {', '.join(empty)}: its train split is empty")
    return pd.concat(tables.values(), ignore_index=True)


def _stop_batches(task: Task, tokenizer, settings: Settings) -> dict[str, list[dict[str, Tensor]]]:
    """Language → batches to watch; none if nothing is to be watched or the task has no stop split."""
    if not settings.eval_size or "validation" not in task.splits:
        return {}
    return {
        language: make_batches(
            task.examples("validation", language).head(settings.eval_size),
            tokenizer,
            task.kind,
            max_length=settings.max_length,
        )
        for language in task.languages
    }


def _is_complete(out: Path, record: dict) -> bool:
    """Whether the run is complete already.

    Raises:
        ValueError: If `out` holds another run.
    """
    file = out / RECORD
    found = json.loads(file.read_text()) if file.exists() else {}
    complete = bool(found.pop("epochs", None))
    other = [key for key in {**found, **record} if found and found.get(key) != record.get(key)]
    if other:
        was, now = ({key: run.get(key) for key in other} for run in (found, record))
        raise ValueError(f"out={str(out)!r} holds another run, with {was} instead of {now}; choose a new folder")
    return complete


def _finish(out: Path, record: dict) -> None:
    """Mark the run as complete, then drop what it would have needed to go on."""
    write_json(out / RECORD, record | {"epochs": len(checkpoints(out))})
    shutil.rmtree(out / RESUME, ignore_errors=True)


def _languages(task: Task, languages: str | Sequence[str] | None) -> list[str]:
    if languages is None:
        return list(task.languages)
    chosen = [languages] if isinstance(languages, str) else list(languages)
    if not chosen:
        raise ValueError("languages is empty; name one at least, or leave it out to train on all")
    return [one_of("languages", language, task.languages) for language in chosen]


def _check_task(task: Task) -> None:
    if task.kind not in METRICS:
        raise ValueError(
            f"task {task.name!r} is of kind {task.kind!r}, which has nothing to learn; see {list(METRICS)}"
        )
    if task.metric not in METRICS[task.kind]:
        raise ValueError(
            f"task {task.name!r}: metric {task.metric!r} does not fit kind {task.kind!r}: "
            f"use {' or '.join(METRICS[task.kind])}"
        )


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Give back the global random generators as they were; the Trainer seeds and uses all of them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
