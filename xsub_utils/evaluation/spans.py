"""Spans of tagged tokens, such as named entities, and their F1."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import are_bio
from xsub_utils.models.batches import IGNORED


def span_f1(predictions: Sequence[Tensor], labels: Sequence[Tensor], label_names: Sequence[str]) -> float:
    """Micro-averaged F1 of labelled spans.

    A span starts at B-X, or at an I-X that follows O, another type or the start of the sentence, and ends
    before the next token that does not continue it: the scheme of conlleval and seqeval's default.

    Args:
        predictions: Tag ids `(sentences, tokens)`, one tensor per batch.
        labels: Tag ids in the same shapes; tokens with -100 are left out on both sides.
        label_names: "O", "B-X" or "I-X" for each tag id.

    Returns:
        2 · correct spans / (predicted spans + true spans); 0 if there are no spans at all.

    Raises:
        ValueError: If the label names are not IOB2 tags.

    Source: Tjong Kim Sang & De Meulder 2003 (CoNLL-2003 shared task), section 4.
    """
    check_iob2(label_names)
    guess, gold = (_spans(tags, labels, label_names) for tags in (predictions, labels))
    total = len(guess) + len(gold)
    return 2 * len(guess & gold) / total if total else 0.0


def _spans(tags: Sequence[Tensor], labels: Sequence[Tensor], label_names: Sequence[str]) -> set[tuple[int, int, int]]:
    """(first token, last token, type) of every span, tokens numbered through all sentences."""
    ids = _tokens(tags, labels, outside=list(label_names).index("O"))
    kinds = sorted({name[2:] for name in label_names})
    kind = np.array([kinds.index(name[2:]) if name != "O" else -1 for name in label_names])[ids]
    begins = np.array([name.startswith("B-") for name in label_names])[ids]
    new = begins | (kind != np.concatenate([[-1], kind[:-1]]))
    first = np.flatnonzero(new & (kind >= 0))
    last = np.flatnonzero(np.concatenate([new[1:], [True]]) & (kind >= 0))
    return set(zip(first.tolist(), last.tolist(), kind[first].tolist(), strict=True))


def _tokens(tags: Sequence[Tensor], labels: Sequence[Tensor], outside: int) -> np.ndarray:
    """The tags that count, of all sentences in a row, with one O after each so that no span crosses."""
    rows = [nn.functional.pad(part, (0, 1), value=outside) for part in tags]
    counted = [nn.functional.pad(part != IGNORED, (0, 1), value=True) for part in labels]
    return torch.cat([row[keep] for row, keep in zip(rows, counted, strict=True)]).cpu().numpy()


def check_iob2(label_names: Sequence[str] | None) -> None:
    """Raises unless all names of labels are IOB2 tags: O, B-X, I-X.

    Raises:
        ValueError: If there are none, O is missing, or a name is no such tag.
    """
    if not are_bio(label_names or []):
        raise invalid(
            "label_names",
            "IOB2 tags (O, B-X, I-X) for the metric 'f1'",
            None if label_names is None else list(label_names),
            "use metric='token_accuracy' for plain tags; a model's names stand in its config.id2label",
        )
