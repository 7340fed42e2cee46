"""Local files as raw rows: JSONL, CSV, TSV, Parquet, CoNLL-U; named by language or with a language column."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xsub_utils.data.schema import RawRows

PARTS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
LANGUAGE_COLUMNS = ("language", "lang")
CONLLU_FIELDS = ("id", "form", "lemma", "upos")  # the rest of the ten columns is not used


@dataclass(frozen=True)
class LocalFile:
    """A data file and what its name tells: language and part of a data set, None where it is silent."""

    path: Path
    name: str
    language: str | None
    part: str | None


def local_files(path: str | Path, languages: Sequence[str]) -> list[LocalFile]:
    """Files to read at a path, in the order of their names.

    A name tells a language if the code stands between `.`, `_` or `-` in it, or in a folder below `path`:
    `de/train.jsonl`, `de_pud-ud-test.conllu`, `20231101.de/train-00000-of-00002.parquet`. Once every language
    has a file, other files are left alone; until then, a column must tell the language in them.

    Raises:
        FileNotFoundError: If nothing is at `path`.
        ValueError: If no file there can be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r}: no file or folder of that name")
    root, found = (path.parent, [path]) if path.is_file() else (path, sorted(path.rglob("*")))
    files = [_described(file, root, languages) for file in found if file.suffix in READERS and file.is_file()]
    if not files:
        raise ValueError(f"path={str(path)!r}: no file ends in {', '.join(READERS)}")
    named = [file for file in files if file.language]
    return named if {file.language for file in named} >= set(languages) else files


def fingerprint(path: str | Path, languages: Sequence[str]) -> dict[str, str]:
    """Name and digest of each file to read."""
    digests = {}
    for file in local_files(path, languages):
        with file.path.open("rb") as content:
            digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def local_rows(path: str | Path, languages: Sequence[str]) -> Iterator[RawRows]:
    """Raw rows of the files at a path, file by file.

    Raises:
        ValueError: If a file cannot be read, or a language is in none; names file, line and remedy.
    """
    missing, present = list(languages), []
    for file in local_files(path, languages):
        table = READERS[file.path.suffix](file.path)
        if table.empty:
            raise ValueError(f"{file.path}: holds no rows. Fill it or take it away.")
        tables = {file.language: table} if file.language else _by_language(table)
        present += [str(name) for name in tables or [file.name] if str(name) not in present]
        missing = [language for language in missing if language not in tables]
        unit = "row" if file.path.suffix == ".parquet" else "line"
        for language in [language for language in tables if language in languages]:
            yield RawRows(tables[language], language, file.part, str(file.path), unit)
    if missing:
        raise ValueError(
            f"language {', '.join(map(repr, missing))}: not found in {str(path)!r}, which has "
            f"{', '.join(present)}. Name a file or folder by the code, such as {missing[0]}/train.jsonl, or "
            "add a column 'language'."
        )


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
    if hasattr(value, "__len__") and not isinstance(value, str):
        return [_named(one, names) for one in value]
    known = not isinstance(value, str) and value in range(len(names))
    return names[int(value)] if known else value


# What names tell


def _described(file: Path, root: Path, languages: Sequence[str]) -> LocalFile:
    name = file.relative_to(root)
    words = re.split(r"[/._-]", name.with_suffix("").as_posix())
    language = next((word for word in words if word in languages), None)
    part = next((PARTS[word.lower()] for word in words if word.lower() in PARTS), None)
    return LocalFile(file, name.as_posix(), language, part)


def _by_language(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each language by the language column; nothing if there is none."""
    column = next((name for name in LANGUAGE_COLUMNS if name in table), None)
    return dict(iter(table.groupby(column, sort=False))) if column else {}


# Formats


def _read_text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8."
        ) from None


def _read_jsonl(file: Path) -> pd.DataFrame:
    rows = {}
    for line, text in enumerate(_read_text(file).split("\n"), 1):
        if text.strip():
            rows[line] = _json_object(text, f"{file}, line {line}")
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _json_object(text: str, place: str) -> dict:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg}). Write one object per line.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a {type(row).__name__} instead of an object. Write one object per line.")
    return row


def _read_csv(file: Path, **dialect) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True, **dialect)
    rows, line = {}, 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise csv.Error(f"{len(fields)} fields where the header has {len(header)}")
            if fields:
                rows[line] = fields
            line = reader.line_num + 1  # a field in quotation marks may go over several lines
    except csv.Error as error:
        raise ValueError(f"{file}, line {line}: {error}. Quote the field, or save as JSONL.") from None
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=object)


def _read_tsv(file: Path) -> pd.DataFrame:
    """Tab-separated fields; as in the published XNLI and PAWS-X files, quotation marks mean themselves."""
    return _read_csv(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file}: not Parquet, or cut short ({error}). Save it again.") from None
    described = json.loads((content.schema.metadata or {}).get(b"huggingface", b"{}"))
    table = content.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    table.index += 1
    return with_label_names(table, described.get("info", {}).get("features") or {})


def _read_conllu(file: Path) -> pd.DataFrame:
    """Sentences with universal part-of-speech tags of their words: no multiword tokens, no empty nodes."""
    rows = {line: _sentence(block, file, line) for line, block in _blocks(_read_text(file))}
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of each sentence with the number of the first."""
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _sentence(block: list[str], file: Path, first: int) -> dict:
    import conllu

    for number, line in enumerate(block, first):
        if not line.startswith("#") and not re.fullmatch(r"\d+([-.]\d+)?(\t[^\t]+){9}", line.rstrip("\r")):
            raise ValueError(
                f"{file}, line {number}: not CoNLL-U. A word needs ten fields between tabs, none of them "
                "empty, the first of them its number."
            )
    try:
        (parsed,) = conllu.parse("\n".join(block), fields=CONLLU_FIELDS)
    except (conllu.exceptions.ParseException, ValueError) as error:
        raise ValueError(f"{file}, line {first}: not CoNLL-U ({error}). Validate the file.") from None
    words = [token for token in parsed if isinstance(token["id"], int)]
    return {
        "id": _sentence_id(parsed.metadata),
        "text": parsed.metadata.get("text"),
        "tokens": [word["form"] for word in words],
        "upos": [word["upos"] for word in words],
    }


def _sentence_id(comments: Mapping[str, str]) -> str | None:
    """Id that joins translations: `parallel_id` without its collection, else `sent_id`, the same in PUD."""
    if parallel := comments.get("parallel_id"):
        return parallel.partition("/")[2] or parallel
    return comments.get("sent_id")


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".conllu": _read_conllu,
}
