"""What `make_batches` asks of its examples, row by row, and of its tokenizer."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from xsub_utils._internal.validation import invalid, one_of, whole, wrong_type
from xsub_utils.data.schema import KINDS


def check_examples(examples: Any, kind: str) -> None:
    """Raises unless these are rows in the columns of the kind, each with texts and labels that can be used.

    Raises:
        TypeError: If there is no frame.
        ValueError: If there is no row, a column is missing, or a value is wrong; names row and column.
    """
    one_of("kind", kind, KINDS)
    if not isinstance(examples, pd.DataFrame):
        raise wrong_type("examples", "a pandas.DataFrame", f"a {type(examples).__name__}", "wrap it: pd.DataFrame(…)")
    if examples.empty:
        raise invalid("examples", "at least one row", "none")
    checks = _CHECKS[kind]
    for column in checks:
        if (count := list(examples).count(column)) != 1:
            have = ", ".join(map(str, examples.columns))
            got = f"{count} of them in {have}" if count else f"only {have}"
            raise invalid("examples", f"a column {column!r}, which kind {kind!r} needs", got)
    pair = {"text_pair": _check_text} if kind != "token" and "text_pair" in examples else {}
    for column, check in (checks | pair).items():
        for row, value in enumerate(examples[column].tolist()):
            check(value, f"examples, row {row}, {column}")
    if kind == "token":
        _check_as_many(examples["tokens"], examples["labels"])


def check_tokenizer(tokenizer: Any, kind: str) -> None:
    """Raises unless this is a tokenizer that can serve the kind.

    Raises:
        TypeError: If it is no tokenizer.
        ValueError: If it lacks a token that the kind needs, or cannot tell words from sub-words.
    """
    name = type(tokenizer).__name__
    if not hasattr(tokenizer, "pad_token_id"):
        raise wrong_type("tokenizer", "a tokenizer of transformers", repr(tokenizer)[:60])
    if tokenizer.pad_token_id is None:
        remedy = "set tokenizer.pad_token = tokenizer.eos_token, and model.config.pad_token_id after it"
        raise invalid("tokenizer", "one with a padding token", f"a {name} without", remedy)
    if kind == "mlm" and tokenizer.mask_token_id is None:
        raise invalid("tokenizer", "one with a mask token for kind 'mlm', such as XLM-R's", f"a {name} without")
    if kind == "token" and not tokenizer.is_fast:
        raise invalid("tokenizer", "a fast one for kind 'token'", f"{name}, which cannot tell words from sub-words")
    if kind == "text2text" and tokenizer.eos_token_id is None:
        remedy = "set tokenizer.eos_token"
        raise invalid("tokenizer", "one with an end token for kind 'text2text'", f"a {name} without", remedy)


def longest_input(max_length: int, tokenizer: Any, pairs: bool) -> int:
    """The longest input in sub-words that both the user and the tokenizer allow.

    Raises:
        TypeError: If `max_length` is no whole number.
        ValueError: If it leaves no room for a sub-word of each text beside the special tokens.
    """
    special = getattr(tokenizer, "num_special_tokens_to_add", lambda pair: 0)(pair=pairs)
    texts = 2 if pairs else 1
    remedy = f"{special} are special tokens, and each text needs one of its own"
    return min(whole("max_length", max_length, special + texts, remedy=remedy), tokenizer.model_max_length)


def _check_text(value: Any, place: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise invalid(place, "a text that is not empty", repr(value))


def _check_any(value: Any, place: str) -> None:
    """Ids may be anything."""


def _check_label(value: Any, place: str) -> None:
    """The number of a class; a table may have made a float of it."""
    whole_float = isinstance(value, float | np.floating) and float(value).is_integer()
    if isinstance(value, bool | np.bool_) or not (whole_float or isinstance(value, int | np.integer)) or value < 0:
        remedy = "name classes by their index, as Task.from_frames does" if isinstance(value, str) else ""
        raise invalid(place, "the number of a class, from 0", repr(value), remedy)


def _check_each(check: Callable[[Any, str], None], what: str) -> Callable[[Any, str], None]:
    def check_all(values: Any, place: str) -> None:
        if isinstance(values, str) or not isinstance(values, Iterable) or not len(list(values)):
            raise invalid(place, f"a list of {what} that is not empty", repr(values))
        for value in values:
            check(value, place)

    return check_all


def _check_as_many(tokens: pd.Series, labels: pd.Series) -> None:
    for row, (words, tags) in enumerate(zip(tokens, labels, strict=True)):
        if len(words) != len(tags):
            raise invalid("examples", f"a label for each of {len(words)} tokens in row {row}", f"{len(tags)} labels")


_CHECKS: dict[str, dict[str, Callable[[Any, str], None]]] = {  # kind -> its columns, and the check of each value
    "sequence": {"text": _check_text, "label": _check_label},
    "token": {"tokens": _check_each(_check_text, "words"), "labels": _check_each(_check_label, "numbers of classes")},
    "mlm": {"id": _check_any, "text": _check_text},
    "clm": {"text": _check_text},
    "text2text": {"text": _check_text, "target": _check_text},
    "text": {"text": _check_text},
}
