"""What the rows of a task look like, and how raw rows of any source become such rows.

Every source – a file, a data set of the hub – hands over `RawRows`, tables as they are stored. One function,
`common_columns`, finds the columns of the task in them by the names that they have there, checks every value,
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


@dataclass(frozen=True)
class TaskSpec:
    """What the examples of a task consist of and how predictions are scored.

    Args:
        name: Name of the task.
        kind: "sequence" (a label per example), "token" (a label per word), "text2text" (a text to generate), "mlm" or
            "text" (no labels).
        labels: Names of the classes; a label is an index into them.
        metric: "accuracy", "f1" (of entity spans), "token_accuracy", "exact_match" (of generated text) or "perplexity";
            None for plain text.
        pair: Whether an example is a pair of texts.
    """

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    metric: str | None = None
    pair: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that hold the text."""
        if self.kind == "token":
            return ("tokens",)
        return ("text", "text_pair") if self.pair else ("text",)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every example has beside `id` and `language`."""
        return self.inputs + {"sequence": ("label",), "token": ("labels",), "text2text": ("target",)}.get(self.kind, ())


UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
TASKS = {
    spec.name: spec
    for spec in (
        TaskSpec("nli", "sequence", ("entailment", "neutral", "contradiction"), "accuracy", pair=True),
        TaskSpec("paraphrase", "sequence", ("different", "paraphrase"), "accuracy", pair=True),
        TaskSpec("reviews", "sequence", ("negative", "positive"), "accuracy"),
        TaskSpec("ner", "token", ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"), "f1"),
        TaskSpec("upos", "token", tuple(UPOS.split()), "token_accuracy"),
        TaskSpec("mlm", "mlm", metric="perplexity"),
        TaskSpec("parallel", "text"),
    )
}
ALIASES = {  # our column -> the names it goes by in XNLI, PAWS-X, WikiANN and Universal Dependencies
    "text": ("text", "premise", "sentence1"),
    "text_pair": ("text_pair", "hypothesis", "sentence2"),
    "label": ("label",),
    "tokens": ("tokens",),
    "labels": ("labels", "ner_tags", "upos"),
}
PARALLEL_BY_ROW = ("nli", "paraphrase", "parallel")  # row i of XNLI means the same in every language
ARTICLE = {"id", "url", "title", "text"}  # of Wikipedia, where equal numbers mean nothing across languages
STARS = {str(stars - 1): int(stars > 3) for stars in range(1, 6)}  # label 0-4 -> class
SHORTEST_PARAGRAPH = 40  # characters; what is shorter in a longer document is a heading or an item of a list
REMEDY = "Correct it, or pass drop_invalid=True to leave such rows out."

Converters = dict[str, Callable]


@dataclass(frozen=True, eq=False)
class RawRows:
    """A table as it is stored, of one language and one part of a data set.

    Args:
        table: The rows; its index is the line or row where each one stands.
        language: Language of all rows.
        part: "train", "validation" or "test"; None if the source does not say.
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
    max_characters: int = 600,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Rows in the columns of a task, checked.

    Args:
        raw: Tables of the source.
        spec: The task.
        drop_invalid: Leave bad rows out and warn of their number, instead of raising at the first one.
        budget: Use at most so many rows of each table, spread evenly over it (files may be sorted by label).
        max_characters: Longest text of task `mlm`: documents are cut into paragraphs, these at spaces.
        columns: Your names of our columns, such as `{"text": "review_body"}`.

    Returns:
        Columns `id`, `language`, `part` and those of the task. The `id` is the row's own or else its number,
        after the language unless rows of the task are parallel; after the part if there are several.

    Raises:
        ValueError: If a column is missing, or a row is bad and `drop_invalid` is off; names place and remedy.
    """
    seen = Counter()
    picked = []
    for one in tqdm(raw, f"{spec.name}: reading", delay=5, leave=False):
        position = (one.language, one.part)
        picked.append(_pick(one, spec, seen[position], budget, columns or {}))
        seen[position] += len(one.table)
    convert = _converters(spec, picked)
    several = len({one.part for one in picked}) > 1
    rows, faults = [], []
    checked = tqdm(picked, f"{spec.name}: checking", delay=5, leave=False)
    for row, fault in _converted(checked, spec, convert, several):
        if fault and not drop_invalid:
            raise ValueError(f"{fault}. {REMEDY}")
        (faults if fault else rows).append(fault or row)
    if faults:
        warnings.warn(f"{len(faults):,} invalid rows are left out, the first: {faults[0]}", stacklevel=2)
    if spec.kind == "mlm":
        rows = [part for row in rows for part in _paragraphs(row, max_characters)]
    return pd.DataFrame(rows, columns=["id", "language", "part", *spec.columns])


# Finding the columns


def _pick(raw: RawRows, spec: TaskSpec, first: int, budget: int | None, columns: Mapping[str, str]) -> RawRows:
    """The rows to be used, with an id and the columns of the task under our names.

    Args:
        first: Number of rows of this language and part in the tables before.
    """
    positions = np.arange(len(raw.table))
    if budget and budget < len(positions):
        positions = np.arange(budget) * len(positions) // budget
    names = [_find(column, raw, columns) for column in spec.columns]
    table = raw.table.iloc[positions][names].set_axis(list(spec.columns), axis=1)
    table.insert(0, "id", _ids(raw, positions, first, spec.name in PARALLEL_BY_ROW))
    return replace(raw, table=table)


def _find(column: str, raw: RawRows, columns: Mapping[str, str]) -> str:
    """Name that a column of ours has in a table."""
    names = [columns[column]] if column in columns else ALIASES[column]
    for name in names:
        if name in raw.table:
            return name
    raise ValueError(
        f"{raw.place}: no column {' or '.join(map(repr, names))}; it has {', '.join(map(str, raw.table))}. "
        f"Name the right one: columns={{{column!r}: ...}}"
    )


def _ids(raw: RawRows, positions: np.ndarray, first: int, parallel: bool) -> list[str]:
    """Ids of rows: their own, or their number, which joins the languages only where rows are parallel."""
    own = "url" if set(raw.table) >= ARTICLE else "id"
    given = raw.table[own].iloc[positions] if own in raw.table else [None] * len(positions)
    before = "" if parallel else f"{raw.language}-"
    return [
        f"{before}{first + position}" if pd.isna(name) else _written(name)
        for name, position in zip(given, positions, strict=True)
    ]


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
                    raise ValueError(f"the id {name!r} stands twice in language {raw.language!r}")
                seen.add(row)
                yield row + _row(values, spec, convert), None
            except ValueError as fault:
                yield (), f"{raw.place}, {raw.unit} {line}: {fault}"


def _row(values: Sequence, spec: TaskSpec, convert: Converters) -> tuple:
    row = tuple(convert[column](value) for column, value in zip(spec.columns, values, strict=True))
    if spec.kind == "token" and len(row[0]) != len(row[1]):
        raise ValueError(f"{len(row[0])} tokens but {len(row[1])} labels")
    return row


def _converters(spec: TaskSpec, picked: Iterable[RawRows]) -> Converters:
    """How the values of each column are checked and converted."""
    codes = {name: i for i, name in enumerate(spec.labels)} | {str(i): i for i in range(len(spec.labels))}
    if spec.name == "reviews" and any(_rated(raw.table["label"]) for raw in picked):
        codes |= STARS
    label = partial(_label, codes=codes)
    return {
        "text": _text,
        "text_pair": _text,
        "tokens": lambda value: [_text(word) for word in _sequence(value)],
        "label": label,
        "labels": lambda value: [label(one) for one in _sequence(value)],
    }


def _rated(labels: pd.Series) -> bool:
    """Whether reviews carry stars (0-4 on the hub) rather than the two classes made of them."""
    return any(_written(label) in ("2", "3", "4") for label in labels)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} stands where a text should be")
    return value.strip()


def _sequence(value: object) -> list:
    """Words or labels of a sentence; in a CSV they are separated by spaces."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple | np.ndarray) or not len(value):
        raise ValueError("tokens or labels are missing")
    return list(value)


def _label(value: object, codes: dict[str, int]) -> int:
    written = _written(value)
    if written not in codes:
        missing = ", which marks a missing one," if written == "-1" else ""
        raise ValueError(f"label {written}{missing} is not one of {', '.join(codes)}")
    return codes[written]


def _written(value: object) -> str:
    """A label or id as text; whole numbers without a point, whatever type a table gave them."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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
