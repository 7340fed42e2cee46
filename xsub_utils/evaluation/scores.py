"""Scores of a model, full or through a subnetwork, and of every subnetwork on every language."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.forward import check_finite, check_labelled, forward
from xsub_utils.evaluation.generation import generate
from xsub_utils.evaluation.metrics import label_count, losses, metric_named
from xsub_utils.evaluation.spans import check_iob2
from xsub_utils.heads.gates import check_for_all, head_gates
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.models.batches import IGNORED
from xsub_utils.models.example_order import example_order
from xsub_utils.models.modes import eval_mode, require_model

Batches = Iterable[Mapping[str, Tensor]]


def evaluate(
    model: nn.Module, batches: Batches, *, metric: str = "accuracy", gates: Tensor | None = None, part: str = "encoder"
) -> float:
    """Score of a model on labelled batches.

    Args:
        model: Anything whose output has `.logits`; for "f1" its `config.id2label` names the IOB2 tags.
        batches: Dicts with `labels`; the score does not depend on how examples are divided into batches.
        metric: "accuracy" (one label per example), "f1" (spans), "token_accuracy", "perplexity" (of a decoder-only
            language model: each token after those before it) or "exact_match" (of the text that an encoder-decoder
            generates, see `generation`).
        gates: Head mask or gates, `(layers, heads)`; None is the full model.
        part: Whose heads these are: "encoder", "decoder" or "cross", as in `head_shape`.

    Returns:
        A share in [0, 1]; for "perplexity" a number of at least 1, lower is better.

    Raises:
        ValueError: If the metric is unknown, does not fit the labels or the model, or there is nothing to score.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("mlm", ["qaa"], sizes={"train": 2, "test": 8})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
        >>> batches = xs.make_batches(task.examples("test", "qaa"), tokenizer, task.kind)
        >>> heads = xs.head_shape(model)
        >>> full = xs.evaluate(model, batches, metric="perplexity")
        >>> full < xs.evaluate(model, batches, metric="perplexity", gates=torch.zeros(heads))
        True
    """
    require_model(model)
    chosen, names = metric_named(metric), label_names(model)
    if chosen.iob2:  # before the model has run over everything
        check_iob2(names)
    outputs, labels = _by_batch(model, listed_batches(batches), metric, gates, part)
    return score(outputs, labels, metric, names)


def predictions(
    model: nn.Module, batches: Batches, *, metric: str = "accuracy", gates: Tensor | None = None, part: str = "encoder"
) -> tuple[Shaped[Tensor, "examples ..."], Int[Tensor, "examples ..."]]:
    """Predictions and labels of each example, in the order of the examples.

    Args:
        model: As for `evaluate`; left in the mode (training or evaluation) in which it was.
        batches, gates, part: As for `evaluate`.
        metric: Decides what a prediction is: the most probable class; for "perplexity" the negative log likelihood of
            the label in nats; for "exact_match" the tokens that the model generates.

    Returns:
        Predictions and labels, each (examples,) or (examples, positions), on the device of the model. Labels are -100
        where nothing is predicted and beyond the end of an example; of a decoder-only language model each position
        holds the next token, which it predicts.

    Raises:
        ValueError: As for `evaluate`.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa"], sizes={"train": 2, "test": 6})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", task.labels)
        >>> batches = xs.make_batches(task.examples("test", "qaa"), tokenizer, task.kind, batch_size=4)
        >>> classes, labels = xs.predictions(model, batches)
        >>> classes.shape, labels.tolist() == task.examples("test", "qaa")["label"].tolist()
        (torch.Size([6]), True)
    """
    batches = listed_batches(batches)
    return in_example_order(*_by_batch(model, batches, metric, gates, part), batches)


def in_example_order(
    outputs: Sequence[Tensor], labels: Sequence[Tensor], batches: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Predictions and labels of all batches as `predictions` returns them."""
    order = example_order(batches)
    nothing = 0 if outputs[0].is_floating_point() else IGNORED  # a loss, or a class
    return _joined(outputs, nothing)[order], _joined(labels, IGNORED)[order]


def _joined(rows: Sequence[Tensor], fill: float) -> Tensor:
    """The rows of all batches, padded on the right to the longest."""
    if rows[0].ndim == 1:
        return torch.cat(tuple(rows))
    longest = max(batch.shape[1] for batch in rows)
    return torch.cat([torch.nn.functional.pad(batch, (0, longest - batch.shape[1]), value=fill) for batch in rows])


def _by_batch(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], metric: str, gates: Tensor | None, part: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and labels of each batch, as `score` takes them."""
    metric_named(metric)
    check_for_all(gates)
    outputs, labels = [], []
    with eval_mode(model), torch.no_grad(), nullcontext() if gates is None else head_gates(model, gates, part=part):
        for batch in batches:
            output, gold = predicted(model, batch, metric)
            outputs.append(output)
            labels.append(gold)
    return outputs, labels


def predicted(model: nn.Module, batch: Mapping[str, Tensor], metric: str) -> tuple[Tensor, Tensor]:
    """Predictions and labels of a batch, row by row; of a text to generate, the model sees the input alone."""
    if metric_named(metric).predicts != "text":
        gold, logits = forward(model, batch)
        return predict(logits, gold, metric), gold
    check_labelled(batch)
    gold = batch["labels"].to(next(model.parameters()).device)
    metric_named(metric).check_labels([gold])
    return generate(model, batch, gold.shape[1]), gold


def predict(logits: Tensor, labels: Int[Tensor, "..."], metric: str) -> Tensor:
    """Predictions from the logits of a batch, in the shape of its labels.

    Args:
        logits: `(examples, classes)` or `(examples, tokens, classes)`.
        labels: `(examples,)` or `(examples, tokens)`; -100 where nothing is predicted.
        metric: Any but "exact_match", for which no logits are read that have seen the target.

    Returns:
        The most probable classes; for "perplexity" the negative log likelihoods of the labels in nats, 0 for -100.

    Raises:
        ValueError: If the metric is unknown or needs generated text, or a logit is nan or infinite.
    """
    check_finite(logits)
    predicts = metric_named(metric).predicts
    if predicts == "text":
        raise invalid("metric", "one that scores logits", f"{metric!r} of generated text", "ask `predictions` for it")
    return losses(logits, labels) if predicts == "loss" else logits.argmax(-1)


def score(
    predictions: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    metric: str,
    label_names: Sequence[str] | None = None,
) -> float:
    """Score of predictions.

    Args:
        predictions: Of `predictions`, or one tensor per batch from `predict`.
        labels: In the same shapes.
        metric: As for `evaluate`.
        label_names: IOB2 tags in the order of the label ids; only "f1" needs them.

    Returns:
        The score over all batches together, see `evaluate`.

    Raises:
        ValueError: If the metric is unknown, does not fit the labels, or no label counts.
    """
    chosen = metric_named(metric)
    predictions, labels = ([side] if isinstance(side, Tensor) else side for side in (predictions, labels))
    chosen.check_labels(labels)
    label_count(labels)
    return chosen.total(predictions, labels, label_names)


def chance_level(labels: Iterable, metric: str) -> float:
    """Score of the best constant prediction.

    Args:
        labels: Label ids: a column of examples, of ints or of lists of ints, or the tensors of batches; for
            "exact_match" the column of targets, or the tensors.
        metric: As for `evaluate`.

    Returns:
        The share of the most frequent label for accuracies, of the most frequent target for "exact_match"; 0 for
        "f1" (no span is ever found); for "perplexity" the exponential of the entropy of the labels.

    Raises:
        ValueError: If the metric is unknown or there is no label.
    """
    chosen = metric_named(metric)
    if chosen.predicts == "text":
        counted = np.array(list(_targets(labels)), dtype=str)
    else:
        ids = np.concatenate([np.atleast_1d(rows).ravel() for rows in labels] or [np.empty(0)])
        counted = ids[ids != IGNORED]
    _, counts = np.unique(counted, return_counts=True)
    if not len(counts):
        raise invalid("labels", "at least one label that counts", "none")
    return chosen.constant(counts / counts.sum())


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
        model, metric, part: As for `evaluate`.
        batches: Language → a list of its batches, which is gone through once per mask.
        masks: Name → mask; None stands for the full model.

    Returns:
        A table with one row per mask and one column per language.

    Raises:
        ValueError: As for `evaluate`.

    Source: the mask-by-language matrices of Foroutan et al. 2022, figure 4, here without retraining.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("mlm", ["qaa", "qba"], sizes={"train": 2, "test": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
        >>> batches = {code: xs.make_batches(task.examples("test", code), tokenizer, "mlm") for code in task.languages}
        >>> half = xs.random_mask(torch.arange(48).reshape(4, 12) < 24, seed=0)
        >>> xs.cross_evaluate(model, batches, masks={"full": None, "random": half}, metric="perplexity").shape
        (2, 2)
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
        ValueError: If a language has no mask of its own.
    """
    missing = [language for language in table.columns if language not in table.index]
    if missing:
        raise invalid("table", f"a row for the own mask of {missing}", f"rows {list(table.index)}")
    return table - pd.Series({language: table.at[language, language] for language in table.columns})


def label_names(model: nn.Module) -> list[str] | None:
    """Names of the classes of a model in the order of their ids; None if it keeps none."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return None if names is None else [names[index] for index in sorted(names)]


def _targets(labels: Iterable) -> Iterator[str]:
    """Targets as they stand in a column, or the token ids of each as they stand in a batch."""
    for batch in labels:
        rows = [batch] if isinstance(batch, str) else [row[row != IGNORED].tolist() for row in batch]
        yield from (str(row) for row in rows if row)
