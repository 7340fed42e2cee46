"""Data sets of the Hugging Face hub as raw rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd
from tqdm import tqdm

from xsub_utils._internal.validation import invalid
from xsub_utils.data.features import with_label_names
from xsub_utils.data.raw import RawRows
from xsub_utils.data.schema import TaskSpec, is_builtin
from xsub_utils.data.splits import PARTS

DOCUMENTS = 2000  # articles of Wikipedia per language, unless a budget is given


@dataclass(frozen=True)
class HubData:
    """Where a task's data are.

    Args:
        name: Id on the hub.
        config: Configuration of a language; `{language}` stands for its code.
        revision: Branch, tag or commit; None is the newest.
        folders: Whether configurations are folders rather than names that the data set declares.
        streaming: Whether rows are fetched one by one, because all of them are too many.
    """

    name: str
    config: str = "{language}"
    revision: str | None = None
    folders: bool = False
    streaming: bool = False


HUB = {
    "nli": HubData("facebook/xnli"),
    "paraphrase": HubData("google-research-datasets/paws-x"),
    "reviews": HubData("mteb/amazon_reviews_multi"),
    "ner": HubData("unimelb-nlp/wikiann"),
    "upos": HubData(
        "universal-dependencies/universal_dependencies",
        "{language}_pud",
        "refs/convert/parquet",  # the main branch is a loading script, which datasets 4 no longer runs
        folders=True,
    ),
    "mlm": HubData("wikimedia/wikipedia", "20231101.{language}", streaming=True),
    "parallel": HubData("facebook/xnli"),  # its premises
}

PARALLEL = {HUB["nli"].name, HUB["paraphrase"].name}  # data sets whose rows mean the same in every language


def hub_data(spec: TaskSpec, dataset: str | None = None) -> HubData:
    """Where the data of a task are on the hub.

    Args:
        spec: The task.
        dataset: Another data set with the same columns; a task of one's own needs it.

    Raises:
        ValueError: If neither the task nor the caller names a data set.
    """
    if is_builtin(spec, *HUB):
        return replace(HUB[spec.name], name=dataset or HUB[spec.name].name)
    if not dataset:
        raise invalid("dataset", f"the hub's id of the data of task {spec.name!r}", repr(dataset))
    return HubData(dataset, streaming=spec.kind in ("mlm", "clm"))


def hub_rows(
    spec: TaskSpec,
    languages: Sequence[str],
    *,
    dataset: str | None = None,
    config: str | Mapping[str, str] | None = None,
    revision: str | None = None,
    budget: int | None = None,
) -> Iterator[RawRows]:
    """Raw rows of a task's data set, language by language and part by part.

    Args:
        spec: The task.
        languages: Codes of the languages.
        dataset: Another data set with the same columns; a task of one's own needs it.
        config: Another configuration: a pattern such as "{language}_gsd", or one for each language.
        revision: Branch, tag or commit to pin.
        budget: Documents to fetch per language where data are streamed, from the oldest article on.

    Raises:
        ValueError: If the data set has no such configuration, or is a loading script.
        ConnectionError: If the hub or the data set cannot be reached.
    """
    data = hub_data(spec, dataset)
    for language in languages:
        name = _config(config or data.config, language)
        chosen = {"data_dir" if data.folders else "name": name, "revision": revision or data.revision}
        loaded = _load(data.name, chosen, data.streaming, language)
        for part, rows in loaded.items():
            table = _streamed(rows, budget or DOCUMENTS, language) if data.streaming else rows.to_pandas()
            table = with_label_names(table, rows.features.to_dict() if rows.features else {})
            place = f"{data.name} ({name}), {part}"
            yield RawRows(table, language, PARTS.get(part), place, "row", data.name in PARALLEL)


def _config(config: str | Mapping[str, str], language: str) -> str:
    if isinstance(config, str):
        return config.format(language=language)
    if language not in config:
        raise invalid("config", f"a configuration for language {language!r}", f"those of {', '.join(config)}")
    return config[language]


def _load(name: str, chosen: Mapping[str, str | None], streaming: bool, language: str) -> Mapping:
    """Parts of a data set."""
    import datasets

    try:
        return datasets.load_dataset(name, **chosen, streaming=streaming)
    except ValueError as error:
        raise invalid("languages", f"configurations of the hub's {name}", repr(language), str(error)) from error
    except RuntimeError as error:  # a loading script, which datasets no longer runs
        remedy = "try revision='refs/convert/parquet', or save it as Parquet elsewhere and pass source='local'"
        raise invalid("dataset", "one of plain files", f"{name!r} ({error})", remedy) from error
    except OSError as error:  # no network, or no such data set
        raise ConnectionError(
            f"dataset: expected one that can be reached, got {name!r} ({error}); without a network, save it as Parquet "
            "elsewhere and pass source='local' with its path"
        ) from error


def _streamed(rows: Iterable[Mapping], documents: int, language: str) -> pd.DataFrame:
    articles = tqdm(islice(rows, documents), f"articles ({language})", documents, delay=5, leave=False)
    return pd.DataFrame(list(articles))
