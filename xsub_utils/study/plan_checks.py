"""What the values of a notebook have to be among each other, so that a sweep is refused before anything runs."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.local import local_files
from xsub_utils.data.minibabel.examples import ROWS
from xsub_utils.data.minibabel.languages import LANGUAGES
from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.study.own_tasks import path_of, specs_of
from xsub_utils.training.settings import PRESETS, preset

AMONG = {  # parameter -> the one whose values it is chosen from
    **dict.fromkeys(("ends", "targets", "pairs"), "languages"),
    **dict.fromkeys(("end_tasks", "target_tasks", "retrained", "dialled"), "tasks"),
    "elsewhere": "sparsities",
}
AT_MOST = {  # examples -> those that they are taken from
    **dict.fromkeys(("map_size", "part_size", "attributed_train_size"), "train_size"),
    "attributed_test_size": "test_size",
}
UNUSED = {"retrained": ("targets", "part_size"), "attributed_train_size": ("top",)}  # where it is empty, or 0
SHIPPED, PRETRAIN = "minibabel-base", "pretrain"

Values = Mapping[str, Any]


def check_values(place: str, values: Values) -> None:
    """Raises unless values of a notebook fit each other.

    Args:
        place: Study and notebook, for errors.
        values: Every parameter that is known.

    Raises:
        ValueError: If a task, language or preset is unknown, a value is not among those that it is chosen from, more
            examples are taken than there are, or sparsities do not rise.
        FileNotFoundError: If there is no such encoder.
    """
    unused = {name for decides, names in UNUSED.items() if not values.get(decides, True) for name in names}
    used = {name: value for name, value in values.items() if name not in unused}
    _check_tasks(place, used)
    _check_languages(place, used)
    _check_encoder(place, used)
    for name in AMONG.keys() & used.keys():
        for value in _flat(used[name]):
            _check_among(f"{place}, {name}", value, AMONG[name], used.get(AMONG[name]))
    _check_sizes(place, used)
    _check_rising(f"{place}, sparsities", used.get("sparsities", []))


def _source(values: Values) -> str:
    return values.get("source", "minibabel")


def _specs(values: Values) -> dict[str, TaskSpec]:
    """Tasks that can be asked for, by name."""
    builtin = ROWS if _source(values) == "minibabel" else TASKS
    return {name: TASKS[name] for name in builtin if name in TASKS} | specs_of(
        values.get("own_tasks", {}), _source(values)
    )


def _check_tasks(place: str, values: Values) -> None:
    chosen = one_of(f"{place}, preset", values.get("preset", "minibabel"), PRESETS)
    specs = _specs(values)
    for task in values.get("tasks", []):
        spec = specs[one_of(f"{place}, tasks", task, sorted(specs))]
        try:
            preset(chosen, spec)
        except ValueError as error:
            raise ValueError(f"{place}, preset: {str(error).removeprefix('study: ')}") from None


def _check_languages(place: str, values: Values) -> None:
    languages = values.get("languages", [])
    if _source(values) == "minibabel":
        for language in languages:
            one_of(f"{place}, languages", language, [known.code for known in LANGUAGES])
    if _source(values) == "local" and values.get("data"):
        for task in values.get("tasks", []):
            _check_files(place, path_of(values["data"], task), languages)


def _check_files(place: str, path: Path, languages: list[str]) -> None:
    """Raise for a language that no file is of, where all names of files tell one."""
    try:
        told = {file.language or "" for file in local_files(path, languages)}
    except ValueError as error:
        raise ValueError(f"{place}, {error}") from None
    missing = [language for language in languages if language not in told]
    if missing and "" not in told:
        expected = f"languages of {path}, which has files of {', '.join(sorted(told))}"
        raise invalid(f"{place}, languages", expected, ", ".join(map(repr, missing)))


def _check_encoder(place: str, values: Values) -> None:
    encoder = values.get("encoder", SHIPPED)
    if encoder == PRETRAIN and _source(values) == "hub":
        raise invalid(f"{place}, encoder", "a hub id or a folder for source 'hub'", repr(encoder))
    if encoder not in (SHIPPED, PRETRAIN):
        from xsub_utils.models.encoders import locate  # imports torch

        try:
            locate(encoder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{place}, {error}") from None


def _flat(values: Iterable) -> list:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _check_among(place: str, value: Any, name: str, known: list | None) -> None:
    if known is not None and value not in known:
        remedy = f"add it to {name}"
        raise invalid(place, f"some of {name} ({', '.join(map(str, known))})", repr(value), remedy)


def _check_sizes(place: str, values: Values) -> None:
    for name in AT_MOST.keys() & values.keys():
        most = values.get(AT_MOST[name])
        if most is not None and values[name] > most:
            raise invalid(f"{place}, {name}", f"at most {AT_MOST[name]}, {most}", values[name])
    if {"top", "attributed_train_size", "languages"} <= values.keys():
        most = values["attributed_train_size"] * len(values["languages"])
        if values["top"] > most:
            expected = f"at most the {most} training examples that predictions are attributed to"
            raise invalid(f"{place}, top", expected, values["top"], "lower it, or raise attributed_train_size")
    pool = values.get("pool")
    if pool is not None and max(values.get("mask_seeds", [0])) >= pool:
        seeds = values["mask_seeds"]
        raise invalid(f"{place}, mask_seeds", f"seeds below pool, {pool}", seeds, f"raise pool to {max(seeds) + 1}")


def _check_rising(place: str, values: list[float]) -> None:
    if any(before >= after for before, after in pairwise(values)):
        raise invalid(place, "rising shares", values)
