"""One training run: its arguments checked, its random state contained, resumed where it was killed."""

import copy
import hashlib
import inspect
import json
import operator
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

from xsub_utils._internal.io import write_json
from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.schema import KINDS, LABELLED
from xsub_utils.data.tasks import Task
from xsub_utils.models.batches import make_batches
from xsub_utils.models.encoders import decoder_only, kinds_of, load_encoder
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.models.modes import quiet
from xsub_utils.training.folders import RECORD, RESUME, finish, is_complete
from xsub_utils.training.rows import Rows
from xsub_utils.training.settings import Settings, preset

Encoder = str | Path | tuple[nn.Module, Any]  # hub id, folder or shipped name; or a model and its tokenizer
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
    codes, settings, out = check_languages(task, languages), check_settings(settings, task), Path(out)
    record = {
        "task": task.name,
        "kind": task.kind,
        "labels": list(task.labels),
        "data": task.identity,
        "encoder": str(encoder) if isinstance(encoder, str | Path) else _identity(encoder, task),
        "languages": codes,
        "seed": check_seed(seed),
        "settings": asdict(settings),
        **(further or {}),
    }
    if not is_complete(out, record):
        with _generators_kept(), quiet():
            _train(task, encoder, out, settings, progress, variant, record)
        finish(out, record)
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

    model, tokenizer = _start(task, encoder, record["seed"])
    chosen = variant(model)
    rows = Rows(_training_examples(task, record["languages"]), tokenizer, task.kind, settings.max_length)
    watched = _validation_batches(task, tokenizer, settings)
    recorder = Recorder(out, out / RESUME, watched, str(task.metric), settings.patience, chosen.context)
    write_json(out / RECORD, record)
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


def check_seed(seed: int) -> int:
    """The seed as a plain number.

    Raises:
        ValueError: If it is no integer, or below 0.
    """
    if not hasattr(seed, "__index__") or isinstance(seed, bool) or operator.index(seed) < 0:
        raise invalid("seed", "an integer of at least 0", repr(seed))
    return operator.index(seed)


def _checked_pair(encoder: Any, task: Task) -> nn.Module:
    """The model of a pair, if it can learn the task.

    Raises:
        ValueError: If it is no pair of a model and a tokenizer, or the model has no head for the task, or one with
            other classes.
    """
    if not (isinstance(encoder, tuple) and len(encoder) == 2 and isinstance(encoder[0], nn.Module)):
        expected = "a hub id, a folder, a shipped name, or a pair (model, tokenizer)"
        raise invalid("encoder", expected, f"a {type(encoder).__name__}")
    model, tokenizer = encoder
    name, config = type(model).__name__, getattr(model, "config", None)
    if config is None or not callable(tokenizer):
        got = f"a pair of {name} and {type(tokenizer).__name__}"
        raise invalid("encoder", "a model of transformers and its tokenizer", got, "load_encoder gives both")
    takes = inspect.signature(model.forward).parameters
    kinds = kinds_of(model)
    if (kinds and task.kind not in kinds) or not ("labels" in takes or "kwargs" in takes):
        remedy = f"load_encoder(…, {task.kind!r}) gives one"
        raise invalid("encoder", f"a model with a head for kind {task.kind!r}", f"a {name}", remedy)
    _check_inputs(model, tokenizer, task.kind)
    if task.kind in LABELLED:
        _check_classes(config, task)
    return model


def _check_inputs(model: Any, tokenizer: Any, kind: str) -> None:
    """Raises unless a model embeds every sub-word of a tokenizer, and can tell padding where it has to."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    known = getattr(embeddings, "num_embeddings", None)
    if known is not None and len(tokenizer) > known:
        expected = f"a tokenizer of at most {known:,} sub-words, those that the model embeds"
        raise invalid("encoder", expected, f"one of {len(tokenizer):,}", "model.resize_token_embeddings adds some")
    if kind == "sequence" and decoder_only(model.config) and model.config.get_text_config().pad_token_id is None:
        remedy = "set model.config.pad_token_id = tokenizer.pad_token_id"
        raise invalid("encoder", "a model that knows the token of padding, as its head reads the last", None, remedy)


def _check_classes(config: Any, task: Task) -> None:
    """Raises unless the head of a model has the classes of the task, or as many without names."""
    if config.num_labels != len(task.labels):
        got = f"a model with {config.num_labels}"
        raise invalid("encoder", f"a model with the {len(task.labels)} classes of task {task.name!r}", got)
    stored = [config.id2label.get(i) for i in range(config.num_labels)]
    if stored not in (list(task.labels), [f"LABEL_{i}" for i in range(config.num_labels)]):
        expected = f"a model with the classes of task {task.name!r}, {list(task.labels)}"
        raise invalid(
            "encoder", expected, f"one with {stored}", "rename them in model.config.id2label, or load it anew"
        )


def _start(task: Task, encoder: Encoder, seed: int) -> tuple[nn.Module, Any]:
    """Model and tokenizer to train; of a given model, a copy with the names of the classes."""
    labels = list(task.labels) if task.kind in LABELLED else None
    if isinstance(encoder, str | Path):
        return load_encoder(encoder, task.kind, labels, seed=seed)
    model, tokenizer = copy.deepcopy(encoder[0]), encoder[1]
    if labels:
        model.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
        model.config.label2id = {name: i for i, name in enumerate(labels)}  # type: ignore[union-attr]
    return model, tokenizer


def _identity(encoder: Any, task: Task) -> str:
    """Tells a pair that was given from any other: the model's class and sixteen hexadecimal digits for all the rest."""
    model: Any = _checked_pair(encoder, task)
    tokenizer = encoder[1]
    named = ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id")  # what trains nothing else
    settings = {name: value for name, value in model.config.to_dict().items() if name not in named}
    settings["tokenizer"] = [type(tokenizer).__name__, tokenizer.model_max_length, tokenizer.special_tokens_map]
    if tokenizer.is_fast:  # its truncation and padding change with every call
        steps = json.loads(tokenizer.backend_tokenizer.to_str())
        settings["steps"] = {name: step for name, step in steps.items() if name not in ("truncation", "padding")}
    else:
        settings["vocabulary"] = tokenizer.get_vocab()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, values in model.state_dict().items():
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{type(model).__name__} {digest.hexdigest()[:16]}"


def _training_examples(task: Task, languages: Sequence[str]) -> pd.DataFrame:
    tables = {language: task.examples("train", language) for language in languages}
    if empty := [language for language, rows in tables.items() if rows.empty]:
        raise invalid("task", "training examples in every language to train on", f"none in {', '.join(empty)}")
    return pd.concat(tables.values(), ignore_index=True)


def _validation_batches(task: Task, tokenizer: Any, settings: Settings) -> dict[str, list[NumberedBatch]]:
    """Language -> batches to watch; none if nothing is to be watched or the task has no validation split."""
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
