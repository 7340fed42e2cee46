"""What a task consists of: the kinds of tasks, the built-in ones, and how one of one's own is described."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xsub_utils._internal.validation import invalid, one_of, wrong_type


@dataclass(frozen=True)
class Kind:
    """What the examples of one kind of task consist of, and what can score them.

    Args:
        columns: Columns beside the inputs.
        metrics: Names of the metrics that fit; the first is the default.
    """

    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


KINDS = {
    "sequence": Kind(("label",), ("accuracy",)),
    "token": Kind(("labels",), ("f1", "token_accuracy")),
    "mlm": Kind(metrics=("perplexity", "token_accuracy")),
    "clm": Kind(metrics=("perplexity",)),
    "text2text": Kind(("target",), ("exact_match",)),
    "text": Kind(),
}
LABELLED = ("sequence", "token")  # kinds whose examples carry indices of labels
PAIRED = ("sequence", "text2text", "text")  # kinds whose examples may be pairs of texts


@dataclass(frozen=True)
class TaskSpec:
    """What the examples of a task consist of and how predictions are scored.

    Args:
        name: Name of the task.
        kind: "sequence" (a label per example), "token" (a label per word), "text2text" (a text to generate), "mlm"
            (masked language modelling), "clm" (causal language modelling) or "text" (nothing to predict).
        labels: Names of the classes, a list or tuple, for kinds "sequence" and "token". An example holds the index of
            its label; data may hold names or indices, and hold names only where the names are such numbers themselves.
        metric: "accuracy", "f1" (of entity spans), "token_accuracy", "exact_match" (of generated text) or "perplexity".
            It follows from the kind unless given; of token tasks it is "f1" for BIO tags and else "token_accuracy".
        pair: Whether an example is a pair of texts.

    Raises:
        TypeError: If pair is neither True nor False.
        ValueError: If the kind is unknown, or labels, metric or pair do not fit it.

    Example:
        >>> import xsub_utils as xs
        >>> topic = xs.TaskSpec("topic", kind="sequence", labels=["travel", "sports"])
        >>> topic.metric, topic.columns
        ('accuracy', ('text', 'label'))
        >>> xs.TaskSpec("tags", kind="token", labels=["O", "B-DRUG", "I-DRUG"]).metric
        'f1'
    """

    name: str
    kind: str
    labels: Sequence[Any] = ()  # a tuple of str once it is checked
    metric: str | None = None
    pair: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise invalid("name", "a text that is not empty", repr(self.name))
        one_of("kind", self.kind, KINDS)
        object.__setattr__(self, "labels", _checked_labels(self.labels, self.kind))
        object.__setattr__(self, "metric", _checked_metric(self.metric, self.kind, self.labels))
        if not isinstance(self.pair, bool):
            raise wrong_type("pair", "True or False", repr(self.pair))
        if self.pair and self.kind not in PAIRED:
            raise invalid("pair", f"False for kind {self.kind!r}", True)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that hold the text."""
        if self.kind == "token":
            return ("tokens",)
        return ("text", "text_pair") if self.pair else ("text",)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every example has beside `id` and `language`."""
        return self.inputs + KINDS[self.kind].columns


def written(value: object) -> str:
    """A label or id as text; whole numbers without a point, whatever type a table gave them."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _checked_labels(labels: object, kind: str) -> tuple[str, ...]:
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise invalid("labels", "a list of names", repr(labels))
    names = tuple(_name(label, labels) for label in labels)
    if kind in LABELLED and len(names) < 2:
        raise invalid("labels", f"the names of at least two classes for kind {kind!r}", list(names))
    if names and kind not in (*LABELLED, "text2text"):
        raise invalid("labels", f"none for kind {kind!r}", list(names))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise invalid("labels", "different names", f"{twice[0]!r} twice")
    if any(not name.strip() for name in names):
        raise invalid("labels", "names that are not empty", list(names))
    return names


def _name(label: object, labels: object) -> str:
    """A label as text; a whole number is one, too, but nothing is that was missing in a table."""
    name = written(label)
    if isinstance(label, bool) or not (isinstance(label, str) or re.fullmatch(r"-?\d+", name)):
        raise invalid("labels", "texts or whole numbers", f"{label!r} in {labels!r}")
    return name


def _checked_metric(metric: str | None, kind: str, labels: Sequence[str]) -> str | None:
    """The metric, if it fits; the default of the kind for None."""
    metrics = KINDS[kind].metrics
    if kind == "token" and not are_bio(labels):
        metrics = tuple(name for name in metrics if name != "f1")
    if metric is None:
        return metrics[0] if metrics else None
    if not metrics:
        raise invalid("metric", f"None for kind {kind!r}, which predicts nothing", repr(metric))
    if kind == "token" and metric == "f1" and "f1" not in metrics:
        raise invalid("metric", "token_accuracy for labels other than BIO tags (O, B-X, I-X)", "'f1'")
    return one_of("metric", metric, metrics)


def are_bio(labels: Sequence[str]) -> bool:
    """Whether the labels are the tags of spans: O, and B-X or I-X for some X."""
    return len(labels) > 1 and "O" in labels and all(re.fullmatch(r"O|[BI]-.+", label) for label in labels)


UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
TASKS = {
    spec.name: spec
    for spec in (
        TaskSpec("nli", "sequence", ("entailment", "neutral", "contradiction"), pair=True),
        TaskSpec("paraphrase", "sequence", ("different", "paraphrase"), pair=True),
        TaskSpec("reviews", "sequence", ("negative", "positive")),
        TaskSpec("ner", "token", ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")),
        TaskSpec("upos", "token", tuple(UPOS.split())),
        TaskSpec("mlm", "mlm"),
        TaskSpec("parallel", "text"),
    )
}


def is_builtin(spec: TaskSpec, *names: str) -> bool:
    """Whether a task is the built-in one of its name, whatever its metric; with names, whether it is one of those."""
    builtin = TASKS.get(spec.name)
    if builtin is None or (names and spec.name not in names):
        return False
    return (spec.kind, spec.labels, spec.pair) == (builtin.kind, builtin.labels, builtin.pair)
