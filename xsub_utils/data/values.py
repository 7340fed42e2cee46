"""How the values of each column are checked and converted: texts, words, labels."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import TaskSpec, is_missing, written

Converters = dict[str, Callable]

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_PRINTED = rf"\[(?:{_QUOTED})(?:,?\s+(?:{_QUOTED}))*\]"  # texts as Python, JSON or NumPy print them
_PRINTED_NUMBERS = r"\[\s*\d+(?:,?\s+\d+)*\s*\]"


def converters(spec: TaskSpec, more_codes: Mapping[str, int]) -> Converters:
    """Column -> what checks and converts a value of it, or raises.

    Args:
        spec: The task.
        more_codes: Labels as they may be written beside names and indices -> their indices; these come first.
    """
    label = partial(_label, codes=_codes(spec.labels) | dict(more_codes), names=spec.labels)
    return {
        "text": partial(_text, column="text"),
        "text_pair": partial(_text, column="text_pair"),
        "target": partial(_text, column="target"),
        "tokens": _words,
        "label": partial(label, column="label"),
        "labels": lambda value: [label(tag, "labels") for tag in _sequence(value, "labels")],
    }


def _codes(labels: Sequence[str]) -> dict[str, int]:
    """Label as it may be written -> its index. Numbers are indices, unless some label is such a number itself."""
    names = {name: i for i, name in enumerate(labels)}
    numbers = {str(i): i for i in range(len(labels))}
    return names if names.keys() & numbers else names | numbers


def _text(value: object, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise invalid(column, "a text that is not empty", repr(value))
    if not value.strip("_ \t\n"):
        raise _withheld(column, value)
    return value.strip()


def _words(value: object) -> list[str]:
    words = _sequence(value, "tokens")
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise invalid("tokens", "a text that is not empty", repr(word))
    if all(word.strip() == "_" for word in words):
        raise _withheld("tokens", "_")
    return [word.strip() for word in words]


def _withheld(column: str, value: str) -> ValueError:
    remedy = "where a licence withholds the words of a treebank, its README tells how to put them in"
    return invalid(column, "words", f"nothing but {value.strip()[:20]!r}", remedy)


def _sequence(value: object, column: str) -> list:
    """Words or labels of a sentence; in a CSV they are separated by spaces, or a list is printed."""
    if isinstance(value, str):
        value = _printed(value.strip()) or value.split()
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        raise invalid(column, "a list that is not empty", repr(value))
    return list(value)


def _printed(text: str) -> list:
    """The values of a list that was printed as text; none if it is no such text."""
    if re.fullmatch(_PRINTED, text):
        return [ast.literal_eval(quoted) for quoted in re.findall(_QUOTED, text)]
    return re.findall(r"\d+", text) if re.fullmatch(_PRINTED_NUMBERS, text) else []


def _label(value: object, column: str, codes: Mapping[str, int], names: Sequence[str]) -> int:
    name = written(value)
    if is_missing(value) or name not in codes:
        missing = ", which marks a missing label" if name == "-1" else ""
        raise invalid(column, f"one of {', '.join(names)}", f"{name!r}{missing}")
    return codes[name]
