"""What the library `datasets` says of columns: names of classes, and the words of treebanks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

NO_TAG = "_"  # of what is no word in a treebank: a contraction that stands before its words
NO_HEAD = ("None", "_")


def with_label_names(table: pd.DataFrame, features: Mapping[str, Mapping | list]) -> pd.DataFrame:
    """The table with class numbers replaced by names, so that their order in the source does not matter.

    In treebanks, contractions are left out ("du" before "de" and "le"), as in CoNLL-U files: only words have tags.

    Args:
        table: Columns as stored.
        features: Column -> description by the library `datasets`, as a dict.
    """
    for column, feature in features.items():
        if column in table and (names := _label_names(feature)):
            table[column] = [_named(value, names) for value in table[column]]
    return _words_alone(table) if {"tokens", "upos"} <= set(table) else table


def _label_names(feature: Mapping | list) -> list[str] | None:
    """Class names in the description of a column by the library `datasets`; None if it has no classes."""
    if isinstance(feature, list):  # how versions before 4 describe a column of lists
        return _label_names(feature[0])
    return _label_names(feature["feature"]) if "feature" in feature else feature.get("names")


def _named(value: object, names: Sequence[str]) -> object:
    if isinstance(value, list | tuple | np.ndarray):
        return [_named(one, names) for one in value]
    if isinstance(value, int | float | np.integer) and value in range(len(names)):
        return names[int(value)]
    return value


def _words_alone(table: pd.DataFrame) -> pd.DataFrame:
    """The sentences of a treebank without the contractions among their tokens, in every column that has one a token."""
    lists = [column for column in table if table[column].map(_is_list).all()]
    rows = [_without(dict(zip(lists, row, strict=True))) for row in table[lists].itertuples(index=False, name=None)]
    return table.assign(**{column: pd.Series([row[column] for row in rows], table.index) for column in lists})


def _without(row: dict[str, Any]) -> dict[str, Any]:
    """The lists of a sentence, as many entries as it has words."""
    if "upos" not in row or NO_TAG not in (tags := list(row["upos"])):
        return row
    heads = row.get("head", [None] * len(tags))
    words = [i for i, tag in enumerate(tags) if tag != NO_TAG or str(heads[i]) not in NO_HEAD]
    if not words:
        return row
    return {name: [values[i] for i in words] if len(values) == len(tags) else values for name, values in row.items()}


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray)
