"""One batch through a model: the labels that it predicts, and its logits for them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.generation import decoder_shift
from xsub_utils.models.architectures import reads_first_token_only
from xsub_utils.models.batch_checks import check_inputs
from xsub_utils.models.batches import IGNORED
from xsub_utils.models.encoders import decoder_only


def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Labels of a batch and the logits that predict them, on the device of the model."""
    check_labelled(batch)
    labels, inputs = split_labels(model, batch)
    assert labels is not None
    _check_padding(model, inputs)
    with _first_token_only(model):
        logits = getattr(model(**inputs), "logits", None)
    if logits is None:
        remedy = "load_encoder(…, kind, labels) gives one"
        raise invalid("model", "one with a head, which gives logits", f"a {type(model).__name__}", remedy)
    check_labels(labels, logits)
    return predicted_labels(model, labels, logits), logits


def split_labels(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Labels of a batch, if any, and the inputs without them, which spares the model a loss that nobody reads.

    The decoder of a model that generates text reads them nonetheless, one token later.
    """
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs.pop("labels", None)
    check_inputs(model, inputs)
    shift = decoder_shift(model)
    if shift and labels is not None and not inputs.keys() & {"decoder_input_ids", "decoder_inputs_embeds"}:
        inputs["decoder_input_ids"] = shift(labels)
    return labels, inputs


def predicted_labels(model: nn.Module, labels: Tensor, logits: Tensor) -> Tensor:
    """The labels that a model predicts at each position, in the shape of the labels.

    These are the labels themselves, but for decoder-only language models: they predict the next token, after the last
    one nothing. That is how transformers aligns them too.
    """
    causal = labels.dim() == 2 and _predicts_next(transformer_in(model), logits)
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) if causal else labels


def transformer_in(model: nn.Module) -> Any:
    """The model of transformers that a model is, or the first that it holds; None if there is none."""
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


def _predicts_next(model: Any, logits: Tensor) -> bool:
    """Whether logits are those of a decoder-only language model, be it one of transformers or of the user's own."""
    if model is None or getattr(model.config, "is_encoder_decoder", False):
        return False
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    return model.can_generate() or (decoder_only(model.config) and logits.shape[-1] == vocabulary)


@contextmanager
def _first_token_only(model: nn.Module) -> Iterator[None]:
    """Spares a classifier that reads the first token alone the last layer's work on the others."""
    if reads_first_token_only(model):
        classifier: Any = model
        output = classifier.base_model.encoder.layer[-1].attention.output
        with output.register_forward_pre_hook(lambda _, inputs: tuple(states[:, :1] for states in inputs)):
            yield
    else:
        yield


def check_labelled(batch: Mapping[str, Tensor]) -> None:
    """Raises unless a batch has labels.

    Raises:
        ValueError: If not.
    """
    if "labels" not in batch:
        raise invalid("batches", "dicts that hold 'labels'", f"only {sorted(batch)}")


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Raises unless labels are numbers of the classes that logits score, one for each row of logits.

    Raises:
        ValueError: If not; says what the model gives and what the batch holds.
    """
    classes, remedy = logits.shape[-1], "take batches of the model's task"
    if labels.shape != logits.shape[:-1] or labels.is_floating_point() or labels.dtype == torch.bool:
        fitting = f"numbers of classes as labels, that fit the logits of the model, of shape {tuple(logits.shape)}"
        raise invalid("batches", fitting, f"those of shape {tuple(labels.shape)} and {labels.dtype}", remedy)
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise invalid("batches", f"labels from 0 to {classes - 1}, the classes of the model", int(wrong[0]), remedy)


def check_finite(logits: Tensor) -> None:
    """Raises if a logit is nan or infinite, which no score would show.

    Raises:
        ValueError: If so.
    """
    if not logits.sum(dtype=torch.float32).isfinite():
        remedy = "look for nan in its weights: did its training diverge, or float16 overflow?"
        raise invalid("model", "finite logits", "nan or infinity", remedy)


def _check_padding(model: Any, inputs: Mapping[str, Tensor]) -> None:
    """Raises if a classifier that reads the last token before the padding would look for it in the wrong place."""
    model = transformer_in(model)
    classifies = any(kind.__name__.endswith("ForSequenceClassification") for kind in type(model).__mro__)
    if not (classifies and "input_ids" in inputs and decoder_only(model.config)):
        return
    ids, padding = inputs["input_ids"], model.config.get_text_config().pad_token_id
    padded = ids[inputs["attention_mask"] == 0] if "attention_mask" in inputs else ids[:0]
    if (padding is None and len(ids) > 1) or (padded != padding).any():
        expected = "config.pad_token_id to be the token that pads the batches"
        raise invalid("model", expected, padding, "set model.config.pad_token_id = tokenizer.pad_token_id")
