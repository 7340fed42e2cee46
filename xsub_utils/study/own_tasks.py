"""Tasks of a study's own: how a study describes them, and where their data are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.data.tasks import Task

SPEC = ("kind", "labels", "metric", "pair")  # what a `TaskSpec` is made of
OPTIONS = {"hub": ("dataset", "config", "revision", "columns"), "local": ("columns",)}  # source -> of `load_task`
PARALLEL = "parallel"  # the built-in task whose sentences representations are compared on

OwnTasks = Mapping[str, Mapping[str, Any]]


def specs_of(own_tasks: OwnTasks, source: str) -> dict[str, TaskSpec]:
    """Name -> the task that is described.

    Args:
        own_tasks: Name -> `kind`, `labels`, `metric` and `pair` as of `TaskSpec`; `columns` (our names of columns ->
            those of the data); `parallel` (whether rows with equal ids are translations of each other; notebook 03
            then takes its sentences from this task); for data of the hub `dataset`, `config` and `revision`.
        source: Source of the study.

    Raises:
        ValueError: If the source has no data of such tasks, a description has an unknown entry, lacks a kind, or does
            not describe a task; if several are parallel.
    """
    if own_tasks and source not in OPTIONS:
        raise invalid("own_tasks", f"none for source {source!r}", ", ".join(own_tasks), "use source 'local' or 'hub'")
    specs = {name: _spec(name, entries, source) for name, entries in own_tasks.items()}
    if len(parallel := [name for name, entries in own_tasks.items() if entries.get("parallel")]) > 1:
        raise invalid("own_tasks", "at most one parallel task", ", ".join(parallel))
    return specs


def options_of(own_tasks: OwnTasks, name: str, source: str) -> dict[str, Any]:
    """Options of `load_task` for a task; none for a built-in one."""
    entries = own_tasks.get(name, {})
    given = {option: entries[option] for option in OPTIONS.get(source, ()) if entries.get(option) is not None}
    return given | ({"parallel": True} if entries.get("parallel") else {})


def path_of(data: str, name: str) -> Path:
    """Where the local data of a task are: the folder in `data` that is named like it, or `data` itself."""
    own = Path(data, name)
    return own if own.is_dir() else Path(data)


def parallel_task(own_tasks: OwnTasks) -> str | None:
    """Name of the own task whose texts are translations of each other, if there is one."""
    return next((name for name, entries in own_tasks.items() if entries.get("parallel")), None)


def as_parallel(task: Task) -> Task:
    """The texts of a task, in its splits, as the built-in task "parallel"."""

    def texts(column: str, values: Any) -> list[str]:
        return [" ".join(words) for words in values] if column == "tokens" else list(values)

    first = task.spec.inputs[0]
    splits = {
        split: rows[["id", "language"]].assign(text=texts(first, rows[first])) for split, rows in task.splits.items()
    }
    return Task(TASKS[PARALLEL], task.languages, splits, task.source)


def _spec(name: str, entries: Mapping[str, Any], source: str) -> TaskSpec:
    argument = f"own_tasks[{name!r}]"
    if not isinstance(entries, Mapping):
        raise invalid(argument, "a mapping with a kind and labels", repr(entries))
    for entry in entries:
        one_of(f"entry of {argument} with source {source!r}", entry, (*SPEC, "parallel", *OPTIONS[source]))
    if "kind" not in entries:
        raise invalid(argument, "an entry 'kind'", f"only {', '.join(entries) or 'no entries'}")
    given = {entry: entries[entry] for entry in SPEC if entries.get(entry) is not None}
    try:
        return TaskSpec(name, **given)
    except ValueError as error:
        raise ValueError(f"{argument}, {error}") from None
