"""Files of one format each as tables, whose index tells the line or row where each example stands."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from xsub_utils._internal.validation import invalid
from xsub_utils.data.features import with_label_names

CONLLU_FIELDS = ("id", "form", "lemma", "upos")  # the rest of the ten columns is not used
TAG = r"O|[BI]-\S+"


def _read_text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x}"
        raise invalid(f"{file}, line {line}", "UTF-8", byte, "save the file as UTF-8") from None


def _read_jsonl(file: Path) -> pd.DataFrame:
    rows = {}
    for line, text in enumerate(_read_text(file).split("\n"), 1):
        if text.strip():
            rows[line] = _json_object(text, f"{file}, line {line}")
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _json_object(text: str, place: str) -> dict:
    try:
        row = json.loads(text, object_pairs_hook=partial(_object, place=place))
    except json.JSONDecodeError as error:
        raise invalid(place, "a JSON object", f"no JSON ({error.msg})", "write one object per line") from None
    if not isinstance(row, dict):
        raise invalid(place, "a JSON object", f"a {type(row).__name__}", "write one object per line")
    return row


def _object(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    """A JSON object, none of whose keys stands twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise invalid(place, "different keys", f"{twice!r} twice")
    return row


def _read_csv(file: Path, **dialect: Any) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True, **dialect)
    rows, line = {}, 1
    try:
        header = next(reader, [])
        if twice := [name for name, count in Counter(header).items() if count > 1 and name]:
            raise invalid(f"{file}, line 1", "different columns", f"{twice[0]!r} twice", "rename one of them")
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise csv.Error(f"{len(fields)} fields")
            if fields:
                rows[line] = fields
            line = reader.line_num + 1  # a field in quotation marks may go over several lines
    except csv.Error as error:
        expected = f"the {len(header)} fields of the header"
        raise invalid(f"{file}, line {line}", expected, error, "quote the field, or save as JSONL") from None
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=object)


def _read_tsv(file: Path) -> pd.DataFrame:
    """Tab-separated fields; as in the published XNLI and PAWS-X files, quotation marks mean themselves.

    A file that has no header but starts with a word and its IOB2 tag, as WikiANN is published, is read as `.iob2`.
    """
    if re.match(rf"[^\t\n]+\t({TAG})\s*\n", _read_text(file)):
        return _read_iob2(file)
    return _read_csv(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_parquet(file: Path) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise invalid(str(file), "Parquet", f"something else, or a part of it ({error})", "save it again") from None
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
            expected = "CoNLL-U: ten fields between tabs, none of them empty, the first of them a number"
            raise invalid(f"{file}, line {number}", expected, repr(line))
    try:
        (parsed,) = conllu.parse("\n".join(block), fields=CONLLU_FIELDS)
    except (conllu.exceptions.ParseException, ValueError) as error:
        raise invalid(f"{file}, line {first}", "CoNLL-U", str(error), "validate the file") from None
    words = [token for token in parsed if isinstance(token["id"], int)]
    return {
        **_sentence_ids(parsed.metadata),
        "text": parsed.metadata.get("text"),
        "tokens": [word["form"] for word in words],
        "upos": [word["upos"] for word in words],
    }


def _sentence_ids(comments: Mapping[str, str]) -> dict[str, str | None]:
    """The id of a sentence, and the one that joins translations, `parallel_id` without its collection."""
    parallel = comments.get("parallel_id") or ""
    return {"id": comments.get("sent_id"), "parallel_id": parallel.partition("/")[2] or parallel or None}


def _read_iob2(file: Path) -> pd.DataFrame:
    """Sentences with tags of their words: lines `word TAB tag`, or `number TAB word TAB tag` as in Universal NER."""
    rows = {line: _tagged(block, file, line) for line, block in _blocks(_read_text(file))}
    return pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)


def _tagged(block: list[str], file: Path, first: int) -> dict:
    comments: dict[str, str] = {}
    words: list[tuple[str, str]] = []
    for number, line in enumerate(block, first):
        line = line.rstrip("\r")
        if line.startswith("#") and "\t" not in line:
            name, _, value = line[1:].partition("=")
            comments[name.strip()] = value.strip()
        elif re.match(r"\d+[-.]\d+\t.*\t", line):  # a multiword token or an empty node
            continue
        elif match := re.fullmatch(r"(?:\d+\t)?([^\t]+)\t([^\t]+)|\d+\t([^\t]+)\t([^\t]+)(?:\t[^\t]*)+", line):
            words.append((match[1] or match[3], match[2] or match[4]))
        else:
            raise invalid(f"{file}, line {number}", "a word and its tag between tabs", repr(line))
    return {
        **_sentence_ids(comments),
        "text": comments.get("text"),
        "tokens": [word for word, _ in words],
        "labels": [tag for _, tag in words],
    }


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".conllu": _read_conllu,
    ".iob2": _read_iob2,
}
