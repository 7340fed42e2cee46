"""How raw rows of any source become rows in the columns of a task.

Every source – a file, a data set of the hub, a frame in memory – hands over `RawRows`, tables as they are stored. One
function, `common_columns`, finds the columns of the task in them by the names that they have there, checks every value,
and says of a bad one where it stands.
"""

import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.schema import TaskSpec, is_builtin, written

ALIASES = {  # our column -> the names it goes by; first those of XNLI, PAWS-X, WikiANN and Universal Dependencies
    "text": ("text", "premise", "sentence1", "sentence"),
    "text_pair": ("text_pair", "hypothesis", "sentence2"),
    "label": ("label", "category", "target"),
    "tokens": ("tokens", "words"),
    "labels": ("labels", "ner_tags", "upos", "tags"),
    "target": ("target", "output", "summary"),
}
PLACES = ("id", "language", "split")  # columns that any task may have beside its own
PARALLEL_BY_ROW = ("nli", "paraphrase", "parallel")  # row i of XNLI means the same in every language
ARTICLE = {"id", "url", "title", "text"}  # of Wikipedia, where equal numbers mean nothing across languages
STARS = {str(stars - 1): int(stars > 3) for stars in range(1, 6)}  # label 0-4 -> class
SHORTEST_PARAGRAPH = 40  # characters; what is shorter in a longer document is a heading or an item of a list
REMEDY = "correct it, or pass drop_invalid=True to leave such rows out"

Converters = dict[str, Callable]


@dataclass(frozen=True, eq=False)
class RawRows:
    """A table as it is stored, of one language and one part of a data set.

    Args:
        table: The rows; its index is the line or row where each one stands.
        language: Language of all rows.
        part: "train", "importance", "validation" or "test"; None if the source does not say.
        place: File or data set, for messages.
        unit: What the index counts.
    """

    table: pd.DataFrame
    language: str
    part: str | None
    place: str
    unit: str = "line"


def common_columns(
    raw: Iterable[RawRows],
    spec: TaskSpec,
    *,
    drop_invalid: bool = False,
    budget: int | None = None,
    max_characters: int | None = 600,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Rows in the columns of a task, checked.

    Args:
        raw: Tables of the source.
        spec: The task.
        drop_invalid: Leave bad rows out and warn of their number, instead of raising at the first one.
        budget: Use at most so many rows of each table, spread evenly over it (files may be sorted by label).
        max_characters: Longest text of kinds `mlm` and `clm`: documents are cut into paragraphs, these at spaces. None
            leaves documents whole.
        columns: Your names of our columns, such as `{"text": "review_body"}`; `id`, `language` and `split` too.

    Returns:
        Columns `id`, `language`, `part` and those of the task. The `id` is the row's own or else its number,
        after the language unless rows of the task are parallel; after the part if there are several.

    Raises:
        ValueError: If a column is missing, or a row is bad and `drop_invalid` is off; names place and remedy.
    """
    columns = checked_names(columns, spec)
    seen: Counter[tuple[str, str | None]] = Counter()
    picked = []
    for stored in tqdm(raw, f"{spec.name}: reading", delay=5, leave=False):
        position = (stored.language, stored.part)
        picked.append(_pick(stored, spec, seen[position], budget, columns))
        seen[position] += len(stored.table)
    convert = _converters(spec, picked)
    several = len({table.part for table in picked}) > 1
    rows: list[tuple] = []
    faults: list[str] = []
    checked = tqdm(picked, f"{spec.name}: checking", delay=5, leave=False)
    for row, fault in _converted(checked, spec, convert, several):
        if fault is None:
            rows.append(row)
        elif drop_invalid:
            faults.append(fault)
        else:
            raise ValueError(f"{fault}; {REMEDY}")
    _warn(faults, len(rows))
    if spec.kind in ("mlm", "clm") and max_characters is not None:
        rows = [part for row in rows for part in _paragraphs(row, max_characters)]
    return pd.DataFrame(rows, columns=["id", "language", "part", *spec.columns])


def checked_names(columns: Mapping[str, str] | None, spec: TaskSpec) -> dict[str, str]:
    """The user's names of our columns, each of which the task has."""
    columns = dict(columns or {})
    for column in columns:
        one_of("columns", column, (*PLACES, *spec.columns))
    return columns


def _warn(faults: Sequence[str], valid: int) -> None:
    if faults and not valid:
        raise invalid("drop_invalid", "some valid rows", f"none; the first of them: {faults[0]}")
    if faults:
        warnings.warn(f"{len(faults):,} invalid rows are left out, the first: {faults[0]}", stacklevel=3)


# Finding the columns


def _pick(raw: RawRows, spec: TaskSpec, first: int, budget: int | None, columns: Mapping[str, str]) -> RawRows:
    """The rows to be used, with an id and the columns of the task under our names.

    Args:
        first: Number of rows of this language and part in the tables before.
    """
    positions = np.arange(len(raw.table))
    if budget and budget < len(positions):
        positions = np.arange(budget) * len(positions) // budget
    names = [find_column(column, raw.table, columns, raw.place) for column in spec.columns]
    table = raw.table.iloc[positions][names].set_axis(list(spec.columns), axis=1)
    table.insert(0, "id", _ids(raw, positions, first, is_builtin(spec, *PARALLEL_BY_ROW), columns))
    return replace(raw, table=table)


def find_column(column: str, table: pd.DataFrame, columns: Mapping[str, str], place: str) -> str:
    """Name that a column of ours has in a table.

    Args:
        column: Our name.
        table: The table as it is stored.
        columns: The user's names of our columns.
        place: File or data set, for the message.

    Raises:
        ValueError: If the table has no such column; says which it has.
    """
    names = (columns[column],) if column in columns else ALIASES.get(column, (column,))
    for name in names:
        if name in table:
            return name
    raise invalid(
        place,
        f"a column {' or '.join(map(repr, names))}",
        f"columns {', '.join(map(str, table))}",
        f"name the right one: columns={{{column!r}: ...}}",
    )


def _ids(raw: RawRows, positions: np.ndarray, first: int, parallel: bool, columns: Mapping[str, str]) -> list[str]:
    """Ids of rows: their own, or their number, which joins the languages only where rows are parallel."""
    own = "url" if set(raw.table) >= ARTICLE else "id"
    if "id" in columns:
        own = find_column("id", raw.table, columns, raw.place)
    given = raw.table[own].iloc[positions] if own in raw.table else [None] * len(positions)
    before = "" if parallel else f"{raw.language}-"
    return [
        f"{before}{first + position}" if pd.isna(name) else written(name)
        for name, position in zip(given, positions, strict=True)
    ]


# Class names in the descriptions of columns


def _label_names(feature: Mapping | list) -> list[str] | None:
    """Class names in the description of a column by the library `datasets`; None if it has no classes."""
    if isinstance(feature, list):  # how versions before 4 describe a column of lists
        return _label_names(feature[0])
    return _label_names(feature["feature"]) if "feature" in feature else feature.get("names")


def with_label_names(table: pd.DataFrame, features: Mapping[str, Mapping | list]) -> pd.DataFrame:
    """The table with class numbers replaced by names, so that their order in the source does not matter.

    Args:
        table: Columns as stored.
        features: Column -> description by the library `datasets`, as a dict.
    """
    for column, feature in features.items():
        if column in table and (names := _label_names(feature)):
            table[column] = [_named(value, names) for value in table[column]]
    return table


def _named(value: object, names: Sequence[str]) -> object:
    if isinstance(value, list | tuple | np.ndarray):
        return [_named(one, names) for one in value]
    if isinstance(value, int | float | np.integer) and value in range(len(names)):
        return names[int(value)]
    return value


# Converting the values


def _converted(
    picked: Iterable[RawRows], spec: TaskSpec, convert: Converters, several: bool
) -> Iterator[tuple[tuple, str | None]]:
    """Every row in common columns with None, or an empty row with what is wrong and where."""
    seen = set()
    for raw in picked:
        before = f"{raw.part}-" if several and raw.part else ""
        for line, name, *values in raw.table.itertuples(name=None):
            row = (before + name, raw.language, raw.part)
            try:
                if row in seen:
                    raise invalid("id", f"different ids in language {raw.language!r}", f"{name!r} twice")
                seen.add(row)
                yield row + _row(values, spec, convert), None
            except ValueError as fault:
                yield (), f"{raw.place}, {raw.unit} {line}, {fault}"


def _row(values: Sequence, spec: TaskSpec, convert: Converters) -> tuple:
    row = tuple(convert[column](value) for column, value in zip(spec.columns, values, strict=True))
    if spec.kind == "token" and len(row[0]) != len(row[1]):
        raise invalid("labels", f"a label for each of {len(row[0])} tokens", f"{len(row[1])} labels")
    return row


def _converters(spec: TaskSpec, picked: Iterable[RawRows]) -> Converters:
    """How the values of each column are checked and converted."""
    codes = _codes(spec.labels)
    if is_builtin(spec, "reviews") and any(_rated(raw.table["label"]) for raw in picked):
        codes |= STARS
    label = partial(_label, codes=codes, names=spec.labels)
    return {
        "text": partial(_text, column="text"),
        "text_pair": partial(_text, column="text_pair"),
        "target": partial(_text, column="target"),
        "tokens": lambda value: [_text(word, "tokens") for word in _sequence(value, "tokens")],
        "label": partial(label, column="label"),
        "labels": lambda value: [label(tag, "labels") for tag in _sequence(value, "labels")],
    }


def _codes(labels: Sequence[str]) -> dict[str, int]:
    """Label as it may be written -> its index. Numbers are indices, unless some label is such a number itself."""
    names = {name: i for i, name in enumerate(labels)}
    numbers = {str(i): i for i in range(len(labels))}
    return names if names.keys() & numbers else names | numbers


def _rated(labels: pd.Series) -> bool:
    """Whether reviews carry stars (0-4 on the hub) rather than the two classes made of them."""
    return any(written(label) in ("2", "3", "4") for label in labels)


def _text(value: object, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise invalid(column, "a text that is not empty", repr(value))
    return value.strip()


def _sequence(value: object, column: str) -> list:
    """Words or labels of a sentence; in a CSV they are separated by spaces."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        raise invalid(column, "a list that is not empty", repr(value))
    return list(value)


def _label(value: object, column: str, codes: Mapping[str, int], names: Sequence[str]) -> int:
    name = written(value)
    if name not in codes:
        missing = ", which marks a missing label" if name == "-1" else ""
        raise invalid(column, f"one of {', '.join(names)}", f"{name!r}{missing}")
    return codes[name]


def _paragraphs(row: tuple, longest: int) -> list[tuple]:
    """The paragraphs of a document as rows of their own, numbered behind the id; a single one keeps it."""
    name, language, part, document = row
    texts = [line.strip() for line in document.split("\n") if line.strip()]
    if len(texts) > 1:
        texts = [line for line in texts if len(line) >= SHORTEST_PARAGRAPH]
    texts = [piece for line in texts for piece in (textwrap.wrap(line, longest) if len(line) > longest else [line])]
    if len(texts) == 1:
        return [(name, language, part, texts[0])]
    return [(f"{name}#{i}", language, part, text) for i, text in enumerate(texts)]
