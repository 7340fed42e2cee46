"""Ids of rows: equal ones join translations, so that an id that two languages have by accident is told apart."""

import re
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from xsub_utils._internal.validation import wrong_type
from xsub_utils.data.raw import RawRows, find_column
from xsub_utils.data.schema import TaskSpec, is_builtin, is_missing, written

PARALLEL_BY_ROW = ("nli", "paraphrase", "parallel")  # row i of XNLI means the same in every language
ARTICLE = {"id", "url", "title", "text"}  # of Wikipedia, where equal numbers mean nothing across languages
LAYOUTS = {  # column of ids that translations share -> the columns beside it
    "parallel_id": set[str](),  # of Universal Dependencies
    "index_id": {"category", "text"},  # SIB-200
    "id": {"URL", "domain", "topic", "has_image", "has_hyperlink"},  # FLORES
}
KNOWN = re.compile(  # language/id of sentences of PUD, in its treebanks and in Universal NER, and of MiniBabel
    r".*/[nw]\d{5}(\d{3}|-\d{4})|.*/parallel-\d+|q[a-t][a-z]/(nli|paraphrase|ner)-\d+"
)

Id = tuple[str, str]  # the language if the id is known to be of that one alone, else ""; and the id itself


def row_ids(
    raw: RawRows,
    positions: np.ndarray,
    first: int,
    spec: TaskSpec,
    columns: Mapping[str, str],
    parallel: bool | None = None,
) -> list[Id]:
    """Ids of rows of a table: what joins translations, or their own, or their number in the language.

    Args:
        raw: The table.
        positions: Which of its rows.
        first: Number of rows of this language and part in the tables before.
        spec: The task.
        columns: The user's names of our columns.
        parallel: Whether equal ids are translations; None if that is for the data to tell.
    """
    if parallel is None and (raw.parallel or is_builtin(spec, *PARALLEL_BY_ROW)):
        parallel = True
    own, shared = _id_columns(raw, columns)
    stored = (_stored(raw.table, positions, column) for column in (shared, own))
    ids = []
    for position, joins, name in zip(positions, *stored, strict=True):
        if joins is not None and parallel is not False:
            ids.append(("", joins))
        elif name is not None:
            known = parallel or (parallel is None and KNOWN.fullmatch(f"{raw.language}/{name}"))
            ids.append(("" if known else raw.language, name))
        else:
            ids.append(("", f"{first + position}" if parallel else f"{raw.language}-{first + position}"))
    return ids


def equal_ids_join(ids: Iterable[tuple[str | None, Id]], parallel: bool | None) -> bool:
    """Whether the ids can stay as they are; warns of those that several languages have by accident.

    Args:
        ids: Part and id of all rows; in different parts, equal ids do not join.
        parallel: Whether the user says that equal ids are translations; None if nothing is said.
    """
    if parallel is not None:
        return parallel
    owner: dict[tuple[str | None, str], str] = {}
    for part, (language, name) in sorted(set(ids), key=lambda row: row[1]):  # those that join come first
        if owner.setdefault((part, name), language) != language:
            warnings.warn(
                f"id: {name!r} and perhaps others stand in several languages, and nothing says that these rows are "
                "translations of each other; ids are put after their language. Pass parallel=True if they are, "
                "parallel=False if not",
                stacklevel=2,
            )
            return False
    return True


def names_of(ids: Iterable[Id], join: bool) -> list[str]:
    """Ids as texts, after their language if equal ones do not join."""
    return [f"{language}-{name}" if language and not join else name for language, name in ids]


def check_parallel(parallel: object) -> None:
    """Raises unless it says whether equal ids are translations, or leaves that open."""
    if parallel is not None and not isinstance(parallel, bool):
        raise wrong_type("parallel", "True, False or None", repr(parallel))


def _id_columns(raw: RawRows, columns: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Names of the column of ids, and of that whose ids translations share; None where there is none."""
    have = set(raw.table)
    own = "url" if have >= ARTICLE else "id"
    shared = next((name for name, beside in LAYOUTS.items() if name in have and have >= beside), None)
    if "id" in columns:
        own = find_column("id", raw.table, columns, raw.place)
    if "parallel_id" in columns:
        shared = find_column("parallel_id", raw.table, columns, raw.place)
    return own if own in have else None, shared


def _stored(table: pd.DataFrame, positions: np.ndarray, column: str | None) -> list[str | None]:
    """Ids as texts; None where one is missing."""
    if column is None:
        return [None] * len(positions)
    return [None if is_missing(value) else written(value) for value in table[column].iloc[positions]]
