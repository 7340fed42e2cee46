"""Configurations of studies: by name or by path, with other values put in, read strictly."""

import pytest
import yaml

from xsub_utils.study import config
from xsub_utils.study.config import check_notebooks, read_config, study_names, values_of

OVER = {"01_finetune": ["tasks", "seeds"], "02_prune": ["tasks", "seeds"]}
NAMES = ["source", "data", "own_tasks", "tasks", "languages", "seeds", "pool"]
PARAMETERS = {notebook: dict.fromkeys(NAMES) for notebook in OVER}
TINY = {
    "notebooks": list(OVER),
    "parameters": {"source": "minibabel", "tasks": ["nli"], "languages": ["qaa"], "seeds": [0, 1]},
    "overrides": {"02_prune": {"seeds": [0]}},
}


@pytest.fixture
def own(tmp_path):
    """Writes a study of one's own, and gives its path."""

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(config.updated(TINY, changes)))
        return str(path)

    return write


@pytest.mark.parametrize("name", study_names())
def test_every_study_of_the_package_is_read_by_its_name(name, tmp_path):
    local = yaml.safe_load(config.config_file(name).read_text())["parameters"]["source"] == "local"
    study = read_config(name, {"data": str(tmp_path)} if local else {})
    assert study["study"] == name


def test_a_study_of_ones_own_is_read_by_its_path(own):
    study = read_config(own())
    assert study == TINY | {"study": "tiny"}
    assert values_of(study, "01_finetune")["seeds"] == [0, 1] and values_of(study, "02_prune")["seeds"] == [0]


def test_changes_replace_single_values(own):
    study = read_config(own(), {"parameters": {"tasks": ["ner"]}})
    assert study["parameters"] == TINY["parameters"] | {"tasks": ["ner"]}


def test_notebooks_are_told_of_data_and_own_tasks(own, tmp_path):
    topic = {"topic": {"kind": "sequence", "labels": ["travel", "sports"]}}
    study = read_config(own(parameters={"source": "local"}, own_tasks=topic), {"data": str(tmp_path)})
    told = values_of(study, "01_finetune")
    assert (told["data"], told["own_tasks"]) == (str(tmp_path), topic)
    assert not {"data", "own_tasks"} & values_of(read_config(own()), "01_finetune").keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dota": "x"}, "key in study tiny: expected one of .* did you mean 'data'"),
        ({"parameters": {"langages": ["qaa"]}}, "key in study tiny.parameters: .* did you mean 'languages'"),
        (
            {"parameters": {"seeds": [-1]}},
            r"study tiny.parameters.seeds\[0\]: expected bigger .*, got -1",
        ),
        ({"data": "somewhere"}, "DATA: expected none for study tiny"),
        ({"parameters": {"source": "local"}}, "DATA: expected the folder of the local files"),
        ({"own_tasks": {"topic": {"kind": "sequence"}}}, "own_tasks: expected none for source 'minibabel'"),
        (
            {"parameters": {"source": "hub"}, "own_tasks": {"topic": {"kind": "sequence"}}},
            r"own_tasks\['topic'\], labels: expected the names of at least two classes",
        ),
    ],
)
def test_wrong_values_are_refused(own, changes, message):
    with pytest.raises(ValueError, match=message):
        read_config(own(**changes))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="study: expected a YAML file"):
        read_config(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"study: expected one of .* did you mean 'smoke'"):
        read_config("smoky")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"notebooks": ["01_finetun"]}, "notebook: expected one of .* did you mean '01_finetune'"),
        ({"notebooks": ["01_finetune"]}, "notebook in overrides: expected one of 01_finetune, got '02_prune'"),
        ({"parameters": {"epochs": 1}}, "parameter: expected one of"),
        ({"overrides": {"02_prune": {"epochs": 1}}}, "parameter of 02_prune: expected one of"),
    ],
)
def test_notebooks_and_their_parameters_are_checked(own, changes, message):
    check_notebooks(read_config(own()), OVER, PARAMETERS)
    with pytest.raises(ValueError, match=message):
        check_notebooks(read_config(own(**changes)), OVER, PARAMETERS)


def test_what_a_notebook_is_split_over_is_needed(own):
    study = read_config(own())
    del study["parameters"]["tasks"]
    with pytest.raises(ValueError, match="study tiny: expected a value for 'tasks', which 01_finetune is split over"):
        check_notebooks(study, OVER, PARAMETERS)
