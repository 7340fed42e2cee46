"""Local files as raw rows: which file is of which language and part of a data set, by its name or by its columns."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xsub_utils._internal.validation import invalid
from xsub_utils.data.codes import languages_of
from xsub_utils.data.raw import RawRows, find_column
from xsub_utils.data.readers import READERS
from xsub_utils.data.splits import PARTS

HIDDEN = (".", "__MACOSX")  # how the names of copies begin that an editor, Jupyter or an archive leaves
LANGUAGE_COLUMNS = ("language", "lang")


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
    `de/train.jsonl`, `deu_Latn.tsv`, `de_pud-ud-test.conllu`, `20231101.de/train-00000-of-00002.parquet`; or a code
    that means the same (see `codes.languages_of`). Once every language has a file, other files are left alone; until
    then, a column must tell the language in them. Links are followed; hidden files and folders are left alone.

    Raises:
        FileNotFoundError: If nothing is at `path`.
        ValueError: If no file there can be read, or a language could be several.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"path: expected a file or folder, got {str(path)!r}, where there is none")
    root, paths = (path.parent, [path]) if path.is_file() else (path, sorted(_files_below(path)))
    names = {file: file.relative_to(root) for file in paths if file.suffix in READERS}
    told = languages_of((_stem(name) for name in names.values()), languages)
    files = _once([_described(file, name, told.get(_stem(name))) for file, name in names.items()])
    if not files:
        raise invalid("path", f"files that end in {', '.join(READERS)}", f"none in {str(path)!r}")
    named = [file for file in files if file.language]
    return named if {file.language for file in named} >= set(languages) else files


def fingerprint(path: str | Path, languages: Sequence[str]) -> dict[str, str]:
    """Name and digest of each file to read."""
    digests = {}
    for file in local_files(path, languages):
        with file.path.open("rb") as content:
            digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def local_rows(
    path: str | Path, languages: Sequence[str], columns: Mapping[str, str] | None = None
) -> Iterator[RawRows]:
    """Raw rows of the files at a path, file by file.

    A column `split` tells the part of each row: train, validation (or dev) or test, or a split of ours. Without it, the
    name of the file does.

    Args:
        path: A file or a folder.
        languages: Codes of the languages to read.
        columns: Your names of the columns `language` and `split`.

    Raises:
        ValueError: If a file cannot be read, or a language is in none; names file, line and remedy.
    """
    columns = columns or {}
    missing, present = list(languages), list[str]()
    for file in local_files(path, languages):
        table = READERS[file.path.suffix](file.path)
        if table.empty:
            raise invalid(str(file.path), "rows", "none", "fill it or take it away")
        tables = _tables(table, file, columns, languages)
        present += [str(name) for name in tables or [file.name] if str(name) not in present]
        missing = [language for language in missing if language not in tables]
        unit = "row" if file.path.suffix == ".parquet" else "line"
        for language in [language for language in tables if language in languages]:
            for part, rows in _by_part(tables[language], file, columns, unit):
                yield RawRows(rows, language, part, str(file.path), unit)
    if missing:
        raise invalid(
            "languages",
            f"languages of {str(path)!r}, which has {', '.join(present)}",
            ", ".join(map(repr, missing)),
            f"name a file or folder by the code, such as {missing[0]}/train.jsonl, or add a column 'language'",
        )


# What names tell


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files in a folder and, through links too, in the folders of it, but for hidden ones."""
    above |= {folder.resolve()}
    for entry in folder.iterdir():
        if entry.name.startswith(HIDDEN):
            continue
        if entry.is_file():
            yield entry
        elif entry.is_dir() and entry.resolve() not in above:
            yield from _files_below(entry, above)


def _once(files: Sequence[LocalFile]) -> list[LocalFile]:
    """The files without those that a link has in the list a second time."""
    first: dict[tuple, LocalFile] = {}
    for file in files:
        first.setdefault((file.path.resolve(), file.language, file.part), file)
    return list(first.values())


def _stem(name: Path) -> str:
    return name.with_suffix("").as_posix()


def _described(file: Path, name: Path, language: str | None) -> LocalFile:
    words = re.split(r"[/._-]", _stem(name).lower())
    part = next((PARTS[word] for word in words if word in PARTS), None)
    return LocalFile(file, name.as_posix(), language, part)


# What columns tell


def _tables(
    table: pd.DataFrame, file: LocalFile, columns: Mapping[str, str], languages: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Rows of each language: by the column if it holds codes that are asked for, else by the name of the file.

    Raises:
        ValueError: If the column holds only codes of other languages than the name.
    """
    told = _by_language(table, columns, str(file.path))
    if file.language is None or set(told) & set(languages):
        return told
    words = re.split(r"[/._-]", _stem(Path(file.name)))
    other = [code for code in map(str, told) if re.fullmatch(r"[a-z]{2,3}", code) and code not in words]
    if other and len(other) == len(told):
        got = f"{', '.join(map(repr, other))} in its column of languages"
        raise invalid(str(file.path), f"language {file.language!r}, as its name says", got, "rename the file")
    return {file.language: table}


def _by_language(table: pd.DataFrame, columns: Mapping[str, str], place: str) -> dict[str, pd.DataFrame]:
    """Rows of each language by the language column; nothing if there is none."""
    if "language" in columns:
        column = find_column("language", table, columns, place)
    else:
        column = next((name for name in LANGUAGE_COLUMNS if name in table), "")
    return dict(iter(table.groupby(column, sort=False))) if column else {}


def _by_part(
    table: pd.DataFrame, file: LocalFile, columns: Mapping[str, str], unit: str
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """Rows of each part by the split column; without one, all of them in the part that the name of the file tells."""
    if "split" not in columns and "split" not in table:
        yield file.part, table
        return
    column = find_column("split", table, columns, str(file.path))
    names = table[column].astype(str).str.lower()
    if not (known := names.isin(list(PARTS))).all():
        first = known.idxmin()
        raise invalid(
            f"{file.path}, {unit} {first}, {column}",
            f"one of {', '.join(PARTS)}",
            repr(table[column][first]),
            "rename the column if it does not tell the official part",
        )
    yield from table.groupby(names.map(PARTS), sort=False)
