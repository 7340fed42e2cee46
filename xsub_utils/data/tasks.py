"""Tasks: examples in several languages, the same columns from every source, splits that share nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from xsub_utils._internal import store
from xsub_utils._internal.validation import one_of, whole
from xsub_utils.data import codes as language_codes
from xsub_utils.data import columns as common
from xsub_utils.data import features, hub, ids, local, raw, readers, schema, sources, stars, values
from xsub_utils.data import splits as splitting
from xsub_utils.data.frames import drawn_splits, framed_splits, frames_of
from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel import languages as invented
from xsub_utils.data.schema import TaskSpec
from xsub_utils.data.sources import check_source, checked_languages, checked_sizes, draw, named_spec

SIZES = {"train": 2000, "importance": 500, "validation": 500, "test": 500}  # rows per language
_CODE = (
    *(common, features, hub, ids, invented, language_codes, local, minibabel),
    *(raw, readers, schema, sources, splitting, stars, values),
)


@dataclass(frozen=True, eq=False)
class Task:
    """Examples of a task in several languages, in disjoint splits.

    Args:
        spec: Kind, labels and metric of the task.
        languages: Codes of the languages.
        splits: Split -> examples, with columns `id` (the same in translations of each other), `language`, and
            by kind `text`, `label`; `text`, `text_pair`, `label`; `tokens`, `labels`; `text`, `target`; or `text`.
        source: "minibabel", "hub", "local" or "memory".
        identity: Digest of spec and content; equal for equal examples, wherever they come from. It is computed if it is
            empty: give `dataclasses.replace` an empty one together with other splits.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa", "qba"], sizes={"train": 6})
        >>> task.kind, task.metric, task.labels
        ('sequence', 'accuracy', ('negative', 'positive'))
        >>> task.examples("train", "qba").columns.tolist()
        ['id', 'language', 'text', 'label']
    """

    spec: TaskSpec
    languages: tuple[str, ...]
    splits: dict[str, pd.DataFrame] = field(repr=False)
    source: str = "memory"
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.identity:
            object.__setattr__(self, "identity", _identity(self.spec, self.splits))

    @classmethod
    def from_frames(
        cls,
        spec: TaskSpec | str,
        frames: Mapping[str, pd.DataFrame],
        *,
        languages: Sequence[str] | None = None,
        columns: Mapping[str, str] | None = None,
        sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        drop_invalid: bool = False,
        allow_overlap: bool = False,
        parallel: bool | None = None,
        stars: tuple[int, int] | None = None,
    ) -> "Task":
        """A task of data in memory.

        Args:
            spec: The task, or the name of a built-in one.
            frames: Split -> rows, with columns `language` and those of the task: `text` (`text_pair`) and `label`, or
                `tokens` and `labels`, or the like. Labels are names or indices. A `parallel_id`, or an `id` together
                with `parallel=True`, joins rows that are translations of each other; these stand in the same order.
            languages: Codes of the languages wanted, in their order; all in order of appearance if None.
            columns: Your names of our columns, such as `{"text": "review_body"}`.
            sizes: Split -> rows per language, to be drawn from the frames as `load_task` draws them: `train` from the
                frame "train", `importance` and `validation` from "validation" (or "dev"), `test` from "test". If None,
                the frames are the splits and named so: "train", "importance", "validation" and "test".
            seed: Seed of the draw.
            drop_invalid: Leave bad rows out and warn of their number, instead of raising at the first one.
            allow_overlap: Let splits share texts. (Drawn ones never do.)
            parallel: Whether rows with equal ids are translations of each other; see `columns.common_columns`.
            stars: Scale of the labels of task "reviews"; see `columns.common_columns`.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If frames are not what they should be, a row is bad or has a label that the task does not have,
                or splits share ids or texts of a language.

        Example:
            >>> import pandas as pd
            >>> import xsub_utils as xs
            >>> spec = xs.TaskSpec("topic", kind="sequence", labels=["travel", "sports"])
            >>> rows = [("de", "Zug", "travel"), ("sw", "mpira", "sports")]
            >>> train = pd.DataFrame(rows, columns=["language", "text", "label"])
            >>> task = xs.Task.from_frames(spec, {"train": train})
            >>> task.languages, task.examples("train")["label"].tolist()
            (('de', 'sw'), [0, 1])
        """
        task = named_spec(spec)
        codes = None if languages is None else checked_languages(languages)
        options: dict[str, Any] = {"languages": codes, "columns": columns, "drop_invalid": drop_invalid}
        options |= {"parallel": parallel, "stars": stars}
        if sizes is None:
            return cls(task, *framed_splits(frames, task, allow_overlap=allow_overlap, **options))
        return cls(task, *drawn_splits(frames, task, sizes=checked_sizes(sizes), seed=whole("seed", seed), **options))

    @classmethod
    def from_datasets(
        cls, spec: TaskSpec | str, dataset_dict: Mapping, *, language: str | None = None, **options: Any
    ) -> "Task":
        """A task of a `datasets.DatasetDict`.

        Args:
            spec: The task, or the name of a built-in one.
            dataset_dict: Split or part -> `datasets.Dataset`. The numbers of a `ClassLabel` stand for its names.
            language: Language of all rows; None if a column `language` tells it.
            options: Those of `from_frames`.

        Raises:
            ValueError: As `from_frames`.

        Example:
            >>> import datasets
            >>> import xsub_utils as xs
            >>> spec = xs.TaskSpec("topic", kind="sequence", labels=["travel", "sports"])
            >>> rows = datasets.Dataset.from_dict({"text": ["Zug", "Ball"], "category": ["travel", "sports"]})
            >>> task = xs.Task.from_datasets(spec, datasets.DatasetDict(train=rows), language="de")
            >>> task.examples("train", "de")["label"].tolist()
            [0, 1]
        """
        return cls.from_frames(spec, frames_of(dataset_dict, language), **options)

    @property
    def name(self) -> str:
        """Name of the task, such as "nli"."""
        return self.spec.name

    @property
    def kind(self) -> str:
        """What is predicted: "sequence", "token", "text2text", "mlm", "clm" or "text" (nothing)."""
        return self.spec.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty where there are none."""
        return tuple(self.spec.labels)

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
    spec: TaskSpec | str,
    languages: Iterable[str],
    *,
    source: str = "minibabel",
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    **options: Any,
) -> Task:
    """A task with its examples, drawn and split once and kept in the artifact store.

    The splits of one call are disjoint, so draw all that a study needs in one call: in another one, with
    other seed, sizes or languages, a train row of this call may stand in `test`. (Not in MiniBabel, where
    every split of every seed has meanings to itself.)

    Where the data have official parts, told by file names, a column `split` or the hub, `train` is drawn from train,
    `importance` and `validation` from validation and `test` from test; see `splits.draw_splits`.

    Args:
        spec: A task of your own, or the name of a built-in one: "nli", "paraphrase", "reviews", "ner", "upos", "mlm" or
            "parallel".
        languages: Codes of the languages.
        source: "minibabel" (invented languages; the built-in tasks but upos), "hub" (data sets of `hub.HUB`; a task of
            your own needs `dataset`) or "local".
        sizes: Split -> rows per language. Splits are "train", "importance" (of heads), "validation"
            (retention threshold) and "test"; those not named are left out. `SIZES` if None.
        seed: Seed of the draw.
        path: For source "local": a file with a language column, or a folder with files or folders named by
            language. JSONL, CSV, TSV, Parquet, CoNLL-U or IOB2.
        options: MiniBabel: `difficulty`, `language_seed` and `known`, the languages that exist. Hub:
            `dataset`, `config` and `revision` (see `hub.hub_rows`). Hub and local files: `drop_invalid`,
            `budget`, `max_characters`, `columns`, `parallel` and `stars` (see `columns.common_columns`).

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is wrong, a row is bad or rows are too few; says where and what to do.
        FileNotFoundError: If there is nothing at `path`.
        ConnectionError: If the hub cannot be reached.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa", "qba"], sizes={"train": 8, "test": 4})
        >>> task.labels
        ('entailment', 'neutral', 'contradiction')
        >>> task.examples("test", "qba").shape
        (4, 5)
    """
    task = named_spec(spec)
    codes = checked_languages(languages)
    wanted = checked_sizes(SIZES if sizes is None else sizes)
    check_source(task, source, path, options)
    seed = whole("seed", seed)

    def build(folder: Path) -> None:
        _write(task, draw(task, codes, wanted, seed, source, path, options), folder)

    key: dict[str, Any] = {"task": asdict(task), "languages": codes, "sizes": wanted, "seed": seed, "source": source}
    key["options"] = json.loads(json.dumps(options, default=asdict))  # languages as plain values
    key["files"] = local.fingerprint(path, codes) if path else {}
    folder = store.get_or_build("task", key, build, code=_CODE)
    return Task(task, tuple(codes), *_read(folder, wanted, source))


# In the store


def _write(spec: TaskSpec, drawn: Mapping[str, pd.DataFrame], folder: Path) -> None:
    for split, rows in drawn.items():
        rows.to_parquet(folder / f"{split}.parquet", index=False)
    store.write_json(folder / "identity.json", _identity(spec, drawn))


def _identity(spec: TaskSpec, drawn: Mapping[str, pd.DataFrame]) -> str:
    """Digest of the task and of its examples."""
    plain = {split: rows.map(lambda value: getattr(value, "tolist", lambda: value)()) for split, rows in drawn.items()}
    content = {split: rows.to_dict("list") for split, rows in plain.items()}
    return store.digest({"task": asdict(spec), "splits": content})


def _read(folder: Path, names: Iterable[str], source: str) -> tuple[dict[str, pd.DataFrame], str, str]:
    """Splits of a stored task, their source and the digest of their content."""
    tables = {split: pd.read_parquet(folder / f"{split}.parquet") for split in names}
    for table in tables.values():
        for column in table.columns.intersection(["tokens", "labels"]):
            table[column] = [values.tolist() for values in table[column]]
    return tables, source, json.loads((folder / "identity.json").read_text(encoding="utf-8"))
