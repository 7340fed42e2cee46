"""Data in memory – frames, or the data sets of the library `datasets` – as the splits of a task."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.columns import common_columns
from xsub_utils.data.features import with_label_names
from xsub_utils.data.ids import equal_ids_join, row_ids
from xsub_utils.data.raw import RawRows, checked_names, find_column
from xsub_utils.data.schema import TaskSpec
from xsub_utils.data.splits import PARTS, SPLITS, draw_splits

Frames = Mapping[str, pd.DataFrame]


def frames_of(datasets: object, language: str | None) -> dict[str, pd.DataFrame]:
    """The data sets as frames, with the names of classes in place of their numbers.

    Args:
        datasets: Split -> a `datasets.Dataset`.
        language: Language of all rows; None if a column tells it.

    Raises:
        ValueError: If there is no mapping of data sets, or a column tells the language beside the argument.
    """
    if not isinstance(datasets, Mapping):
        raise invalid(
            "dataset_dict", "a datasets.DatasetDict", f"a {type(datasets).__name__}", "name the split of each"
        )
    frames = {}
    for split, rows in datasets.items():
        if not hasattr(rows, "to_pandas") or not hasattr(rows, "features"):
            raise invalid(f"dataset_dict[{split!r}]", "a datasets.Dataset", f"a {type(rows).__name__}")
        table = with_label_names(rows.to_pandas(), rows.features.to_dict())
        if language is not None and "language" in table:
            raise invalid("language", "None beside a column 'language'", repr(language), "choose by languages=[...]")
        frames[split] = table if language is None else table.assign(language=language)
    return frames


def framed_splits(
    frames: Frames,
    spec: TaskSpec,
    *,
    languages: Sequence[str] | None,
    columns: Mapping[str, str] | None,
    allow_overlap: bool,
    parallel: bool | None,
    **options: Any,
) -> tuple[tuple[str, ...], dict[str, pd.DataFrame]]:
    """Languages and splits of a task, the frames taken as they are.

    Args:
        frames: Split -> rows.
        spec: The task.
        languages: Codes of the languages wanted.
        columns: The user's names of our columns.
        allow_overlap: Let splits share texts.
        parallel: Whether equal ids are translations; None if that is for the data to tell.
        options: Others of `common_columns`.

    Returns:
        The languages in order of appearance, or as given; and of each split the rows, language by language, in their
        order, but that ids which an earlier language has come first, in the order that they have there.

    Raises:
        ValueError: If frames are not what they should be, or share ids or texts.
    """
    columns = checked_names(columns, spec)
    check_frames(frames, SPLITS)
    codes = _languages(frames, columns, languages)
    raw = {split: list(_raw(frame, split, codes, columns, None, f"{split}-")) for split, frame in frames.items()}
    options["parallel"] = parallel if parallel is not None else _join(raw, spec, columns)
    splits = {}
    for split, tables in raw.items():
        rows = _checked_rows(tables, spec, columns, **options).drop(columns="part")
        splits[split] = _side_by_side(rows, codes)
    _check_ids(splits)
    if not allow_overlap:
        _check_texts(splits, spec.inputs)
    return codes, {split: splits[split] for split in SPLITS if split in splits}


def drawn_splits(
    frames: Frames,
    spec: TaskSpec,
    *,
    languages: Sequence[str] | None,
    columns: Mapping[str, str] | None,
    sizes: Mapping[str, int],
    seed: int,
    **options: Any,
) -> tuple[tuple[str, ...], dict[str, pd.DataFrame]]:
    """Languages and splits of a task, drawn from frames that are parts of a data set, as `draw_splits` does."""
    columns = checked_names(columns, spec)
    check_frames(frames, PARTS)
    codes = _languages(frames, columns, languages)
    raw = [rows for name, frame in frames.items() for rows in _raw(frame, name, codes, columns, PARTS[name], "")]
    rows = _checked_rows(raw, spec, columns, **options)
    return codes, draw_splits(rows, codes, sizes, seed, spec.inputs)


def _checked_rows(raw: Iterable[RawRows], spec: TaskSpec, columns: Mapping[str, str], **options: Any) -> pd.DataFrame:
    """Rows in the columns of the task, documents whole."""
    return common_columns(raw, spec, columns=_names(columns, spec), max_characters=None, **options)


def _join(raw: Mapping[str, Sequence[RawRows]], spec: TaskSpec, columns: Mapping[str, str]) -> bool:
    """Whether equal ids join in all splits."""
    names = _names(columns, spec)
    ids = [
        (split, name)
        for split, tables in raw.items()
        for rows in tables
        for name in row_ids(rows, np.arange(len(rows.table)), 0, spec, names)
    ]
    return equal_ids_join(ids, None)


def _names(columns: Mapping[str, str], spec: TaskSpec) -> dict[str, str]:
    """Names of our columns in the raw rows of frames."""
    return {ours: name for ours, name in columns.items() if ours in (*spec.columns, "parallel_id")} | {"id": "id"}


# What frames hold


def check_frames(frames: object, names: Collection[str]) -> None:
    """Raises unless these are frames that hold rows, each named by one of the names."""
    if not isinstance(frames, Mapping) or not frames:
        got = "none" if isinstance(frames, Mapping) else f"a {type(frames).__name__}"
        raise invalid("frames", "a frame for each split", got, "such as {'train': frame, 'test': frame}")
    for split, frame in frames.items():
        one_of("split of frames", split, names)
        if not isinstance(frame, pd.DataFrame):
            remedy = "use Task.from_datasets" if hasattr(frame, "features") else ""
            raise invalid(f"frames[{split!r}]", "a pandas.DataFrame", f"a {type(frame).__name__}", remedy)
        if frame.empty:
            raise invalid(f"frames[{split!r}]", "rows", "none", "leave the split out")


def _languages(frames: Frames, columns: Mapping[str, str], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Languages in order of appearance, or those chosen, each of which some frame has."""
    present = dict.fromkeys(code for split, frame in frames.items() for code in _codes(frame, split, columns))
    if chosen is None:
        return tuple(present)
    return tuple(one_of("languages", code, present) for code in chosen)


def _codes(frame: pd.DataFrame, split: str, columns: Mapping[str, str]) -> Iterable[str]:
    """Languages of a frame, in order of appearance."""
    codes = frame[_language_column(frame, split, columns)]
    for row, code in codes.items():
        if not isinstance(code, str) or not code.strip():
            raise invalid(f"{_place(split)}, row {row}, language", "a code such as 'de'", repr(code))
    return codes.unique()


def _language_column(frame: pd.DataFrame, split: str, columns: Mapping[str, str]) -> str:
    return find_column("language", frame, columns, _place(split))


def _place(split: str) -> str:
    return f"frames[{split!r}]"


def _raw(
    frame: pd.DataFrame, split: str, codes: Sequence[str], columns: Mapping[str, str], part: str | None, before: str
) -> Iterator[RawRows]:
    """Rows of a frame, language by language, with ids: their own, or else numbers within the language."""
    language = frame[_language_column(frame, split, columns)]
    own = find_column("id", frame, columns, _place(split)) if "id" in columns or "id" in frame else None
    for code in codes:
        rows = frame[language == code]
        made = pd.Series([f"{before}{code}-{i}" for i in range(len(rows))], rows.index, dtype=object)
        names = rows[own].astype(object).where(rows[own].notna(), made) if own else made
        if len(rows):
            yield RawRows(rows.assign(id=names), code, part, _place(split), "row")


def _side_by_side(rows: pd.DataFrame, codes: Sequence[str]) -> pd.DataFrame:
    """Rows in the order of languages, and within a language of the first appearance of their ids in any of them."""
    order = pd.DataFrame(
        {"language": rows["language"].map({code: i for i, code in enumerate(codes)}), "id": pd.factorize(rows["id"])[0]}
    )
    return rows.loc[order.sort_values(["language", "id"]).index].reset_index(drop=True)


# What splits share


def _check_ids(splits: Frames) -> None:
    shared = _shared({split: rows[["language", "id"]] for split, rows in splits.items()})
    if shared:
        (language, name), among = next(iter(shared.items()))
        raise invalid(
            "frames",
            "ids that stand in one split of a language",
            f"{len(shared):,} in several, such as {name!r} of language {language!r} in {' and '.join(among)}",
        )


def _check_texts(splits: Frames, inputs: Sequence[str]) -> None:
    hashable = {
        split: rows[["language", *inputs]].map(lambda value: tuple(value) if isinstance(value, list) else value)
        for split, rows in splits.items()
    }
    shared = _shared(hashable)
    if shared:
        (language, *texts), among = next(iter(shared.items()))
        raise invalid(
            "frames",
            "texts that stand in one split of a language",
            f"{len(shared):,} in several, such as {texts!r} of language {language!r} in {' and '.join(among)}",
            "leave them out of the training rows, or pass allow_overlap=True",
        )


def _shared(splits: Frames) -> dict[tuple, list[str]]:
    """Rows that stand in several splits -> these."""
    among: dict[tuple, dict[str, None]] = {}
    for split, rows in splits.items():
        for row in rows.itertuples(index=False, name=None):
            among.setdefault(row, {})[split] = None
    return {row: list(names) for row, names in among.items() if len(names) > 1}
