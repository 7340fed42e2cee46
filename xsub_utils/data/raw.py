"""Tables as they are stored, and how the columns of a task are found in them."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from xsub_utils._internal.validation import invalid, mapping, wrong_type
from xsub_utils.data.schema import TaskSpec

ALIASES = {  # our column -> the names it goes by; first those of XNLI, PAWS-X, WikiANN and Universal Dependencies
    "text": ("text", "premise", "sentence1", "sentence"),
    "text_pair": ("text_pair", "hypothesis", "sentence2"),
    "label": ("label", "category", "target"),
    "tokens": ("tokens", "words"),
    "labels": ("labels", "ner_tags", "upos", "tags"),
    "target": ("target", "output", "summary"),
}
PLACES = ("id", "parallel_id", "language", "split")  # columns that any task may have beside its own


@dataclass(frozen=True, eq=False)
class RawRows:
    """A table as it is stored, of one language and one part of a data set.

    Args:
        table: The rows; its index is the line or row where each one stands.
        language: Language of all rows.
        part: "train", "importance", "validation" or "test"; None if the source does not say.
        place: File or data set, for messages.
        unit: What the index counts.
        parallel: Whether the data set is known for rows of equal ids, or equal numbers, to be translations.
    """

    table: pd.DataFrame
    language: str
    part: str | None
    place: str
    unit: str = "line"
    parallel: bool = False


def checked_names(columns: Mapping[str, str] | None, spec: TaskSpec) -> dict[str, str]:
    """The user's names of our columns, each of which the task has.

    Raises:
        TypeError: If they are no mapping of texts.
        ValueError: If the task has no such column; says which was probably meant.
    """
    expected = "our names of columns to yours, such as {'text': 'body'}"
    names = mapping("columns", columns or {}, expected, (*PLACES, *spec.columns))
    for ours, name in names.items():
        if not isinstance(name, str):
            raise wrong_type(f"columns[{ours!r}]", "the name of a column", repr(name))
    return names


def find_column(column: str, table: pd.DataFrame, columns: Mapping[str, str], place: str) -> str:
    """Name that a column of ours has in a table.

    Args:
        column: Our name.
        table: The table as it is stored.
        columns: The user's names of our columns.
        place: File or data set, for the message.

    Raises:
        ValueError: If the table has no such column, or two of that name; says which it has.
    """
    names = (columns[column],) if column in columns else ALIASES.get(column, (column,))
    have = ", ".join(map(str, table))
    for name in names:
        if (count := list(table).count(name)) > 1:
            raise invalid(place, f"one column {name!r}", f"{count} of them among {have}", "rename all but one")
        if count:
            return name
    remedy = f"name the right one: columns={{{column!r}: ...}}"
    raise invalid(place, f"a column {' or '.join(map(repr, names))}", f"columns {have}", remedy)
