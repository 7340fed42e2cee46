"""The configuration of a study, a YAML file, read strictly: an unknown name is refused, and the nearest one offered.

A study is one of the package's, asked for by its name, or a YAML file of one's own, asked for by its path.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from xsub_utils._internal.validation import invalid, one_of

CONFIGS = Path(str(files("xsub_utils"))) / "study" / "configs"
COMMON = ("data", "own_tasks")  # what a study says for every notebook beside the parameters

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
    return file


def read_config(study: str, changes: Mapping[str, Any] | None = None) -> Config:
    """The study's YAML file with other values put in, checked.

    Args:
        study: A name, or the path of a YAML file.
        changes: What replaces the file's values: `data`, the folder or file of local data, and any others, nested as
            they are in the file.

    Raises:
        ValueError: If a name is unknown, or a value is missing or of the wrong kind.
        FileNotFoundError: If the file or the data are not there.
    """
    file = config_file(study)
    config = updated(yaml.safe_load(file.read_text(encoding="utf-8")), dict(changes or {}) | {"study": file.stem})
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


def check_notebooks(config: Config, over: Mapping[str, Sequence[str]], parameters: Mapping[str, Sequence[str]]) -> None:
    """Raises unless the notebooks of a study are known and take what it says for them.

    Args:
        config: From `read_config`.
        over: Notebook -> the parameters that its runs are split over, for every notebook there is.
        parameters: Notebook -> the names of its parameters, for those of the study at least.

    Raises:
        ValueError: If a notebook or a parameter is unknown, or one is missing that a notebook is split over.
    """
    overrides = config.get("overrides", {})
    _refuse_unknown("notebook", config["notebooks"], over)
    _refuse_unknown("notebook in overrides", overrides, config["notebooks"])
    for notebook in config["notebooks"]:
        for name in over[notebook]:
            if name not in values_of(config, notebook):
                expected = f"a value for {name!r}, which {notebook} is split over"
                raise invalid(f"study {config['study']}", expected, "none")
    declared = {name for notebook in config["notebooks"] for name in parameters[notebook]}
    _refuse_unknown("parameter", config["parameters"], declared)
    for notebook, values in overrides.items():
        _refuse_unknown(f"parameter of {notebook}", values, parameters[notebook])


def _check_schema(config: Config) -> None:
    import fastjsonschema  # of the extra `workflow`

    schema = yaml.safe_load((CONFIGS / "schema.yaml").read_text("utf-8"))
    try:
        fastjsonschema.compile(schema)(config)
    except fastjsonschema.JsonSchemaValueException as error:
        place = f"study {config['study']}"
        if error.rule == "additionalProperties":
            key = f"key in {str(error.name).replace('data', place, 1)}"
            _refuse_unknown(key, error.value, error.definition["properties"])
        raise ValueError(f"{error.message.replace('data', place, 1)}, got {error.value!r}") from None


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
