"""Tables as CSV: a number may be missing, a name never is, whatever it is called ("nan", "NA", "inf", "01")."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

MISSING = "nan"  # as it is written
# Columns of languages and tasks; of any other column, what it holds shows whether it has numbers.
_PLACES = ("a", "b", "changed", "end", "front", "mask", "node", "pair", "parent", "source", "target", "whose")
NAMES = frozenset(("label", "language", "task", "task_b", *_PLACES))


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV, byte-stable; a missing name is written as an empty one."""
    words = table.select_dtypes(exclude=["number", "bool"])
    written = table.assign(**words.astype(object).where(words.notna(), ""))
    return written.to_csv(index=False, float_format="%.6g", na_rep=MISSING, lineterminator="\n")


def read_table(file: str | Path, missing: Sequence[str] = (MISSING,)) -> pd.DataFrame:
    """The table of a CSV file; `missing` is how it writes a number that is missing."""
    return parse_table(Path(file).read_text(encoding="utf-8"), missing)


def parse_table(text: str, missing: Sequence[str] = (MISSING,)) -> pd.DataFrame:
    """The table of a CSV text: values are missing only in columns of numbers."""
    as_numbers = _parsed(text, na_values=list(missing))
    words = [name for name in as_numbers if name in NAMES or not is_numeric_dtype(as_numbers[name])]
    return as_numbers.assign(**_parsed(text, dtype=str)[words])


def _parsed(text: str, **options: Any) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), keep_default_na=False, **options)
