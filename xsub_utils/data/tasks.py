"""Tasks: examples in several languages, the same columns from every source, splits that share nothing."""

import inspect
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from xsub_utils._internal import store
from xsub_utils._internal.validation import one_of
from xsub_utils.data import hub, splits
from xsub_utils.data import local as sources
from xsub_utils.data import schema as columns
from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel import languages as invented
from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.data.splits import SPLITS

SIZES = {"train": 2000, "importance": 500, "validation": 500, "test": 500}  # rows per language
MEANINGS = 10**7  # numbers that a split of MiniBabel has to itself
SURPLUS = (1.2, 3, 10)  # meanings drawn for each one asked for, since the simplest of them come out equal
_CODE = (columns, hub, invented, minibabel, sources, splits)


@dataclass(frozen=True, eq=False)
class Task:
    """Examples of a task in several languages, in disjoint splits.

    Args:
        spec: Kind, labels and metric of the task.
        languages: Codes of the languages.
        splits: Split -> examples, with columns `id` (the same in translations of each other), `language`, and
            by kind `text`, `label`; `text`, `text_pair`, `label`; `tokens`, `labels`; `text`, `target`; or `text`.
        source: "minibabel", "hub" or "local".
        identity: Digest of the content; equal for equal examples, wherever they come from.
    """

    spec: TaskSpec
    languages: tuple[str, ...]
    splits: dict[str, pd.DataFrame] = field(repr=False)
    source: str
    identity: str

    @property
    def name(self) -> str:
        """Name of the task, such as "nli"."""
        return self.spec.name

    @property
    def kind(self) -> str:
        """What is predicted: "sequence", "token", "text2text", "mlm" or "text" (nothing)."""
        return self.spec.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.spec.labels

    @property
    def metric(self) -> str | None:
        """Name of the score; None where nothing is predicted."""
        return self.spec.metric

    def examples(self, split: str, language: str | None = None) -> pd.DataFrame:
        """Examples of a split, in one language or in all of them.

        Raises:
            ValueError: If the task has no such split or language.
        """
        rows = self.splits[one_of("split", split, self.splits)]
        if language is not None:
            rows = rows[rows["language"] == one_of("language", language, self.languages)]
        return rows.reset_index(drop=True)


def load_task(
    name: str,
    languages: Iterable[str],
    *,
    source: str = "minibabel",
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    **options,
) -> Task:
    """A task with its examples, drawn and split once and kept in the artifact store.

    The splits of one call are disjoint, so draw all that a study needs in one call: in another one, with
    other seed, sizes or languages, a train row of this call may stand in `test`. (Not in MiniBabel, where
    every split of every seed has meanings to itself.)

    Args:
        name: "nli", "paraphrase", "reviews", "ner", "upos", "mlm" or "parallel".
        languages: Codes of the languages.
        source: "minibabel" (invented languages; all but upos), "hub" (data sets of `hub.HUB`) or "local".
        sizes: Split -> rows per language. Splits are "train", "importance" (of heads), "validation"
            (retention threshold) and "test"; those not named are left out. `SIZES` if None.
        seed: Seed of the draw.
        path: For source "local": a file with a language column, or a folder with files or folders named by
            language. JSONL, CSV, TSV, Parquet or CoNLL-U.
        options: MiniBabel: `difficulty`, `language_seed` and `known`, the languages that exist. Hub:
            `dataset`, `config` and `revision` (see `hub.hub_rows`). Hub and local files: `drop_invalid`,
            `budget`, `max_characters` and `columns` (see `columns.common_columns`).

    Raises:
        ValueError: If an argument is wrong, a row is bad or rows are too few; says where and what to do.
        FileNotFoundError: If there is nothing at `path`.
        ConnectionError: If the hub cannot be reached.
    """
    spec = TASKS[one_of("name", name, TASKS)]
    languages = _checked_languages(languages)
    sizes = _checked_sizes(SIZES if sizes is None else sizes)
    known = _OPTIONS[one_of("source", source, _OPTIONS)]
    for option in options:
        one_of(f"option of source {source!r}", option, known)
    if (path is None) == (source == "local"):
        raise ValueError(f"path={path!r} with source={source!r}: source 'local' needs a path, the others take none")
    seed = operator.index(seed)

    def build(folder: Path) -> None:
        _write(spec, _draw(spec, languages, sizes, seed, source, path, options), folder)

    key = {"task": name, "languages": languages, "sizes": sizes, "seed": seed, "source": source}
    key["options"] = json.loads(json.dumps(options, default=asdict))  # languages as plain values
    key["files"] = sources.fingerprint(path, languages) if path else {}
    folder = store.get_or_build("task", key, build, code=_CODE)
    tables, identity = _read(folder, sizes)
    return Task(spec, tuple(languages), tables, source, identity)


def _draw(
    spec: TaskSpec,
    languages: Sequence[str],
    sizes: Mapping[str, int],
    seed: int,
    source: str,
    path: str | Path | None,
    options: dict,
) -> dict[str, pd.DataFrame]:
    """Splits of the task, from their source."""
    if source == "minibabel":
        return _from_minibabel(spec, languages, sizes, seed, **options)
    if source == "hub":
        raw = hub.hub_rows(spec.name, languages, **_taken(options, hub.hub_rows))
    else:
        raw = sources.local_rows(path, languages)
    rows = columns.common_columns(raw, spec, **_taken(options, columns.common_columns))
    return splits.draw_splits(rows, languages, sizes, seed, spec.inputs)


def _from_minibabel(
    spec: TaskSpec,
    languages: Sequence[str],
    sizes: Mapping[str, int],
    seed: int,
    *,
    difficulty: int = 1,
    language_seed: int = 0,
    known: Sequence[invented.Language] = invented.LANGUAGES,
) -> dict[str, pd.DataFrame]:
    """Splits of MiniBabel; each split of each seed has meanings to itself, whatever the sizes."""
    one_of("name (of source 'minibabel')", spec.name, minibabel.ROWS)
    for language in languages:
        one_of("language (of source 'minibabel')", language, [one.code for one in known])
    settings = {"seed": language_seed, "difficulty": difficulty, "languages": tuple(known)}

    def draw(surplus: float) -> dict[str, pd.DataFrame]:
        tables = []
        for split, size in sizes.items():
            first = (len(SPLITS) * seed + SPLITS.index(split)) * MEANINGS
            ids = range(first, first + 1 + int(surplus * size))
            tables += [minibabel.examples(spec.name, code, ids, **settings).assign(part=split) for code in languages]
        return splits.draw_splits(pd.concat(tables), languages, sizes, seed, spec.inputs)

    for surplus in SURPLUS[:-1]:
        with suppress(ValueError):
            return draw(surplus)
    return draw(SURPLUS[-1])


# In the store


def _write(spec: TaskSpec, drawn: Mapping[str, pd.DataFrame], folder: Path) -> None:
    for split, rows in drawn.items():
        rows.to_parquet(folder / f"{split}.parquet", index=False)
    content = {split: rows.to_dict("list") for split, rows in drawn.items()}
    store.write_json(folder / "identity.json", store.digest({"task": spec.name, "splits": content}))


def _read(folder: Path, names: Iterable[str]) -> tuple[dict[str, pd.DataFrame], str]:
    """Splits of a stored task, and the digest of their content."""
    tables = {split: pd.read_parquet(folder / f"{split}.parquet") for split in names}
    for table in tables.values():
        for column in table.columns.intersection(["tokens", "labels"]):
            table[column] = [values.tolist() for values in table[column]]
    return tables, json.loads((folder / "identity.json").read_text(encoding="utf-8"))


# Arguments


def _checked_languages(languages: Iterable[str]) -> list[str]:
    codes = [languages] if isinstance(languages, str) else list(languages)
    if isinstance(languages, str) or not codes or len(set(codes)) < len(codes):
        raise ValueError(f"languages={languages!r}: give a list of different codes, such as ['qaa', 'qba']")
    return codes


def _checked_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes in the order of `SPLITS`."""
    for split, size in sizes.items():
        one_of("split in sizes", split, SPLITS)
        if operator.index(size) < 1:
            raise ValueError(f"sizes[{split!r}]={size}: a split has one row at least; leave it out if not wanted")
    if not sizes:
        raise ValueError(f"sizes is empty: give rows per language for some of {', '.join(SPLITS)}")
    return {split: operator.index(sizes[split]) for split in SPLITS if split in sizes}


def _keywords(function: Callable) -> list[str]:
    """Names of the keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


def _taken(options: dict, function: Callable) -> dict:
    """Those options that a function takes."""
    return {name: options[name] for name in _keywords(function) if name in options}


_OPTIONS = {
    "minibabel": _keywords(_from_minibabel),
    "hub": sorted({*_keywords(hub.hub_rows), *_keywords(columns.common_columns)}),
    "local": _keywords(columns.common_columns),
}
