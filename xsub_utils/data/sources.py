"""Where the examples of a task come from, and the arguments that each source takes."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from xsub_utils._internal.validation import invalid, mapping, one_of, whole, wrong_type
from xsub_utils.data.columns import common_columns
from xsub_utils.data.hub import hub_data, hub_rows
from xsub_utils.data.local import local_rows
from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel.languages import LANGUAGES, Language
from xsub_utils.data.raw import checked_names
from xsub_utils.data.schema import TASKS, TaskSpec, is_builtin
from xsub_utils.data.splits import SPLITS, draw_splits

MEANINGS = 10**7  # numbers that a split of MiniBabel has to itself
SURPLUS = (1.2, 3, 10)  # meanings drawn for each one asked for, since the simplest of them come out equal


def draw(
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
        return _minibabel_splits(spec, languages, sizes, seed, **options)
    if source == "hub":
        raw = hub_rows(spec, languages, **_taken(options, hub_rows))
    else:
        raw = local_rows(str(path), languages, options.get("columns"))
    rows = common_columns(raw, spec, **_taken(options, common_columns))
    return draw_splits(rows, languages, sizes, seed, spec.inputs)


def _minibabel_splits(
    spec: TaskSpec,
    languages: Sequence[str],
    sizes: Mapping[str, int],
    seed: int,
    *,
    difficulty: int = 1,
    language_seed: int = 0,
    known: Sequence[Language] = LANGUAGES,
) -> dict[str, pd.DataFrame]:
    """Splits of MiniBabel; each split of each seed has meanings to itself, whatever the sizes."""
    _check_known(known)
    for language in languages:
        one_of("languages (of source 'minibabel')", language, [own.code for own in known])
    settings: dict[str, Any] = {"seed": language_seed, "difficulty": difficulty, "languages": tuple(known)}

    def drawn(surplus: float) -> dict[str, pd.DataFrame]:
        tables = []
        for split, size in sizes.items():
            first = (len(SPLITS) * seed + SPLITS.index(split)) * MEANINGS
            ids = range(first, first + 1 + int(surplus * size))
            tables += [minibabel.examples(spec.name, code, ids, **settings).assign(part=split) for code in languages]
        return draw_splits(pd.concat(tables), languages, sizes, seed, spec.inputs)

    for surplus in SURPLUS[:-1]:
        with suppress(ValueError):
            return drawn(surplus)
    return drawn(SURPLUS[-1])


def _check_known(known: Any) -> None:
    if not isinstance(known, Sequence) or not all(isinstance(language, Language) for language in known):
        raise wrong_type("known", "a sequence of Language, such as (*LANGUAGES, mine)", repr(known)[:60])


# Arguments


def named_spec(spec: object) -> TaskSpec:
    """The task itself, or the built-in one of that name."""
    if isinstance(spec, TaskSpec):
        return spec
    if not isinstance(spec, str):
        raise invalid("spec", "a TaskSpec or the name of a built-in task", repr(spec))
    return TASKS[one_of("spec", spec, TASKS)]


def check_source(spec: TaskSpec, source: str, path: str | Path | None, options: Mapping[str, Any]) -> None:
    """Raises if a task has no data in a source, or the source does not take what is given."""
    one_of("source", source, _OPTIONS)
    for option in options:
        one_of(f"option of source {source!r}", option, _OPTIONS[source])
    if source == "minibabel" and not is_builtin(spec):
        raise invalid(
            "source",
            f"'local' or 'hub' for {spec.name!r}, a task of your own",
            "'minibabel'",
            "for data in memory use Task.from_frames",
        )
    if source == "minibabel":
        one_of("spec (of source 'minibabel')", spec.name, minibabel.ROWS)
    if path is not None and not isinstance(path, str | Path):
        raise wrong_type("path", "a file or folder", repr(path))
    if (path in (None, "")) == (source == "local"):
        raise invalid("path", f"{'a file or folder' if source == 'local' else None} for source {source!r}", repr(path))
    if source == "hub":
        hub_data(spec, options.get("dataset"))
    if source != "minibabel":
        checked_names(options.get("columns"), spec)


def checked_languages(languages: Iterable[str]) -> list[str]:
    """The codes as a list."""
    codes = list(languages) if isinstance(languages, Iterable) and not isinstance(languages, str) else []
    texts = {code for code in codes if isinstance(code, str) and code.strip()}
    if not codes or len(texts) < len(codes):
        raise invalid("languages", "a list of different codes, such as ['qaa', 'qba']", repr(languages))
    return codes


def checked_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes in the order of `SPLITS`."""
    given = mapping("sizes", sizes, "splits to rows per language", SPLITS)
    if not given:
        raise invalid("sizes", f"rows per language for some of {', '.join(SPLITS)}", "none")
    remedy = "leave the split out if it is not wanted"
    return {split: whole(f"sizes[{split!r}]", given[split], 1, remedy=remedy) for split in SPLITS if split in given}


def _keywords(function: Callable) -> list[str]:
    """Names of the keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _taken(options: dict, function: Callable) -> dict:
    """Those options that a function takes."""
    return {name: options[name] for name in _keywords(function) if name in options}


_OPTIONS = {
    "minibabel": _keywords(_minibabel_splits),
    "hub": sorted({*_keywords(hub_rows), *_keywords(common_columns)}),
    "local": _keywords(common_columns),
}
