"""The model that a training run starts from: what it is, whether it can learn the task, and a copy to train."""

import copy
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import LABELLED
from xsub_utils.data.tasks import Task
from xsub_utils.models.encoders import decoder_only, encoder_digest, kinds_of, load_encoder

Encoder = str | Path | tuple[nn.Module, Any]  # hub id, folder or shipped name; or a model and its tokenizer
_PADDING = "set tokenizer.pad_token = tokenizer.eos_token and model.config.pad_token_id = tokenizer.pad_token_id"


def starting_model(task: Task, encoder: Encoder, seed: int) -> tuple[nn.Module, Any]:
    """Model and tokenizer to train; of a given model, a copy with the names of the classes."""
    labels = list(task.labels) if task.kind in LABELLED else None
    if isinstance(encoder, str | Path):
        return load_encoder(encoder, task.kind, labels, seed=seed)
    model, tokenizer = copy.deepcopy(encoder[0]), encoder[1]
    if labels:
        model.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
        model.config.label2id = {name: i for i, name in enumerate(labels)}  # type: ignore[union-attr]
    return model, tokenizer


def identity_of(encoder: Any, task: Task) -> str:
    """What tells an encoder from any other, wherever it lies: its class or type, and digits for all the rest.

    Raises:
        ValueError: If a pair of a model and a tokenizer cannot learn the task.
        FileNotFoundError: If there is no such folder.
    """
    return encoder_digest(encoder) if isinstance(encoder, str | Path) else _identity_of_pair(encoder, task)


def _identity_of_pair(encoder: Any, task: Task) -> str:
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
    _check_vocabulary(model, tokenizer)
    _check_padding(model, tokenizer, task.kind)
    if task.kind in LABELLED:
        _check_classes(config, task)
    return model


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises unless a model embeds every sub-word of a tokenizer."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    known = getattr(embeddings, "num_embeddings", None)
    if known is not None and len(tokenizer) > known:
        expected = f"a tokenizer of at most {known:,} sub-words, those that the model embeds"
        raise invalid("encoder", expected, f"one of {len(tokenizer):,}", "model.resize_token_embeddings adds some")


def _check_padding(model: Any, tokenizer: Any, kind: str) -> None:
    """Raises unless there is a token of padding, which the model knows where its head reads the last one before it."""
    if tokenizer.pad_token_id is None:
        raise invalid("encoder", "a tokenizer with a padding token", "one without", _PADDING)
    if kind == "sequence" and decoder_only(model.config):
        known = model.config.get_text_config().pad_token_id
        if known != tokenizer.pad_token_id:
            expected = f"a model that knows the token of padding, {tokenizer.pad_token_id}, as its head reads the last"
            raise invalid("encoder", expected, known, "set model.config.pad_token_id = tokenizer.pad_token_id")


def _check_classes(config: Any, task: Task) -> None:
    """Raises unless the head of a model has the classes of the task, or as many without names."""
    labels = list(task.labels)
    if config.num_labels != len(labels):
        got = f"a model with {config.num_labels}"
        raise invalid("encoder", f"a model with the {len(labels)} classes of task {task.name!r}", got)
    stored = [config.id2label.get(i) for i in range(config.num_labels)]
    if stored not in (labels, [f"LABEL_{i}" for i in range(config.num_labels)]):
        expected = f"a model with the classes of task {task.name!r}, {labels}"
        remedy = "rename them in model.config.id2label, or load it anew"
        if set(stored) == set(labels):
            expected, remedy = f"{expected}, in this order", "give the task the order of the model, or load it anew"
        raise invalid("encoder", expected, f"one with {stored}", remedy)
