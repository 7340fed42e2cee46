"""The configuration of a study, a YAML file, read strictly: an unknown name is refused, and the nearest one offered.

A study is one of the package's, asked for by its name, or a YAML file of one's own, asked for by its path.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils._internal.yaml_text import as_boolean, read_mapping

CONFIGS = Path(str(files("xsub_utils"))) / "study" / "configs"
COMMON = ("data", "own_tasks")  # what a study says for every notebook beside the parameters
TOLD = {  # types of JSON
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}

Config = dict[str, Any]


def study_names() -> list[str]:
    """Names of the studies that the package has."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "schema")


def config_file(study: str) -> Path:
    """The YAML file of a study: one of the package's by its name, or your own by its path.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If there is no such file.
    """
    if not study.endswith((".yaml", ".yml")):
        return CONFIGS / f"{one_of('study', study, study_names())}.yaml"
    file = Path(study).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"study: expected a YAML file, got {study!r}, which is not there")
    if file.stem in study_names() and file.parent != CONFIGS.resolve():
        remedy = f"rename it: its figures would take the place of those in figures/{file.stem}"
        raise invalid("study", "a file named otherwise than the studies of the package", repr(study), remedy)
    return file


def read_config(study: str, changes: Mapping[str, Any] | None = None) -> Config:
    """The study's YAML file with other values put in, checked.

    Args:
        study: A name, or the path of a YAML file.
        changes: What replaces the file's values: `data`, the folder or file of local data, and any others, nested as
            they are in the file.

    Raises:
        ValueError: If the file is not YAML, a name is unknown, or a value is missing or of the wrong kind.
        FileNotFoundError: If the file or the data are not there.
    """
    file = config_file(study)
    given = read_mapping(file, "notebooks and parameters")
    config = _with_booleans(updated(given, dict(changes or {}) | {"study": file.stem}))
    _check_schema(config)
    _check_data(config)
    _check_own_tasks(config)
    return config


def updated(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """A configuration with other values put in, key by key also where they are nested."""
    merged = dict(config)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = updated(merged[key], value) if nested else value
    return merged


def values_of(config: Config, notebook: str) -> Config:
    """What the study says for a notebook: the common parameters, where the data lie, the notebook's own values."""
    common = {name: config[name] for name in COMMON if config.get(name)}
    if "data" in common:
        common["data"] = str(Path(common["data"]).resolve())
    return config["parameters"] | common | config.get("overrides", {}).get(notebook, {})


def check_notebooks(config: Config, over: Mapping[str, Sequence[str]], defaults: Mapping[str, Config]) -> None:
    """Raises unless the notebooks of a study are known, take what it says for them, and can do with it.

    Args:
        config: From `read_config`.
        over: Notebook -> the parameters that its runs are split over, for every notebook there is.
        defaults: Notebook -> its parameters and what they are unless a study says something else, None for unknown;
            for the notebooks of the study at least.

    Raises:
        ValueError: If a notebook or a parameter is unknown, one is missing that a notebook is split over, or values
            do not fit each other (see `plan_checks.check_values`).
        FileNotFoundError: If there is no such encoder.
    """
    from xsub_utils.study.plan_checks import check_values  # takes a while to import

    overrides = config.get("overrides", {})
    _refuse_unknown("notebook", config["notebooks"], over)
    _refuse_unknown("notebook in overrides", overrides, config["notebooks"])
    for notebook in config["notebooks"]:
        for name in over[notebook]:
            if name not in values_of(config, notebook):
                expected = f"a value for {name!r}, which {notebook} is split over"
                raise invalid(f"study {config['study']}", expected, "none")
    declared = {name for notebook in config["notebooks"] for name in defaults[notebook]}
    _refuse_unknown("parameter", config["parameters"], declared)
    for notebook, values in overrides.items():
        _refuse_unknown(f"parameter of {notebook}", values, defaults[notebook])
    for notebook in config["notebooks"]:
        given = defaults[notebook] | values_of(config, notebook)
        known = {name: given[name] for name in defaults[notebook] if given[name] is not None}
        check_values(f"study {config['study']}, {notebook}", known)


def _schema() -> Config:
    return read_mapping(CONFIGS / "schema.yaml", "a schema")


def _with_booleans(config: Config) -> Config:
    """The configuration with `no` and the like as booleans, where the schema has these."""
    known = _schema()["definitions"]["parameters"]["properties"]
    meant = {name for name, facts in known.items() if facts.get("type") == "boolean"}

    def put(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: as_boolean(value) if name in meant else put(value) for name, value in values.items()}

    return put(config)


def _check_schema(config: Config) -> None:
    import fastjsonschema  # of the extra `workflow`

    place = f"study {config['study']}"
    try:
        fastjsonschema.compile(_schema())(config)
    except fastjsonschema.JsonSchemaValueException as error:
        where = str(error.name).replace("data", place, 1)
        if error.rule == "additionalProperties":
            _refuse_unknown(f"key in {where}", error.value, error.definition["properties"])
        expected = re.sub(r"^must (be |contain )?", "", error.message.replace(str(error.name), "", 1).strip())
        told = re.sub(r"\w+", lambda word: TOLD.get(word[0], word[0]), expected)
        raise invalid(where, told, repr(error.value)) from None
    _refuse_infinite(config, place)


def _refuse_infinite(value: Any, place: str) -> None:
    """Raise for nan and infinity, which a schema lets pass."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_infinite(one, f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}")
    elif isinstance(value, float) and not isfinite(value):
        raise invalid(place, "a finite number", value)


def _check_data(config: Config) -> None:
    local, data = config["parameters"].get("source") == "local", config.get("data")
    if local and not data:
        raise invalid(
            "DATA", f"the folder of the local files that study {config['study']} reads", "none", "DATA=folder"
        )
    if data and not local:
        raise invalid("DATA", f"none for study {config['study']}, which reads no local files", data, "another STUDY?")
    if data and not Path(data).exists():
        raise FileNotFoundError(f"DATA: expected a file or folder, got {data}, which is not there")


def _check_own_tasks(config: Config) -> None:
    if own_tasks := config.get("own_tasks"):
        from xsub_utils.study.own_tasks import specs_of  # takes a while to import

        specs_of(own_tasks, config["parameters"].get("source", "minibabel"))


def _refuse_unknown(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        one_of(what, name, sorted(known))
