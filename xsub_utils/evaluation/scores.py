"""Scores of a model, whole or through a subnetwork, and of every subnetwork on every language."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import one_of
from xsub_utils.evaluation.generation import generate, matches
from xsub_utils.evaluation.spans import span_f1
from xsub_utils.heads.gates import head_gates
from xsub_utils.models.batches import IGNORED

Batches = Iterable[Mapping[str, Tensor]]
METRICS = ("accuracy", "f1", "token_accuracy", "perplexity", "exact_match")
_CLS_READERS = {"BertPooler", "ElectraClassificationHead", "RobertaClassificationHead", "XLMRobertaClassificationHead"}


def evaluate(
    model: nn.Module, batches: Batches, *, metric: str = "accuracy", gates: Tensor | None = None, part: str = "encoder"
) -> float:
    """Score of a model on labelled batches.

    Args:
        model: Anything whose output has `.logits`; for "f1" its `config.id2label` names the BIO tags.
        batches: Dicts with `labels`; the score does not depend on how examples are divided into batches.
        metric: "accuracy" (one label per example), "f1" (spans), "token_accuracy", "perplexity" or "exact_match" (of
            the text that an encoder-decoder generates, see `generation`).
        gates: Head mask or gates, `(layers, heads)`; None leaves the model whole.
        part: Whose heads these are: "encoder", "decoder" or "cross", as in `gates.head_shape`.

    Returns:
        A share in [0, 1]; for "perplexity" a number of at least 1, lower is better.

    Raises:
        ValueError: If the metric is unknown, does not fit the labels or the model, or there is nothing to score.
    """
    outputs, labels = predictions(model, batches, gates=gates, metric=metric, part=part)
    return score(outputs, labels, metric, label_names(model))


def predictions(
    model: nn.Module, batches: Batches, *, gates: Tensor | None = None, metric: str = "accuracy", part: str = "encoder"
) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and labels of each batch, as `score` takes them.

    Args:
        model: As for `evaluate`; left in the mode (training or evaluation) in which it was.
        batches, gates, part: As for `evaluate`.
        metric: Decides what a prediction is, see `predict`; for "exact_match" it is what the model generates.

    Returns:
        A list of predictions and a list of labels, one tensor per batch.
    """
    outputs, labels = [], []
    with eval_mode(model), torch.no_grad(), nullcontext() if gates is None else head_gates(model, gates, part=part):
        for batch in batches:
            output, gold = _predicted(model, batch, metric)
            outputs.append(output)
            labels.append(gold)
    return outputs, labels


def _predicted(model: nn.Module, batch: Mapping[str, Tensor], metric: str) -> tuple[Tensor, Tensor]:
    """Predictions and labels of a batch; of a text to generate, the model sees the input alone."""
    if metric != "exact_match":
        gold, logits = forward(model, batch)
        return predict(logits, gold, metric), gold
    _check_labelled(batch)
    gold = batch["labels"].to(next(model.parameters()).device)
    _check_labels([gold], metric)
    return generate(model, batch, gold.shape[1]), gold


def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Labels of a batch and the logits for it, on the device of the model."""
    _check_labelled(batch)
    labels, inputs = split_labels(model, batch)
    with _first_token_only(model):
        return labels, model(**inputs).logits


def split_labels(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Labels of a batch, if any, and the inputs without them, which spares the model a loss that nobody reads.

    The decoder of a model that generates text reads them nonetheless, one token later.
    """
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs.pop("labels", None)
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift and labels is not None and not inputs.keys() & {"decoder_input_ids", "decoder_inputs_embeds"}:
        inputs["decoder_input_ids"] = shift(labels)
    return labels, inputs


@contextmanager
def _first_token_only(model: nn.Module) -> Iterator[None]:
    """Spares a classifier that reads the first token alone the last layer's work on the others."""
    if reads_first_token_only(model):
        output = model.base_model.encoder.layer[-1].attention.output
        with output.register_forward_pre_hook(lambda _, inputs: tuple(part[:, :1] for part in inputs)):
            yield
    else:
        yield


def reads_first_token_only(model: nn.Module) -> bool:
    """Whether this is one of transformers' own classifiers of that kind, its head not exchanged."""
    kind = type(model)
    if not (kind.__module__.startswith("transformers.") and kind.__name__.endswith("ForSequenceClassification")):
        return False
    readers = getattr(model.base_model, "pooler", None), getattr(model, "classifier", None)
    return any(type(reader).__name__ in _CLS_READERS for reader in readers)


def predict(logits: Tensor, labels: Int[Tensor, "..."], metric: str) -> Tensor:
    """Predictions for one batch, in the shape of its labels.

    Args:
        logits: `(examples, classes)` or `(examples, tokens, classes)`.
        labels: `(examples,)` or `(examples, tokens)`; -100 where nothing is predicted.
        metric: One of `METRICS` but "exact_match", for which no logits are read that have seen the target.

    Returns:
        The most probable classes; for "perplexity" the negative log likelihoods of the labels in nats, 0 for -100.
    """
    if one_of("metric", metric, METRICS) == "exact_match":
        raise ValueError("metric 'exact_match' is of generated text, not of logits: ask `predictions` for it")
    if metric != "perplexity":
        return logits.argmax(-1)
    counted = labels != IGNORED
    nll = torch.zeros(labels.shape, device=labels.device)
    nll[counted] = nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return nll


def score(
    predictions: Sequence[Tensor],
    labels: Sequence[Tensor],
    metric: str,
    label_names: Sequence[str] | None = None,
) -> float:
    """Score of predictions, batch by batch from `predict`.

    Args:
        predictions: One tensor per batch.
        labels: One tensor per batch, in the same shapes.
        metric: One of `METRICS`.
        label_names: BIO tags in the order of the label ids; only "f1" needs them.

    Returns:
        The score over all batches together, see `evaluate`.

    Raises:
        ValueError: If the metric is unknown, does not fit the labels, or no label counts.
    """
    _check_labels(labels, one_of("metric", metric, METRICS))
    count = _count(labels)
    if metric == "f1":
        return span_f1(predictions, labels, label_names or [])
    if metric == "perplexity":
        return perplexity(predictions, labels)
    if metric == "exact_match":
        return float(torch.cat([matches(*pair) for pair in zip(predictions, labels, strict=True)]).double().mean())
    return sum(int((guess == gold).sum()) for guess, gold in zip(predictions, labels, strict=True)) / count


def perplexity(nll: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """Perplexity over the masked tokens: exp(total negative log likelihood / number of masked tokens).

    Args:
        nll: Negative log likelihoods in nats, one tensor per batch, 0 where the label is -100.
        labels: One tensor per batch.
    """
    total = sum(float(part.sum(dtype=torch.float64)) for part in nll)
    return float(np.exp(total / _count(labels)))


def chance_level(labels: Iterable, metric: str) -> float:
    """Score of the best constant prediction.

    Args:
        labels: Label ids: a column of examples, of ints or of lists of ints, or the tensors of batches; for
            "exact_match" the column of targets, or the tensors.
        metric: One of `METRICS`.

    Returns:
        The share of the most frequent label for accuracies, of the most frequent target for "exact_match"; 0 for
        "f1" (no span is ever found); for "perplexity" the exponential of the entropy of the labels.

    Raises:
        ValueError: If the metric is unknown or there is no label.
    """
    if metric == "exact_match":
        counted = np.array(list(_targets(labels)), dtype=str)
    else:
        ids = np.concatenate([np.atleast_1d(part).ravel() for part in labels] or [[]])
        counted = ids[ids != IGNORED]
    _, counts = np.unique(counted, return_counts=True)
    if not len(counts):
        raise ValueError("labels: there is no label to count")
    shares = counts / counts.sum()
    if one_of("metric", metric, METRICS) == "perplexity":
        return float(np.exp(-(shares * np.log(shares)).sum()))
    return 0.0 if metric == "f1" else float(shares.max())


def cross_evaluate(
    model: nn.Module,
    batches: Mapping[str, Sequence[Mapping[str, Tensor]]],
    *,
    masks: Mapping[str, Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None],
    metric: str = "accuracy",
    part: str = "encoder",
) -> pd.DataFrame:
    """Score of every mask on every language; the model is left as it was.

    Args:
        model, part: As for `evaluate`.
        masks: Name → mask; None stands for the whole model.
        batches: Language → a list of its batches, which is gone through once per mask.
        metric: One of `METRICS`.

    Returns:
        A table with one row per mask and one column per language.

    Source: the mask-by-language matrices of Foroutan et al. 2022, figure 4, here without retraining.
    """
    rows = {
        name: {
            language: evaluate(model, data, metric=metric, gates=mask, part=part) for language, data in batches.items()
        }
        for name, mask in tqdm(masks.items(), desc="cross-evaluation", delay=5, leave=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="mask", columns="language")


def difference_to_own(table: pd.DataFrame) -> pd.DataFrame:
    """Difference of every score to that of the column's own mask, so that the diagonal is 0.

    Args:
        table: From `cross_evaluate`, with a row for every column; further rows are controls.

    Raises:
        KeyError: If a language has no mask of its own.
    """
    missing = [language for language in table.columns if language not in table.index]
    if missing:
        raise KeyError(f"table: no row for the own mask of {missing}; rows are {list(table.index)}")
    return table - pd.Series({language: table.at[language, language] for language in table.columns})


def label_names(model: nn.Module) -> list[str] | None:
    """Names of the classes of a model in the order of their ids; None if it keeps none."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return None if names is None else [names[index] for index in sorted(names)]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A model without dropout inside the `with` block; every module's mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _targets(labels: Iterable) -> Iterator[str]:
    """Targets as they stand in a column, or the token ids of each as they stand in a batch."""
    for part in labels:
        rows = [part] if isinstance(part, str) else [row[row != IGNORED].tolist() for row in part]
        yield from (str(row) for row in rows if row)


def _check_labelled(batch: Mapping[str, Tensor]) -> None:
    if "labels" not in batch:
        raise ValueError(f"batches must hold 'labels' to be scored, got only {sorted(batch)}")


def _check_labels(labels: Sequence[Tensor], metric: str) -> None:
    """Raise unless the labels are of the form that the metric scores."""
    if not labels:
        raise ValueError("batches: there is no batch to score")
    fitting = METRICS[:1] if labels[0].dim() == 1 else METRICS[1:]
    if metric not in fitting:
        shape = tuple(labels[0].shape)
        raise ValueError(f"metric {metric!r} does not fit labels of shape {shape}: use {' or '.join(fitting)}")


def _count(labels: Sequence[Tensor]) -> int:
    """Number of labels that count."""
    count = sum(int((part != IGNORED).sum()) for part in labels)
    if not count:
        raise ValueError("labels: every label is -100, there is nothing to score")
    return count
