"""How raw rows of any source become rows in the columns of a task.

Every source – a file, a data set of the hub, a frame in memory – hands over `RawRows`, tables as they are stored. One
function, `common_columns`, finds the columns of the task in them by the names that they have there, checks every value,
and says of a bad one where it stands.
"""

import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from xsub_utils._internal.validation import invalid, whole
from xsub_utils.data.ids import check_parallel, equal_ids_join, names_of, row_ids
from xsub_utils.data.raw import RawRows, checked_names, find_column
from xsub_utils.data.schema import TaskSpec, is_builtin
from xsub_utils.data.stars import Scale, checked_scale, codes_of_stars, numbers_in
from xsub_utils.data.values import Converters, converters

SHORTEST_PARAGRAPH = 40  # characters; what is shorter in a longer document is a heading or an item of a list
REMEDY = "correct it, or pass drop_invalid=True to leave such rows out"


def common_columns(
    raw: Iterable[RawRows],
    spec: TaskSpec,
    *,
    drop_invalid: bool = False,
    budget: int | None = None,
    max_characters: int | None = 600,
    columns: Mapping[str, str] | None = None,
    parallel: bool | None = None,
    stars: Scale | None = None,
) -> pd.DataFrame:
    """Rows in the columns of a task, checked.

    Args:
        raw: Tables of the source.
        spec: The task.
        drop_invalid: Leave bad rows out and warn of their number, instead of raising at the first one.
        budget: Use at most so many rows of each table, spread evenly over it (files may be sorted by label).
        max_characters: Longest text of kinds `mlm` and `clm`: documents are cut into paragraphs, these at spaces. None
            leaves documents whole.
        columns: Your names of our columns, such as `{"text": "review_body"}`; `id`, `parallel_id`, `language` and
            `split` too.
        parallel: Whether rows with equal ids, or where there are none equal numbers, are translations of each other. If
            None, they are in known parallel data (XNLI, PAWS-X, SIB-200, FLORES, PUD, MiniBabel) and by a column
            `parallel_id`; ids that languages otherwise share are put after the language, with a warning.
        stars: Scale of the labels of task "reviews", (0, 4) or (1, 5), of which the upper two are positive. If None,
            the labels tell it, if each language has one end of a scale and not the other.

    Returns:
        Columns `id`, `language`, `part` and those of the task. The `id` is the row's own or else its number,
        after the language unless rows of the task are parallel; after the part if there are several.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If a column is missing, stars leave their scale open, or a row is bad and `drop_invalid` is off;
            names place and remedy.
    """
    columns, scale = checked_names(columns, spec), checked_scale(stars, spec)
    check_parallel(parallel)
    for name, most in (("budget", budget), ("max_characters", max_characters)):
        if most is not None:
            whole(name, most, 1)
    picked, numbers = _picked(raw, spec, budget, columns, parallel)
    convert = converters(spec, codes_of_stars(numbers, scale))
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


def _warn(faults: Sequence[str], valid: int) -> None:
    if faults and not valid:
        raise invalid("drop_invalid", "some valid rows", f"none; the first of them: {faults[0]}")
    if faults:
        warnings.warn(f"{len(faults):,} invalid rows are left out, the first: {faults[0]}", stacklevel=3)


# Finding the columns


def _picked(
    raw: Iterable[RawRows], spec: TaskSpec, budget: int | None, columns: Mapping[str, str], parallel: bool | None
) -> tuple[list[RawRows], dict[str, set[str]]]:
    """The rows to be used, with an id and the columns of the task under our names; and the stars of each language."""
    seen: Counter[tuple[str, str | None]] = Counter()
    picked, ids = [], []
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    for stored in tqdm(raw, f"{spec.name}: reading", delay=5, leave=False):
        position = (stored.language, stored.part)
        positions = _spread(len(stored.table), budget)
        picked.append(_pick(stored, spec, positions, columns))
        ids.append(row_ids(stored, positions, seen[position], spec, columns, parallel))
        seen[position] += len(stored.table)
        if is_builtin(spec, "reviews"):
            numbers[stored.language] |= numbers_in(stored.table, find_column("label", stored.table, columns, ""))
    stored_ids = ((table.part, name) for table, names in zip(picked, ids, strict=True) for name in names)
    join = equal_ids_join(stored_ids, parallel)
    for table, names in zip(picked, ids, strict=True):
        table.table.insert(0, "id", names_of(names, join))
    return picked, dict(numbers)


def _spread(count: int, budget: int | None) -> np.ndarray:
    """Positions of the rows to be used of so many, spread evenly."""
    if budget is None or budget >= count:
        return np.arange(count)
    return np.arange(budget) * count // budget


def _pick(raw: RawRows, spec: TaskSpec, positions: np.ndarray, columns: Mapping[str, str]) -> RawRows:
    names = [find_column(column, raw.table, columns, raw.place) for column in spec.columns]
    return replace(raw, table=raw.table.iloc[positions][names].set_axis(list(spec.columns), axis=1))


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
