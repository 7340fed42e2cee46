"""A study, read strictly: an unknown name is refused, and the nearest known one is offered."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import fastjsonschema
import yaml
from snakemake.utils import update_config
from source import parameter_names

from xsub_utils._internal.validation import one_of

CONFIG = Path(str(files("xsub_utils"))) / "study" / "configs"


def read_study(given: dict, contents: dict[str, dict], notebooks: Path) -> dict:
    """The study's YAML file with what the command line adds to it, checked.

    Args:
        given: The command line's values: `study`, a name or the path of a YAML file; `data`; and any others that
            replace the file's.
        contents: The notebooks known, by name, each with the parameters that it is split over.
        notebooks: The folder in which they lie.

    Raises:
        ValueError: If a name is unknown, or a value is missing or of the wrong kind.
        FileNotFoundError: If a notebook or the data are not there.
    """
    file = config_file(str(given["study"]))
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    update_config(study, given | {"study": file.stem})
    _check_schema(study)
    _check_notebooks(study, contents)
    _check_parameters(study, notebooks)
    _check_data(study)
    return study


def config_file(study: str) -> Path:
    """The YAML file of a study: one of the package's by its name, or your own by its path.

    Raises:
        ValueError: If the name is unknown, or the file cannot name a study.
        FileNotFoundError: If there is no such file.
    """
    if not study.endswith((".yaml", ".yml")):
        names = [path.stem for path in CONFIG.glob("*.yaml") if path.stem != "schema"]
        _refuse_unknown("study", [study], names)
        return CONFIG / f"{study}.yaml"
    file = Path(study).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"study: expected a YAML file, got {study!r}, which is not there")
    return file


def values_of(study: dict, notebook: str) -> dict:
    """What the study says for a notebook: the common parameters, where the data lie, the notebook's own values."""
    data = {"data": str(Path(study["data"]).resolve())} if study.get("data") else {}
    return study["parameters"] | data | study.get("overrides", {}).get(notebook, {})


def _check_schema(study: dict) -> None:
    schema = yaml.safe_load((CONFIG / "schema.yaml").read_text())
    try:
        fastjsonschema.compile(schema)(study)
    except fastjsonschema.JsonSchemaValueException as error:
        name = f"study {study['study']}"
        if error.rule == "additionalProperties":
            place = error.name.replace("data", name, 1)
            _refuse_unknown(f"key in {place}", error.value, error.definition["properties"])
        raise ValueError(f"{error.message.replace('data', name, 1)}; it is {error.value!r}") from None


def _check_notebooks(study: dict, contents: dict[str, dict]) -> None:
    _refuse_unknown("notebook", study["notebooks"], contents)
    _refuse_unknown("notebook in overrides", study.get("overrides", {}), study["notebooks"])
    for notebook in study["notebooks"]:
        for name in contents[notebook]["over"]:
            if name not in values_of(study, notebook):
                raise ValueError(f"study {study['study']} lacks {name!r}, which {notebook} is split over")


def _check_parameters(study: dict, notebooks: Path) -> None:
    """Each override must be a parameter of its notebook, and each common value one of some notebook."""
    declared = {name: parameter_names(notebooks / f"{name}.ipynb") for name in study["notebooks"]}
    _refuse_unknown("parameter", study["parameters"], {name for names in declared.values() for name in names})
    for notebook, values in study.get("overrides", {}).items():
        _refuse_unknown(f"parameter of {notebook}", values, declared[notebook])


def _check_data(study: dict) -> None:
    local, data = study["parameters"].get("source") == "local", study.get("data")
    if local and not data:
        raise ValueError(f"study {study['study']} reads local files; say which: DATA=folder")
    if data and not local:
        raise ValueError(f"study {study['study']} reads no local files, but DATA={data}; another STUDY?")
    if data and not Path(data).exists():
        raise FileNotFoundError(f"DATA={data}: no such file or folder")


def _refuse_unknown(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        one_of(what, name, sorted(known))
