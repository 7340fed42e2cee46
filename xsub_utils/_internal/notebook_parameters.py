"""What a notebook may be told: the names and types that its cell `parameters` declares."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import one_of, wrong_type
from xsub_utils._internal.yaml_text import as_boolean

# Lists that a study is nothing without; those of other names may be empty.
NEVER_EMPTY = (
    *("tasks", "languages", "seeds", "mask_seeds", "end_tasks", "ends", "levels"),
    *("target_tasks", "sparsities", "elsewhere"),
)
_TYPES: dict[str, tuple[type | tuple[type, ...], str, str]] = {  # as declared -> of the value, as told: one, several
    "str": (str, "text", "texts"),
    "bool": (bool, "true or false", "booleans"),
    "int": (int, "a whole number", "whole numbers"),
    "float": ((int, float), "a number", "numbers"),
    "dict": (dict, "a mapping", "mappings"),
    "list": (list, "a list", "lists"),
}


def checked_parameters(notebook: str | Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook, with `no` and the like as booleans where these are declared.

    Args:
        notebook: A notebook with a cell tagged `parameters`.
        parameters: New values by name.

    Raises:
        ValueError: If the notebook has no such parameter.
        TypeError: If a value is of another type than declared, or an empty list where one is needed.
    """
    from papermill import inspect_notebook

    place = f"parameter of {notebook}"
    declared = {name: facts["inferred_type_name"] for name, facts in inspect_notebook(str(notebook)).items()}
    for name in parameters:
        one_of(place, name, list(declared))
    return {name: checked(name, value, declared[name], place) for name, value in parameters.items()}


def checked(name: str, value: Any, declared: str, place: str = "parameter") -> Any:
    """The value of a parameter, if it is of the declared type, such as "list[str]"; any value if that is unknown."""
    value = as_boolean(value) if declared == "bool" else value
    if not _fits(value, declared) or (value == [] and name in NEVER_EMPTY):
        least = " with at least one value" if name in NEVER_EMPTY else ""
        raise wrong_type(f"{place}, {name}", _told(declared) + least, repr(value), _remedy(value, declared))
    return value


def _split(declared: str) -> tuple[str, str]:
    """A type and that of its elements: "list" and "str" for "list[str]"."""
    kind, _, inner = declared.removesuffix("]").partition("[")
    return kind, inner


def _fits(value: Any, declared: str) -> bool:
    kind, inner = _split(declared)
    if kind not in _TYPES:
        return True
    if not isinstance(value, _TYPES[kind][0]) or isinstance(value, bool) != (kind == "bool"):
        return False
    if isinstance(value, list):
        return not inner or all(_fits(one, inner) for one in value)
    return not isinstance(value, float) or isfinite(value)


def _told(declared: str, several: bool = False) -> str:
    kind, inner = _split(declared)
    _, one, more = _TYPES[kind]
    told = more if several else one
    return f"{told} of {_told(inner, several=True)}" if kind == "list" and inner else told


def _remedy(value: Any, declared: str) -> str:
    kind, inner = _split(declared)
    if kind == "list" and inner and not isinstance(value, list) and _fits(value, inner):
        return f"write [{value}]"
    return f"write '\"{value}\"'" if kind == "str" and isinstance(value, int | float) else ""
