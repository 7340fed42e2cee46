"""The one table of metrics: what each is called, which way is better, which labels it scores, and how.

Whoever needs to know what a metric means asks here, and compares no names:

- `metric_named(name)`: the metric, or an error that lists those there are;
- `metric.label`: its name on an axis; `metric.kinds`: the kinds of task that it scores;
- `metric.lower_is_better`, `metric.sign` (+1 or -1), `metric.is_better(a, b)`, `metric.best(values)`,
  `metric.worst(values)`: direction;
- `metric.retention(score, baseline)`: what is left of the baseline; `metric.oriented(ratio)`: the same from a ratio;
  `metric.gain(score, baseline)`: relative change, positive if better;
- `metric.keeps(score, baseline, retain)`: whether enough is left, the rule of `find_subnetwork`;
- `metric.labelled` ("example" or "token"), `metric.predicts` ("class", "loss" or "text"), `metric.iob2`: what it
  scores;
- `metric.total(predictions, labels, label_names)`, `metric.constant(shares)`: how it scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.schema import KINDS
from xsub_utils.evaluation.generation import matches
from xsub_utils.evaluation.spans import span_f1
from xsub_utils.models.batches import IGNORED

Names = Sequence[str] | None
Score = Any  # a float, or an array or column of them


@dataclass(frozen=True)
class Metric:
    """How predictions are scored.

    Attributes:
        name: As in `metric=`, such as "f1".
        label: As on an axis, such as "span F1".
        total: Score of the predictions and labels of all batches, given the names of the labels.
        constant: Score of the best constant answer, given the shares of the labels.
        lower_is_better: Whether a lower score is a better one.
        labelled: What has a label: each "example" or each "token".
        predicts: What a prediction is: the most probable "class", the "loss" of the label in nats, or the "text" that
            the model generates.
        iob2: Whether labels have to be IOB2 tags.

    Example:
        >>> import xsub_utils as xs
        >>> from xsub_utils.evaluation.metrics import metric_named
        >>> perplexity = metric_named("perplexity")
        >>> isinstance(perplexity, xs.Metric), perplexity.lower_is_better, perplexity.kinds
        (True, True, ('mlm', 'clm'))
        >>> perplexity.retention(8.0, baseline=4.0)  # twice as high: half is left
        0.5
        >>> metric_named("accuracy").keeps(0.77, baseline=0.80, retain=0.95)
        True
    """

    name: str
    label: str
    total: Callable[[Sequence[Tensor], Sequence[Tensor], Names], float] = field(repr=False)
    constant: Callable[[np.ndarray], float] = field(repr=False)
    lower_is_better: bool = False
    labelled: str = "token"
    predicts: str = "class"
    iob2: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of task that it scores."""
        return tuple(name for name, kind in KINDS.items() if self.name in kind.metrics)

    @property
    def sign(self) -> int:
        """What makes a higher number a better one: +1, or -1 where lower is better."""
        return -1 if self.lower_is_better else 1

    def is_better(self, score: Score, other: Score) -> Any:
        """Whether a score is better than another."""
        return score < other if self.lower_is_better else score > other

    def best(self, scores: Iterable[float]) -> float:
        """The best of some scores."""
        return min(scores) if self.lower_is_better else max(scores)

    def worst(self, scores: Iterable[float]) -> float:
        """The worst of some scores."""
        return max(scores) if self.lower_is_better else min(scores)

    def retention(self, score: Score, baseline: Score) -> Any:
        """What is left of a baseline: score / baseline or, where lower is better, baseline / score."""
        return baseline / score if self.lower_is_better else score / baseline

    def oriented(self, ratio: Score) -> Any:
        """The ratio of a score to its baseline as retention: where lower is better, 1 / ratio."""
        return 1 / ratio if self.lower_is_better else ratio

    def gain(self, score: Score, baseline: Score) -> Any:
        """Change against a baseline, as a share of it; positive where the score is better."""
        return self.sign * (score - baseline) / baseline

    def keeps(self, score: float, baseline: float, retain: float) -> bool:
        """Whether a score keeps a share of a baseline.

        Args:
            score: Of the smaller model.
            baseline: Of the full model.
            retain: Share in [0, 1]; where lower is better, a score passes up to `baseline / retain`.
        """
        return score * retain <= baseline if self.lower_is_better else score >= retain * baseline

    def check_labels(self, labels: Sequence[Tensor]) -> None:
        """Raises unless the labels of all batches are of the form that the metric scores.

        Raises:
            ValueError: If there is no batch, or labels are per token instead of per example, or the other way round.
        """
        if not labels:
            raise invalid("batches", "at least one batch", "none")
        labelled = "example" if labels[0].dim() == 1 else "token"
        if labelled != self.labelled:
            fitting = " or ".join(metric.name for metric in METRICS.values() if metric.labelled == labelled)
            raise invalid("metric", f"{fitting} for labels of shape {tuple(labels[0].shape)}", repr(self.name))


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of each label in nats, 0 where the label is -100."""
    counted = labels != IGNORED
    nll = torch.zeros(labels.shape, device=labels.device)
    nll[counted] = torch.nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return nll


def perplexity(nll: Sequence[Tensor], labels: Sequence[Tensor], _label_names: Names = None) -> float:
    """Perplexity over all labels that count: exp(total negative log likelihood / number of labels).

    Args:
        nll: Negative log likelihoods in nats, one tensor per batch, 0 where the label is -100.
        labels: One tensor per batch.
    """
    total = sum(float(batch.sum(dtype=torch.float64)) for batch in nll)
    return float(np.exp(total / label_count(labels)))


def label_count(labels: Sequence[Tensor]) -> int:
    """Number of labels that count.

    Raises:
        ValueError: If none does.
    """
    count = sum(int((batch != IGNORED).sum()) for batch in labels)
    if not count:
        raise invalid("labels", "at least one that counts", "only -100", "there is nothing to score")
    return count


def _share_right(predictions: Sequence[Tensor], labels: Sequence[Tensor], _label_names: Names) -> float:
    right = sum(int((guess == gold).sum()) for guess, gold in zip(predictions, labels, strict=True))
    return right / label_count(labels)


def _share_matched(predictions: Sequence[Tensor], labels: Sequence[Tensor], _label_names: Names) -> float:
    return float(torch.cat([matches(*pair) for pair in zip(predictions, labels, strict=True)]).double().mean())


def _f1(predictions: Sequence[Tensor], labels: Sequence[Tensor], label_names: Names) -> float:
    return span_f1(predictions, labels, label_names or [])


def _largest(shares: np.ndarray) -> float:
    return float(shares.max())


def _no_span(_shares: np.ndarray) -> float:
    return 0.0


def _entropy_exponential(shares: np.ndarray) -> float:
    return float(np.exp(-(shares * np.log(shares)).sum()))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", _share_right, _largest, labelled="example"),
        Metric("f1", "span F1", _f1, _no_span, iob2=True),
        Metric("token_accuracy", "tagging accuracy", _share_right, _largest),
        Metric("perplexity", "perplexity", perplexity, _entropy_exponential, lower_is_better=True, predicts="loss"),
        Metric("exact_match", "exact match", _share_matched, _largest, predicts="text"),
    )
}


def metric_named(name: str | None) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: If there is none; says which there are, and which was probably meant.
    """
    return METRICS[one_of("metric", str(name), METRICS)]
